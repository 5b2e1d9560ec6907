"""A scriptable origin: each test says in plain Python, over the raw connection, what its upstream does."""

from __future__ import annotations

import dataclasses
import queue
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.wire import ClosedError, Stream, joined, parse_headers

WAIT_S = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as the origin got it. `head` are the bytes; `headers` keep case and order."""

    head: bytes
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    connection: int = 0
    """Which connection of the origin, from 1."""

    def header(self, name: str) -> str | None:
        return joined(self.headers, name)


class Connection(Stream):
    """An accepted connection. A script reads requests and sends what it likes."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        super().__init__(sock)
        self.number = number

    def head(self) -> Request:
        """The next request's head, its body not read. Raises ClosedError when no more comes."""
        head = self.until(b"\r\n\r\n")
        start, *lines = head.decode("latin-1")[:-4].split("\r\n")
        method, target, version = start.split(" ")
        return Request(head, method, target, version, parse_headers(lines), connection=self.number)

    def request(self) -> Request:
        """The next request in full."""
        request = self.head()
        body, trailers = self.body(request.headers)
        return dataclasses.replace(request, body=body, trailers=trailers)


Script = Callable[[Connection, Request], None]


def answer(data: bytes) -> Script:
    """A script that answers each request with the same bytes."""
    return lambda connection, request: connection.send(data)


class Origin:
    """Listens on `port` of `host`, a free one unless it is given; a thread for each connection runs `script` for each request and keeps
    what came in `seen`.

    With `raw`, the script has the connection from its first byte: `script(connection)`; nothing is read for it.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        raw: Callable[[Connection], None] | None = None,
        send_buffer: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script = script or answer(OK)
        self.raw = raw
        self.seen: queue.Queue[Request] = queue.Queue()
        self.connections = 0
        self.failures: list[BaseException] = []
        self._send_buffer = send_buffer
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((host, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="origin", daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse what comes and cut what is there."""
        # shutdown wakes the thread that waits in accept; close alone does not.
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for sock in left:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def next_request(self) -> Request:
        """The oldest request that no test has looked at."""
        return self.seen.get(timeout=WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._send_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                number = self.connections
            threading.Thread(target=self._serve, args=(Connection(sock, number),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            self._converse(connection)
        except (ClosedError, ConnectionError, TimeoutError, OSError):
            pass
        except BaseException as error:  # told to the test that owns the origin
            self.failures.append(error)
        finally:
            with self._lock:
                self._open.discard(connection.sock)
            connection.close()

    def _converse(self, connection: Connection) -> None:
        if self.raw is not None:
            self.raw(connection)
            return
        while True:
            request = connection.request()
            self.seen.put(request)
            self.script(connection, request)
            if "close" in (request.header("connection") or "").lower():
                return
