"""Conversations over a raw socket: bytes sent at chosen splits, answers read by HTTP's framing and no further."""

from __future__ import annotations

import dataclasses
import itertools
import socket
from types import TracebackType
from typing import Self

LIMIT_S = 20.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """A response as it stood on the wire. `headers` keep case, order and repetition."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    trailers: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The values of a header joined by ", "; None when it is absent."""
        return joined(self.headers, name)


def joined(headers: list[tuple[str, str]], name: str) -> str | None:
    """The values of a header joined by ", "; None when it is absent."""
    values = [value for key, value in headers if key.lower() == name.lower()]
    return ", ".join(values) if values else None


def parse_headers(lines: list[str]) -> list[tuple[str, str]]:
    """Header lines to pairs; values without the white space around them."""
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


class ClosedError(Exception):
    """The other side closed (or reset) before what was waited for; the text has what came until then."""


class Stream:
    """A connected socket with what was read of it and not yet used."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(LIMIT_S)
        self.held = bytearray()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_split(self, data: bytes, *cuts: int) -> None:
        """Send in pieces that end at `cuts`, each in a segment of its own."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        edges = [0, *cuts, len(data)]
        for start, end in itertools.pairwise(edges):
            self.sock.sendall(data[start:end])

    def more(self) -> None:
        """Read what is there, at least a byte."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError as error:
            raise ClosedError(f"reset after {bytes(self.held[-200:])!r}") from error
        if not data:
            raise ClosedError(f"closed after {bytes(self.held[-200:])!r}")
        self.held += data

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self.held:
            self.more()
        return self._take(self.held.index(mark) + len(mark))

    def exactly(self, count: int) -> bytes:
        while len(self.held) < count:
            self.more()
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self.held[:count])
        del self.held[:count]
        return taken

    def rest(self) -> bytes:
        """Everything until the other side closes; a reset counts as a close."""
        try:
            while True:
                self.more()
        except ClosedError:
            return self._take(len(self.held))

    def chunks(self) -> tuple[bytes, list[tuple[str, str]]]:
        """A chunked body and its trailers (RFC 9112 7.1)."""
        body = b""
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            body += self.exactly(size)
            assert self.exactly(2) == b"\r\n"
        lines = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        return body, parse_headers(lines)

    def body(self, headers: list[tuple[str, str]]) -> tuple[bytes, list[tuple[str, str]]]:
        """A body by its own headers: chunked, by length, else none."""
        if (joined(headers, "transfer-encoding") or "").lower() == "chunked":
            return self.chunks()
        return self.exactly(int(joined(headers, "content-length") or 0)), []

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Client(Stream):
    """A client's side of a conversation."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(LIMIT_S)
        try:
            sock.connect(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        super().__init__(sock)

    def answer(self, method: str = "GET") -> Answer:
        """The next response; interim ones too. `method` is the request's: HEAD has no body."""
        start, *lines = self.until(b"\r\n\r\n").decode("latin-1")[:-4].split("\r\n")
        version, status, reason = [*start.split(" ", 2), ""][:3]
        headers = parse_headers(lines)
        body, trailers = b"", []
        if not (method == "HEAD" or status[0] == "1" or status in ("204", "304")):
            framed = joined(headers, "content-length") is not None or joined(headers, "transfer-encoding") is not None
            body, trailers = self.body(headers) if framed else (self.rest(), [])
        return Answer(version, int(status), reason, headers, body, trailers)

    def ask(self, data: bytes) -> Answer:
        """Send a whole request and read its answer."""
        self.send(data)
        return self.answer(data.split(b" ", 1)[0].decode("latin-1"))

    def is_closed(self) -> bool:
        """Whether the other side closes without saying more."""
        return self.rest() == b""


def ask(port: int, data: bytes) -> Answer:
    """One request on a connection of its own."""
    with Client(port) as client:
        return client.ask(data)


def get(path: str = "/", host: str = "mesh.test", *lines: str, method: str = "GET") -> bytes:
    """The bytes of a request without a body; `lines` are more header lines."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")


def post(body: bytes, path: str = "/", *lines: str) -> bytes:
    """The bytes of a POST with a Content-Length."""
    return get(path, "mesh.test", f"Content-Length: {len(body)}", *lines, method="POST") + body
