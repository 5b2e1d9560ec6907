"""What both forms of the protocol share: one control plane's stream with several kinds on it, without I/O and without a clock.

Events go in (`opened`, `closed`, `received`, watches, time) and requests come out (`take`). It lives as long as somebody watches: versions
and names outlive the gRPC stream. The order of requests is Envoy 1.40's: what a handler asks for leaves before the answer to the response
that it handles; all changes that it makes to one kind are one request; a kind whose requests are paused gets them when they go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from meshproxy.discovery.xds.kinds import CDS, LDS, short
from meshproxy.discovery.xds.watch import Errors, Item, Update, Watch

DETAIL_AT_MOST = 4096
"""Characters of an `error_detail`, as with Envoy: servers put it into their logs."""
NEVER = float("inf")


class Subscribed:
    """One kind on the stream."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.watches: list[Watch] = []
        self.by_name: dict[str, list[Watch]] = {}
        """Of the watches in names."""
        self.wild: list[Watch] = []
        """Watches of everything."""
        self.pauses = 0
        self.pending = False
        """There is something to say."""
        self.lives_until_s: dict[str, float] = {}
        """Resources with a time to live."""
        self.last: dict[str, Item] = {}
        """Of names that the server knows to be wanted, what came last: a server does not say again what another watch has already got."""

    def know(self, versions: Mapping[str, str]) -> None:
        """These are in force already."""

    @property
    def names(self) -> list[str]:
        """Of all watches in names, the first asked for first."""
        return list(self.by_name)

    def add(self, watch: Watch) -> None:
        self.watches.append(watch)
        if watch.names is None:
            self.wild.append(watch)
        for name in sorted(watch.names or ()):
            self.by_name.setdefault(name, []).append(watch)

    def remove(self, watch: Watch) -> None:
        self.watches.remove(watch)
        if watch.names is None:
            self.wild.remove(watch)
        for name in watch.names or ():
            self._unname(name, watch)

    def rename(self, watch: Watch, names: set[str]) -> None:
        assert watch.names is not None
        for name in watch.names - names:
            self._unname(name, watch)
        for name in sorted(names - watch.names):
            self.by_name.setdefault(name, []).append(watch)
        watch.names = names

    def _unname(self, name: str, watch: Watch) -> None:
        of_name = self.by_name[name]
        of_name.remove(watch)
        if not of_name:
            del self.by_name[name]
            self.lives_until_s.pop(name, None)


