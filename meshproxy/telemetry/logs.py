"""Where access log lines end up: files, the agent's stdout and stderr, syslog. Only the agent writes them.

Nothing here waits. A sink that cannot take lines (disk full, a pipe that nobody reads, no syslogd) loses them, counts them and says so
once a minute; it takes lines again as soon as it can.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from typing import Protocol

from meshproxy.clock import unix_s
from meshproxy.model import AccessLog

COMPLAIN_EVERY_S = 60.0
REOPEN_EVERY_S = 1.0
MOST_DATAGRAM_BYTES = 8192
"""rsyslog's default for a message; a longer line is cut there."""
MOST_PENDING_BYTES = 1 << 20
"""Held for a reader of stdout that is slow."""
PIPE_CHUNK_BYTES = 4096
"""PIPE_BUF: a pipe that polls writable takes so much without waiting."""
FILE_MODE = 0o644
_STANDARD = {"stdout": 1, "stderr": 2, "/dev/stdout": 1, "/dev/stderr": 2, "/proc/self/fd/1": 1, "/proc/self/fd/2": 2}

FACILITIES = {
    name: code
    for code, name in enumerate(
        "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert clock "
        "local0 local1 local2 local3 local4 local5 local6 local7".split()
    )
}
SEVERITY_INFO = 6


class Target(Protocol):
    """`write` takes whole lines and returns how many of them were lost, with the reason."""

    name: str

    def write(self, data: bytes | bytearray) -> tuple[int, str]: ...
    def reopen(self) -> str: ...
    def close(self) -> None: ...


class FileTarget:
    """A file that is appended to. It is made when absent; its directory is not."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._fd = -1
        self._torn = False
        self._next_open_s = 0.0
        self._reason = self.reopen()

    def reopen(self) -> str:
        """The file that has the name now (after a rotation). Why not, if not: then the file before stays."""
        try:
            # Not blocking, for a FIFO without a reader; a regular file does not care.
            fd = os.open(self.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, FILE_MODE)
        except OSError as error:
            return error.strerror
        self.close()
        self._fd, self._torn = fd, False
        return ""

    def write(self, data: bytes | bytearray) -> tuple[int, str]:
        if self._fd < 0 and (reason := self._open_again()):
            return _lines(data), reason
        rest = memoryview(b"\n" + data if self._torn else data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
                self._torn = False
        except OSError as error:
            # What is written of a line cannot be taken back: the next line begins on a new one.
            self._torn = len(rest) < len(data) and bytes(data[len(data) - len(rest) - 1 : len(data) - len(rest)]) != b"\n"
            return _lines(rest), error.strerror
        return 0, ""

    def _open_again(self) -> str:
        if (now_s := unix_s()) >= self._next_open_s:
            self._next_open_s = now_s + REOPEN_EVERY_S
            self._reason = self.reopen()
        return self._reason

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StandardTarget:
    """stdout or stderr, which others write to as well: so it is asked before each write and never made non-blocking."""

    def __init__(self, fd: int) -> None:
        self.name = {1: "stdout", 2: "stderr"}.get(fd, f"fd {fd}")
        self._fd = fd
        self._pending = bytearray()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._waits = not stat.S_ISREG(os.fstat(fd).st_mode)

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def write(self, data: bytes | bytearray) -> tuple[int, str]:
        self._pending += data
        sent = 0
        try:
            while sent < len(self._pending) and self._takes():
                sent += os.write(self._fd, memoryview(self._pending)[sent : sent + PIPE_CHUNK_BYTES])
        except OSError as error:
            lost, self._pending = _lines(self._pending[sent:]), bytearray()
            return lost, error.strerror
        del self._pending[:sent]
        return self._shed()

    def _takes(self) -> bool:
        return not self._waits or bool(self._poll.poll(0))

    def _shed(self) -> tuple[int, str]:
        if len(self._pending) <= MOST_PENDING_BYTES:
            return 0, ""
        keep = self._pending.rfind(b"\n", 0, MOST_PENDING_BYTES) + 1
        lost = _lines(self._pending[keep:])
        del self._pending[keep:]
        return lost, "nobody reads it"

    def reopen(self) -> str:
        return ""

    def close(self) -> None:
        """The descriptor is not ours to close."""


class SyslogTarget:
    """A syslog daemon by UDP (`host:port`) or a datagram socket (`/dev/log`), one datagram a line.

    The frame is RFC 3164's, with the local time: every syslogd takes it. A host name in it is for UDP only, as the libc does it.
    """

    def __init__(self, log: AccessLog, hostname: str, resolve: Callable[[str, int], tuple]) -> None:
        self.name = f"syslog {log.path}"
        self._path = log.path
        self._resolve = resolve
        self._priority = f"<{FACILITIES[log.syslog_facility] * 8 + SEVERITY_INFO}>"
        self._tag = f"{'' if self._local else hostname + ' '}{log.syslog_tag}[{os.getpid()}]: "
        self._socket: socket.socket | None = None
        self._next_open_s = 0.0
        self._reason = ""

    @property
    def _local(self) -> bool:
        return self._path.startswith("/")

    def reopen(self) -> str:
        self.close()
        family, address = (socket.AF_UNIX, self._path) if self._local else self._udp_address()
        out = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        out.setblocking(False)
        try:
            out.connect(address)
        except OSError as error:
            out.close()
            return error.strerror
        self._socket = out
        return ""

    def _udp_address(self) -> tuple:
        host, _, port = self._path.rpartition(":")
        return self._resolve(host.strip("[]"), int(port))

    def write(self, data: bytes | bytearray) -> tuple[int, str]:
        now_s = unix_s()
        if self._socket is None and not self._open_again(now_s):
            return _lines(data), self._reason
        head = f"{self._priority}{_rfc3164_time(now_s)} {self._tag}".encode()
        lost, reason = 0, ""
        for line in bytes(data).split(b"\n"):
            if line and (problem := self._send((head + line)[:MOST_DATAGRAM_BYTES])):
                lost, reason = lost + 1, problem
        return lost, reason

    def _open_again(self, now_s: float) -> bool:
        if now_s >= self._next_open_s:
            self._next_open_s = now_s + REOPEN_EVERY_S
            try:
                self._reason = self.reopen()
            except OSError as error:     # a name that cannot be resolved
                self._reason = str(error.strerror or error)
        return self._socket is not None

    def _send(self, datagram: bytes) -> str:
        if self._socket is None:
            return self._reason
        try:
            self._socket.send(datagram)
        except OSError as error:
            if self._local and error.errno in (errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET):
                self._reason = error.strerror     # the daemon was restarted: its socket is another one now
                self.close()
            return error.strerror
        return ""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def _rfc3164_time(now_s: float) -> str:
    """RFC 3164, 4.1.2: English months whatever the locale, the day padded by a space."""
    now = time.localtime(now_s)
    return f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"


def resolve_udp(host: str, port: int) -> tuple[socket.AddressFamily, tuple]:
    """Family and address of a UDP server. Waits for DNS when `host` is a name: an agent passes its own."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, address


