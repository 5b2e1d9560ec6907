"""What several sources say, made into the endpoints of one cluster. Decides, and does no I/O.

A source that fails, or has no endpoints any more, counts with the last that it had for `keep_last_s`: a registry that lost its data
or a folder that is being replaced must not empty a cluster at once. Changes are told `debounce_s` apart at least; the first one after
a quiet time is told at once.
"""

from __future__ import annotations

from meshproxy.model import Cluster, EdsSource, Endpoint, EndpointSet, Source


class Standing:
    """How one source stands."""

    def __init__(self, now_s: float, good: tuple[Endpoint, ...], is_master: bool = False) -> None:
        self.good = good
        """What counts."""
        self.is_master = is_master
        """It is a control plane, whose last word holds for as long as it has no other."""
        self.held_since_s: float | None = now_s if good and not is_master else None
        """`good` is only what was before, since then."""
        self.inherited = True
        """`good` is from before anybody asked, and of all sources together."""
        self.answered_s = now_s
        """When it said last what there is; before the first time, when it was asked first."""
        self.is_known = False
        """It was answered or failed once."""
        self.attempts = self.failures = self.empties = 0
        self.error = ""
        """Why it failed at the last try; "" = it did not."""


class Merge:
    """One cluster's sources. Events go in, `change` gives what is to be told, `due_s` says when to ask without an event."""

    def __init__(self, cluster: Cluster, now_s: float, told: EndpointSet | None = None, old: Merge | None = None) -> None:
        """`told`: what the node has of it already. `old`: of the cluster's former form; sources in both stand as they stood."""
        self.cluster = cluster
        self._told = old._told if old is not None else told
        self._told_s: float | None = old._told_s if old is not None else None
        before = self._told.endpoints if self._told is not None else ()
        kept = old.standings if old is not None else {}
        self.standings = {each: kept.get(each) or Standing(now_s, before, isinstance(each, EdsSource)) for each in cluster.sources}
        self._put_together()

    def found(self, source: Source, endpoints: tuple[Endpoint, ...], now_s: float) -> bool:
        """A whole set; gives whether the source is empty against what it was."""
        standing = self._answered(source, now_s)
        if endpoints:
            standing.good, standing.held_since_s = endpoints, None
        else:
            standing.empties += 1
            if standing.inherited and len(self.standings) > 1:
                # It was perhaps never this source's, and the others say what of it is still there.
                standing.good, standing.held_since_s = (), None
            elif standing.good and standing.held_since_s is None:
                standing.held_since_s = now_s
        standing.inherited = False
        self._put_together()
        return not endpoints and bool(standing.good)

    def unchanged(self, source: Source, now_s: float) -> None:
        """It says what it said before."""
        self._answered(source, now_s)

    def failed(self, source: Source, error: str, now_s: float) -> bool:
        """No answer, or none that can be used; gives whether it was well before."""
        standing = self.standings[source]
        first = not standing.error
        standing.is_known, standing.error = True, error
        standing.attempts += 1
        standing.failures += 1
        if standing.good and standing.held_since_s is None and not standing.is_master:
            standing.held_since_s = now_s
        return first

    def _answered(self, source: Source, now_s: float) -> Standing:
        standing = self.standings[source]
        standing.is_known, standing.error, standing.answered_s = True, "", now_s
        standing.attempts += 1
        return standing

    def change(self, now_s: float) -> EndpointSet | None:
        """The endpoints when they differ from those told and may be told now; the caller tells them."""
        for standing in self.standings.values():
            if standing.held_since_s is not None and now_s >= standing.held_since_s + self.cluster.keep_last_s:
                standing.good, standing.held_since_s = (), None
                self._put_together()
        now = self._now()
        if now is None or (self._told_s is not None and now_s < self._told_s + self.cluster.debounce_s):
            return None
        self._told, self._told_s = now, now_s
        return now

    def due_s(self) -> float | None:
        """When `change` may have something without an event before; None = never."""
        times = [each.held_since_s + self.cluster.keep_last_s for each in self.standings.values() if each.held_since_s is not None]
        if self._told_s is not None and self._now() is not None:
            times.append(self._told_s + self.cluster.debounce_s)
        return min(times, default=None)

    def is_warm(self) -> bool:
        """Whether each source was answered or failed once and what they said is told, or the node is not to wait for it."""
        return not self.cluster.wait_for_warm or (all(each.is_known for each in self.standings.values()) and self._now() is None)

    def age_s(self, now_s: float) -> float:
        """Since the source that is the longest without a good answer had its last."""
        return max((now_s - each.answered_s for each in self.standings.values()), default=0.0)

    def _put_together(self) -> None:
        """Whenever what counts has changed; many look at it in between. The first source that has an address says how it is."""
        merged: dict[str, Endpoint] = {}
        for standing in self.standings.values():
            for endpoint in standing.good:
                merged.setdefault(str(endpoint.address), endpoint)
        self._merged = EndpointSet(cluster=self.cluster.name, endpoints=tuple(merged.values()))

    def _now(self) -> EndpointSet | None:
        """What there is, if it is another than was told."""
        now = self._merged
        if now is self._told or now == self._told:
            return None
        answered = self._told is not None or now.endpoints or any(each.attempts > each.failures for each in self.standings.values())
        return now if answered else None