class XdsStream:
    """The part that is the same for state of the world and delta. `make_kind` makes what a form keeps of a kind.

    `note` gets an event and its fields for the log.
    """

    make_kind: Callable[[str], Any] = Subscribed

    def __init__(self, node: Any, first_node_only: bool, note: Callable[..., None] = lambda event, **fields: None) -> None:
        self._node = node
        self._first_node_only = first_node_only
        self._note = note
        self._kinds: dict[str, Any] = {}
        """In the order in which they were asked for first."""
        self._queue: deque[Any] = deque()
        self._out: list[Any] = []
        self._known: list[tuple[Any, Watch, list[Item]]] = []
        """What new watches want and others have already; told at the next `tick`, which is due at once."""
        self._connected = False
        self._node_said = False
        self._handling = 0
        self._unasked: set[str] = set()
        """Types that came although nobody asked: each is noted once for a stream."""

    # ---- interest ----

    def watch(self, type_url: str, watch: Watch, now_s: float, known: Mapping[str, str] = MappingProxyType({})) -> None:
        """Ask for what the watch wants. `known`: versions that are in force already; a new delta stream is told of them."""
        kind = self._kind(type_url)
        kind.know(known)
        kind.add(watch)
        self._expect(kind, watch, watch.names, now_s)
        self._interest_changed(kind, True)
        self._drain()

    def set_names(self, type_url: str, watch: Watch, names: set[str], now_s: float) -> None:
        """The watch wants these from now on."""
        assert watch.names is not None, "a watch of everything has no names"
        if names == watch.names:
            return
        new = names - watch.names
        for name in watch.names - names:
            watch.waiting.pop(name, None)
        kind = self._kinds[type_url]
        kind.rename(watch, set(names))
        self._expect(kind, watch, new, now_s)
        self._interest_changed(kind, False)
        self._drain()

    def cancel(self, type_url: str, watch: Watch) -> None:
        """Nobody waits for it any more."""
        kind = self._kinds[type_url]
        kind.remove(watch)
        watch.waiting.clear()
        self._interest_changed(kind, False)
        self._drain()

    def pause(self, type_url: str) -> None:
        """Hold back the requests of a kind, answers too: the server then sends no more of it. Each pause needs its `resume`."""
        self._kind(type_url).pauses += 1

    def resume(self, type_url: str) -> None:
        self._kind(type_url).pauses -= 1
        self._drain()

    def _kind(self, type_url: str) -> Any:
        kind = self._kinds.get(type_url)
        if kind is None:
            kind = self._kinds[type_url] = self.make_kind(type_url)
        return kind

    def _expect(self, kind: Any, watch: Watch, names: set[str] | None, now_s: float) -> None:
        watch.expect([""] if names is None else names, now_s)
        known = [kind.last[name] for name in sorted(names or ()) if name in kind.last]
        if known:
            self._known.append((kind, watch, known))

    @property
    def is_idle(self) -> bool:
        """Nobody watches anything."""
        return not any(kind.watches for kind in self._kinds.values())

    def watches(self) -> list[tuple[str, Watch]]:
        """(type URL, watch) of all."""
        return [(url, watch) for url, kind in self._kinds.items() for watch in kind.watches]

    # ---- the gRPC stream ----

    def opened(self) -> None:
        """A stream is there: everything is asked for anew."""
        self._connected, self._node_said = True, False
        self._queue.clear()
        self._unasked.clear()
        for kind in self._kinds.values():
            self._restart(kind)
        self._drain()

    def closed(self, error: str) -> None:
        """The stream broke, or could not be made."""
        self._connected = False
        self._out.clear()
        self._queue.clear()
        for _, watch in self.watches():
            watch.counts.failed()
            watch.on_failed(error)

    def received(self, response: Any, now_s: float, unix_s: float) -> None:
        """A message of the server. Watches are told, and what is to be said to it is ready afterwards."""
        kind = self._kinds.get(response.type_url)
        if kind is None:
            self._unasked_for(response.type_url)
            return
        self._handling += 1
        try:
            self._handle(kind, response, now_s, unix_s)
        finally:
            self._handling -= 1
        self._drain(last=kind)

    def take(self) -> list[Any]:
        """The requests to send now, in order."""
        out, self._out = self._out, []
        return out

    # ---- time ----

    def due_s(self) -> float:
        """When `tick` has something to do; infinity = never."""
        if self._known:
            return 0.0
        times = [watch.due_s() for kind in self._kinds.values() for watch in kind.watches]
        times += [until_s for kind in self._kinds.values() for until_s in kind.lives_until_s.values()]
        return min(times, default=NEVER)

    def tick(self, now_s: float, unix_s: float) -> None:
        """Tell of what did not come in time, and of what lived its time."""
        self._handling += 1
        try:
            known, self._known = self._known, []
            for kind, watch, items in known:
                if watch in kind.watches and any(item.name in watch.waiting for item in items):
                    watch.tell(Update(items, [], False, items[0].version), unix_s)
            for kind in list(self._kinds.values()):
                for watch in list(kind.watches):
                    watch.tick(now_s)
                dead = [name for name, until_s in kind.lives_until_s.items() if until_s <= now_s]
                if dead:
                    self._expire(kind, dead, unix_s)
        finally:
            self._handling -= 1
        self._drain()

    # ---- of each form ----

    def _interest_changed(self, kind: Any, is_new: bool) -> None:
        raise NotImplementedError

    def _restart(self, kind: Any) -> None:
        raise NotImplementedError

    def _handle(self, kind: Any, response: Any, now_s: float, unix_s: float) -> None:
        raise NotImplementedError

    def _expire(self, kind: Any, names: list[str], unix_s: float) -> None:
        raise NotImplementedError

    def _requests(self, kind: Any) -> list[Any]:
        """What is to be said about a kind now; asked when its turn has come."""
        raise NotImplementedError

    # ---- sending ----

    def _want(self, kind: Any) -> None:
        """There is something to say about it."""
        if not kind.pending:
            kind.pending = True
            self._queue.append(kind)

    def _drain(self, last: Any = None) -> None:
        """Make the requests of what waits for its turn; `last` after all others."""
        if not self._connected or self._handling:
            return
        waiting, self._queue = self._queue, deque()
        if last is not None and last in waiting:
            waiting.remove(last)
            waiting.append(last)
        for kind in waiting:
            if kind.pauses:
                self._queue.append(kind)
                continue
            kind.pending = False
            for name in kind.last.keys() - kind.by_name.keys():
                del kind.last[name]
            for request in self._requests(kind):
                if not (self._node_said and self._first_node_only):
                    request.node.CopyFrom(self._node)
                    self._node_said = True
                self._out.append(request)

    def _unasked_for(self, type_url: str) -> None:
        if type_url not in self._unasked and len(self._unasked) < 100:
            self._unasked.add(type_url)
            self._note("resources that nobody asked for are passed over", type=type_url)


def detail(type_url: str, errors: Errors) -> str:
    """The text of a refusal: who, and what is wrong with each."""
    if type_url == CDS.type_url:
        text = "Error adding/updating cluster(s) " + ", ".join(f"{name}: {error}" for name, error in errors.items())
    elif type_url == LDS.type_url:
        text = "Error adding/updating listener(s) " + "".join(f"{name}: {error}\n" for name, error in errors.items())
    else:
        text = "; ".join(error if not name or name in error else f"{name}: {error}" for name, error in errors.items())
    return text if len(text) <= DETAIL_AT_MOST else text[: DETAIL_AT_MOST - 3] + "..."


def duplicate(type_url: str, name: str) -> str:
    """Of a name that a response has twice."""
    word = {CDS.type_url: "cluster", LDS.type_url: "listener"}.get(type_url, short(type_url))
    return f"duplicate {word} {name} found"