class LogSinks:
    """All targets by the numbers that records carry. `complain` writes one line to the node's own log."""

    def __init__(self, hostname: str, complain: Callable[[str], None], resolve: Callable[[str, int], tuple] = resolve_udp) -> None:
        self._hostname = hostname
        self._complain = complain
        self._resolve = resolve
        self._targets: dict[int, Target] = {}
        self._lost: dict[int, int] = {}
        self._told_s: dict[int, float] = {}
        self.lines_lost = 0
        """Lines that no sink took, ever."""

    def open(self, sink: int, log: AccessLog) -> None:
        """Make the number mean this log's target; nothing happens when it already does. What cannot be opened now is tried again."""
        name = _name_of(log)
        if sink in self._targets:
            if self._targets[sink].name == name:
                return
            self.close(sink)
        self._targets[sink] = self._target(log)

    def _target(self, log: AccessLog) -> Target:
        standard = _STANDARD.get(log.path if log.sink == "file" else log.sink)
        if standard is not None:
            return StandardTarget(standard)
        return SyslogTarget(log, self._hostname, self._resolve) if log.sink == "syslog" else FileTarget(log.path)

    def close(self, sink: int) -> None:
        """Nobody logs to it any more."""
        target = self._targets.pop(sink, None)
        if target is not None:
            target.close()
        self._lost.pop(sink, None)
        self._told_s.pop(sink, None)

    def sinks(self) -> list[int]:
        return list(self._targets)

    def write(self, sink: int, data: bytes | bytearray) -> None:
        """Append whole lines. Lines for a number that is not open (its listener is gone) are lost and counted."""
        target = self._targets.get(sink)
        lost, reason = target.write(data) if target is not None else (_lines(data), "closed")
        if lost:
            self.lines_lost += lost
            if target is not None:
                self._count_lost(sink, target.name, lost, reason)

    def _count_lost(self, sink: int, name: str, lost: int, reason: str) -> None:
        total = self._lost[sink] = self._lost.get(sink, 0) + lost
        now_s = unix_s()
        if now_s - self._told_s.get(sink, -COMPLAIN_EVERY_S) >= COMPLAIN_EVERY_S:
            self._told_s[sink] = now_s
            self._lost[sink] = 0
            self._complain(f"access log {name}: lines_lost={total} reason={reason!r}")

    def step(self) -> None:
        """Send on what a slow reader of stdout or stderr did not take at once; call it now and then (a second)."""
        for sink, target in self._targets.items():
            if isinstance(target, StandardTarget) and target.pending:
                self.write(sink, b"")

    def reopen(self) -> None:
        """After a rotation (USR1): the files that have the names now."""
        for target in self._targets.values():
            try:
                reason = target.reopen()
            except OSError as error:
                reason = str(error.strerror or error)
            if reason:
                self._complain(f"access log {target.name}: cannot be reopened, what was open stays: {reason}")

    def close_all(self) -> None:
        for sink in self.sinks():
            self.close(sink)


def _name_of(log: AccessLog) -> str:
    standard = _STANDARD.get(log.path if log.sink == "file" else log.sink)
    if standard is not None:
        return {1: "stdout", 2: "stderr"}[standard]
    return f"syslog {log.path}" if log.sink == "syslog" else log.path


def _lines(data: bytes | bytearray | memoryview) -> int:
    """Lines, the last one also without its end."""
    whole = bytes(data)
    return whole.count(b"\n") + (not whole.endswith(b"\n") if whole else 0)
