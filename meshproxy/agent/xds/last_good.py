"""What control planes said last, on disk: a node that boots while they are away starts from it.

One file for each kind of resource, in the state directory, as the resources came (they are read and checked again like any). The files are
the user's alone, because secrets are among them. A file is written anew and then renamed, so a crash leaves the one before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import gevent
import msgspec

from meshproxy.master.journal import Journal

WAIT_S = 1.0
"""After a change, before it is written: changes come in bursts."""
FORMAT = 1


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One resource: the bytes of its Any's value."""

    name: str
    version: str
    value: bytes


class KeptKind(msgspec.Struct, frozen=True):
    """A file."""

    format: int
    node: str
    """The node's id: what was said to another node is of no use."""
    type_url: str
    resources: list[Kept]


InThread = Callable[[Callable[[], None]], None]


class LastGood:
    """`directory` "" = nothing is kept. `in_thread` runs a function where it may wait for a disk."""

    def __init__(self, directory: str, node: str, journal: Journal, in_thread: InThread | None = None) -> None:
        self._directory = directory
        self._node = node
        self._journal = journal
        self._in_thread = in_thread or _pooled
        self._kinds: dict[str, dict[str, Kept]] = {}
        self._dirty: set[str] = set()
        self._writing: gevent.Greenlet | None = None
        self._failed = False

    def load(self, type_url: str) -> dict[str, Kept]:
        """By name; {} without a file, and for one that is no use, which is told."""
        if type_url not in self._kinds:
            self._kinds[type_url] = {each.name: each for each in self._read(type_url)}
        return self._kinds[type_url]

    def put(self, type_url: str, kept: Iterable[Kept], removed: Iterable[str] = ()) -> None:
        """These were accepted."""
        resources = self.load(type_url)
        for name in removed:
            resources.pop(name, None)
        resources.update((each.name, each) for each in kept)
        self._dirty.add(type_url)
        if self._directory and self._writing is None:
            self._writing = gevent.spawn_later(WAIT_S, self._write_soon)

    def write(self) -> None:
        """What is not written yet, now."""
        dirty, self._dirty = self._dirty, set()
        for type_url in dirty:
            if self._directory:
                self._write(type_url, list(self._kinds[type_url].values()))

    def _write_soon(self) -> None:
        while self._dirty:
            self._in_thread(self.write)
            gevent.sleep(WAIT_S)
        self._writing = None

    def _read(self, type_url: str) -> list[Kept]:
        if not self._directory:
            return []
        path = self._path(type_url)
        try:
            with open(path, "rb") as file:
                found = msgspec.msgpack.decode(file.read(), type=KeptKind)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            self._journal.warning("last known good cannot be read", path=path, error=error)
            return []
        if (found.format, found.node, found.type_url) != (FORMAT, self._node, type_url):
            self._journal.warning("last known good is of another node", path=path, node=found.node)
            return []
        return found.resources

    def _write(self, type_url: str, resources: list[Kept]) -> None:
        path = self._path(type_url)
        data = msgspec.msgpack.encode(KeptKind(FORMAT, self._node, type_url, resources))
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                os.fchmod(fd, 0o600)
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.replace(f"{path}.new", path)
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._journal.error("last known good cannot be written", path=path, error=error.strerror)

    def _path(self, type_url: str) -> str:
        return os.path.join(self._directory, "xds", type_url.rpartition(".")[2])


def _pooled(write: Callable[[], None]) -> None:
    gevent.get_hub().threadpool.apply(write)
