"""Watches the sources of found clusters, each in a greenlet of its own; the master gets what `discovery.merge` tells."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import gevent
from gevent import Greenlet
from gevent.event import Event

from meshproxy.clock import monotonic_s
from meshproxy.discovery.merge import Merge
from meshproxy.discovery.sources import source_of
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, Endpoint, EndpointSet, Source
from meshproxy.model.discovery import source_name

AGAIN_S = 5.0
"""A source that broke by a mistake of ours is watched anew after that."""


class AgentClock:
    """The process's."""

    def now_s(self) -> float:
        return monotonic_s()

    def sleep(self, seconds: float) -> None:
        gevent.sleep(seconds)

    def random(self) -> float:
        return random.random()


class SourceState(NamedTuple):
    """A source for pages. `age_s`: since its last good answer, or since it was asked first; `error` "" = the last try was good."""

    name: str
    endpoints: int
    age_s: float
    error: str


class _Watched:
    """One cluster: what is known, and who watches. A source's greenlet finds its present merge here."""

    def __init__(self, merge: Merge) -> None:
        self.merge = merge
        self.watching: dict[Source, Greenlet] = {}


class Finding:
    """Keeps found clusters up to date. `publish` gets each changed endpoint set; `ended` hears of each answer or failure after that."""

    def __init__(
        self, publish: Callable[[EndpointSet], None], journal: Journal, ended: Callable[[], None] = lambda: None,
        make: Callable[[Source], object] = source_of,
    ) -> None:
        self._publish = publish
        self._journal = journal
        self._ended = ended
        self._make = make
        self._clock = AgentClock()
        self._watched: dict[str, _Watched] = {}
        self._due = Event()

    def watch(self, clusters: Iterable[tuple[Cluster, EndpointSet | None]]) -> None:
        """These are new or changed; beside each what the node has of it already."""
        for cluster, told in clusters:
            if cluster.discovery == "found":
                self._put(cluster, told)
            else:
                self.forget([cluster.name])

    def forget(self, clusters: Iterable[str]) -> None:
        """These are gone."""
        for name in clusters:
            watched = self._watched.pop(name, None)
            if watched is not None:
                for greenlet in watched.watching.values():
                    greenlet.kill(block=False)

    def run(self) -> None:
        """For ever, in a greenlet of its own: tells what becomes due by time alone. Costs nothing without found clusters."""
        while True:
            self._due.clear()
            times = [due_s for watched in self._watched.values() if (due_s := watched.merge.due_s()) is not None]
            self._due.wait(max(min(times) - monotonic_s(), 0.0) if times else None)
            now_s = monotonic_s()
            for watched in list(self._watched.values()):
                due_s = watched.merge.due_s()
                if due_s is not None and due_s <= now_s:
                    self._tell(watched.merge)
            self._ended()

    def is_warm(self) -> bool:
        """Whether every source that the node waits for was answered or failed once."""
        return all(watched.merge.is_warm() for watched in self._watched.values())

    def is_warm_of(self, cluster: str) -> bool:
        """The same of one cluster's sources; True of one that is not found."""
        watched = self._watched.get(cluster)
        return watched is None or watched.merge.is_warm()

    def clusters(self) -> list[str]:
        """Whose sources are watched, by name."""
        return sorted(self._watched)

    def states(self, cluster: str) -> list[SourceState]:
        """The sources of a cluster; [] of one that has none."""
        watched, now_s = self._watched.get(cluster), monotonic_s()
        if watched is None:
            return []
        standings = watched.merge.standings.items()
        return [SourceState(source_name(source), len(each.good), now_s - each.answered_s, each.error) for source, each in standings]

    def counters(self) -> dict[str, int]:
        """By metric name."""
        counted = {}
        for watched in self._watched.values():
            standings = watched.merge.standings.values()
            prefix = f"cluster.{watched.merge.cluster.stat_name}"
            attempts, failures = sum(each.attempts for each in standings), sum(each.failures for each in standings)
            counted[f"{prefix}.update_attempt"] = attempts
            counted[f"{prefix}.update_failure"] = failures
            counted[f"{prefix}.update_success"] = attempts - failures
            counted[f"{prefix}.update_empty"] = sum(each.empties for each in standings)
        return counted

    def gauges(self) -> dict[str, int]:
        """By metric name."""
        now_s = monotonic_s()
        return {
            f"cluster.{each.merge.cluster.stat_name}.update_age": int(each.merge.age_s(now_s)) for each in self._watched.values()
        }

    def _put(self, cluster: Cluster, told: EndpointSet | None) -> None:
        watched = self._watched.get(cluster.name)
        if watched is not None and watched.merge.cluster == cluster:
            return
        merge = Merge(cluster, monotonic_s(), told, watched.merge if watched is not None else None)
        if watched is None:
            watched = self._watched[cluster.name] = _Watched(merge)
        watched.merge = merge
        for source in [each for each in watched.watching if each not in merge.standings]:
            watched.watching.pop(source).kill(block=False)
        for source in merge.standings:
            if source not in watched.watching:
                watched.watching[source] = gevent.spawn(self._watch, _Sink(self, watched, source), source)
        self._tell(merge)
        self._due.set()

    def _watch(self, sink: _Sink, source: Source) -> None:
        while True:
            try:
                self._make(source).watch(sink, self._clock)  # type: ignore[attr-defined]
            except Exception as error:
                # One source's mistake must not end the agent, which all others need.
                sink.failed(f"{type(error).__name__}: {error}")
            self._clock.sleep(AGAIN_S)

    def took(self, merge: Merge) -> None:
        """A source said something."""
        self._tell(merge)
        self._due.set()
        self._ended()

    def _tell(self, merge: Merge) -> None:
        changed = merge.change(monotonic_s())
        if changed is not None:
            self._journal.info("endpoints changed", cluster=changed.cluster, endpoints=len(changed.endpoints))
            self._publish(changed)

    def note(self, event: str, merge: Merge, source: Source, **fields: object) -> None:
        """For operators."""
        kept = f"last endpoints for {merge.cluster.keep_last_s:g} s"
        self._journal.warning(event, cluster=merge.cluster.name, source=source_name(source), **fields, kept=kept)


class _Sink:
    """Where one source of one cluster speaks to."""

    def __init__(self, finding: Finding, watched: _Watched, source: Source) -> None:
        self._finding = finding
        self._watched = watched
        self._source = source

    @property
    def cluster(self) -> str:
        """Whose it is."""
        return self._watched.merge.cluster.name

    def found(self, endpoints: tuple[Endpoint, ...]) -> None:
        merge = self._watched.merge
        if merge.found(self._source, endpoints, monotonic_s()):
            self._finding.note("source has no endpoints any more", merge, self._source)
        self._finding.took(merge)

    def unchanged(self) -> None:
        self._watched.merge.unchanged(self._source, monotonic_s())

    def failed(self, error: str) -> None:
        merge = self._watched.merge
        if merge.failed(self._source, error, monotonic_s()):
            self._finding.note("source failed", merge, self._source, error=error)
        self._finding.took(merge)
