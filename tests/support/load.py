"""Load with a memory: every request's fate is known, so that a test can say "none failed" and mean it."""

from __future__ import annotations

import collections
import dataclasses
import errno
import re
import select
import socket
import threading
import time
from types import TracebackType
from typing import Self

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
CONNECTING, WAITING = "connecting", "waiting"
STEP_S = 0.05


@dataclasses.dataclass
class Report:
    """What became of the requests. `failures` counts by what happened; its keys are:

    `connect <errno>`: the connect failed; `reset on connect`: it was cut before a byte was sent; `cut in flight`: the connection
    ended with a request unanswered; `status NNN`: another status than 200; `unanswered`: no answer until the end.
    """

    answered: int = 0
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    slowest_connect_s: float = 0.0
    latencies_s: list[float] = dataclasses.field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def percentile_s(self, fraction: float) -> float:
        """A latency percentile; 0 with no answers."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] if ordered else 0.0


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.state = CONNECTING
        self.began = time.monotonic()
        self.held = b""
        self.served = 0


class Load:
    """`connections` clients that ask, read the answer and ask again, on one thread, until `stop`.

    `requests_per_connection` = 0 keeps each connection for as long as the other side does.
    """

    def __init__(self, port: int, connections: int = 20, *, request: bytes = b"", requests_per_connection: int = 0) -> None:
        self.port = port
        self.wanted = connections
        self.request = request or b"GET / HTTP/1.1\r\nHost: mesh.test\r\n\r\n"
        self.requests_per_connection = requests_per_connection
        self.report = Report()
        self._open: dict[int, _Connection] = {}
        self._poll = select.epoll()
        self._stopping = threading.Event()
        self._answered = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_answers(self.wanted)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def wait_answers(self, more: int, limit_s: float = 30.0) -> None:
        """Return after `more` further answers: the way for a test to let traffic go by."""
        with self._answered:
            goal = self.report.answered + more
            if not self._answered.wait_for(lambda: self.report.answered >= goal, limit_s):
                raise AssertionError(f"the load stands still: {self.report.answered} answered, failures {dict(self.report.failures)}")

    def stop(self) -> Report:
        """End the load: what is in flight is waited for."""
        self._stopping.set()
        self._thread.join()
        return self.report

    def _run(self) -> None:
        deadline = 0.0
        while True:
            if self._stopping.is_set():
                deadline = deadline or time.monotonic() + 10
                if not self._open or time.monotonic() > deadline:
                    break
            else:
                for _ in range(self.wanted - len(self._open)):
                    self._connect()
            for fd, events in self._poll.poll(STEP_S):
                if connection := self._open.get(fd):
                    self._on_event(connection, events)
        self.report.failures["unanswered"] += len(self._open)
        self.report.failures += collections.Counter()  # drops the zeros
        for connection in list(self._open.values()):
            self._close(connection)
        self._poll.close()

    def _connect(self) -> None:
        connection = _Connection(socket.socket())
        connection.sock.setblocking(False)
        result = connection.sock.connect_ex(("127.0.0.1", self.port))
        if result not in (0, errno.EINPROGRESS):
            connection.sock.close()
            self.report.failures[f"connect {errno.errorcode[result]}"] += 1
            return
        self._open[connection.sock.fileno()] = connection
        self._poll.register(connection.sock, select.EPOLLOUT)

    def _on_event(self, connection: _Connection, events: int) -> None:
        if connection.state == CONNECTING:
            self._on_connected(connection)
        elif events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._on_readable(connection)

    def _on_connected(self, connection: _Connection) -> None:
        result = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            self.report.failures[f"connect {errno.errorcode[result]}"] += 1
            self._close(connection)
            return
        self.report.slowest_connect_s = max(self.report.slowest_connect_s, time.monotonic() - connection.began)
        self._poll.modify(connection.sock, select.EPOLLIN)
        self._ask(connection)

    def _ask(self, connection: _Connection) -> None:
        connection.state, connection.began, connection.held = WAITING, time.monotonic(), b""
        try:
            connection.sock.send(self.request)
        except OSError:
            self.report.failures["cut in flight" if connection.served else "reset on connect"] += 1
            self._close(connection)

    def _on_readable(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.report.failures["cut in flight"] += 1
            self._close(connection)
            return
        connection.held += data
        head, mark, body = connection.held.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r\n")
        if mark and len(body) >= (int(length[1]) if length else 0):
            self._on_answer(connection, head + b"\r\n")

    def _on_answer(self, connection: _Connection, head: bytes) -> None:
        status = head[9:12].decode("latin-1")
        connection.served += 1
        with self._answered:
            if status == "200":
                self.report.answered += 1
                self.report.latencies_s.append(time.monotonic() - connection.began)
            else:
                self.report.failures[f"status {status}"] += 1
            self._answered.notify_all()
        if self._stopping.is_set() or CLOSES.search(head) or connection.served == self.requests_per_connection:
            self._close(connection)
        else:
            self._ask(connection)

    def _close(self, connection: _Connection) -> None:
        if self._open.pop(connection.sock.fileno(), None):
            self._poll.unregister(connection.sock)
        connection.sock.close()
