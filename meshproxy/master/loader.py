"""Reading a configuration in a child of its own: what it imports (YAML, protobuf) and what it allocates go with it."""

from __future__ import annotations

import gc
import os
import select
import signal
from collections.abc import Mapping

import msgspec

from meshproxy import priority
from meshproxy.errors import ConfigError, Problem
from meshproxy.ipc.messages import NodeSettings
from meshproxy.master.signals import become_deaf
from meshproxy.master.spawn import close_others, resolve
from meshproxy.model import Process, Resource, Snapshot
from meshproxy.model.snapshot import resources_of

LIMIT_S = 60.0
"""10,000 routes take about a second; a file system that hangs takes for ever."""
READ_BYTES = 1 << 20
LOOK_MS = 50
"""Between looks whether a first load still gives way to others."""


class Loaded(msgspec.Struct, tag=True):
    """A configuration that was accepted."""

    resources: list[Resource]
    settings: NodeSettings
    process: Process
    warnings: list[Problem] = []
    """What its author should know: settings that have no effect, for one."""


class Refused(msgspec.Struct, tag=True):
    """One that was not; `problems` is never empty."""

    problems: list[Problem]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Loaded | Refused)


class Loader:
    """A load under way. `fileno()` is readable while there is something for `read`, which gives the result once it is whole.

    `idle`: it runs only while nobody else wants the processor, so the workers are not held up; on a busy host it may never end.
    """

    def __init__(self, entry: str, path: str, env: Mapping[str, str], deadline_s: float, *, idle: bool = False) -> None:
        self.deadline_s = deadline_s
        self.idle = idle
        self._path = path
        self._chunks: list[bytes] = []
        self._read_end, write_end = os.pipe()
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            _be_loader(entry, path, env, write_end, idle)
        os.close(write_end)

    def fileno(self) -> int:
        return self._read_end

    def read(self) -> Loaded | Refused | None:
        """Blocks for the next piece; None = more is to come. After a result the pipe is closed; the child is for the owner to reap."""
        if chunk := os.read(self._read_end, READ_BYTES):
            self._chunks.append(chunk)
            return None
        os.close(self._read_end)
        self._read_end = -1
        try:
            return _decoder.decode(b"".join(self._chunks))
        except msgspec.MsgspecError:
            return self._failed("the loader died before it had read the file; the node's log on stderr tells more")

    def give_up(self) -> Refused:
        """The time is over."""
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._read_end)
        self._read_end = -1
        return self._failed(f"not read within {LIMIT_S:g} s. Is its file system there?")

    def _failed(self, message: str) -> Refused:
        return Refused([Problem(message, file=self._path)])


def load_now(entry: str, path: str, env: Mapping[str, str]) -> Loaded | Refused:
    """The first configuration, before there is a loop. When this process gives way to others, its loader does, for as long as it does."""
    lenient = priority.is_idle()
    loader = Loader(entry, path, env, 0)
    poll = select.poll()
    poll.register(loader, select.POLLIN)
    result = None
    while result is None:
        if poll.poll(LOOK_MS):
            result = loader.read()
        elif lenient and not priority.is_idle():
            lenient = False
            priority.lift(loader.pid)
    os.waitpid(loader.pid, 0)
    return result


def _be_loader(entry: str, path: str, env: Mapping[str, str], write_end: int, idle: bool) -> None:
    """Never returns."""
    code = 1
    try:
        if idle:
            priority.give_way()
        close_others({0, 1, 2, write_end})
        become_deaf()
        # Nothing is freed here before the exit, so collecting is only lost time: 2 s of 3.5 for a large file.
        gc.disable()
        data = _encoder.encode(_load(entry, path, env))
        while data:
            data = data[os.write(write_end, data) :]
        code = 0
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _load(entry: str, path: str, env: Mapping[str, str]) -> Loaded | Refused:
    try:
        found = resolve(entry)(path, env)
    except ConfigError as error:
        return Refused(error.problems)
    snapshot: Snapshot = found.snapshot
    settings = NodeSettings(
        node=snapshot.node, stats=snapshot.stats, admin=snapshot.admin, log_level=snapshot.log_level, dynamic=snapshot.dynamic,
        consul=snapshot.consul,
    )
    return Loaded(resources_of(snapshot), settings, snapshot.process, found.warnings)
