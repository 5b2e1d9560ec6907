"""HTTP/2 frame by frame, from either side: what a test does not write is not sent. HPACK comes from the independent `hpack`."""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Self

import hpack

from tests.support.origin import Connection, Origin
from tests.support.wire import Stream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 5, 7, 8, 11
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5

Headers = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    type: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends(self) -> bool:
        return self.type in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        return struct.unpack(">I", self.payload[:4] if self.type == RST_STREAM else self.payload[4:8])[0]


@dataclasses.dataclass
class Message:
    """A request or response in full, of one stream."""

    stream: int
    headers: Headers
    body: bytes = b""
    trailers: Headers = dataclasses.field(default_factory=list)
    before: list[Headers] = dataclasses.field(default_factory=list)
    """1xx heads that came first."""

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None


class ResetError(Exception):
    """The peer reset the stream; `code` is why."""

    def __init__(self, stream: int, code: int) -> None:
        super().__init__(f"stream {stream} was reset with code {code}")
        self.code = code


def frame(type: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame's bytes."""
    return struct.pack(">I", len(payload))[1:] + bytes((type, flags)) + struct.pack(">I", stream) + payload


def settings(pairs: dict[int, int]) -> bytes:
    """A SETTINGS frame's bytes."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs.items()))


class Http2Wire:
    """One side of a connection. Only SETTINGS and PING are answered by themselves; windows are the test's business."""

    def __init__(self, stream: Stream) -> None:
        self.wire = stream
        stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.frames: list[Frame] = []
        """All that came, in order."""
        self.unused: list[Frame] = []
        """What came while something else was waited for."""
        self.heads: dict[int, list[tuple[Headers, bool]]] = {}

    # -- sending

    def send(self, data: bytes) -> None:
        self.wire.send(data)

    def headers(self, stream: int, headers: Iterable[tuple[str, str]], *, ends: bool = False) -> bytes:
        """A HEADERS frame's bytes. Each is to be sent, in order: HPACK keeps a state."""
        block = self.encoder.encode([(name, value) for name, value in headers])
        return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block)

    def open_windows(self, stream: int = 0, size: int = 1 << 30) -> bytes:
        return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))

    def respond(self, stream: int, body: bytes = b"", status: str = "200", headers: Headers = (), trailers: Headers = ()) -> None:
        """A response in one piece."""
        data = self.headers(stream, [(":status", status), *headers], ends=not body and not trailers)
        for at in range(0, len(body), 16384):
            last = at + 16384 >= len(body) and not trailers
            data += frame(DATA, END_STREAM if last else 0, stream, body[at:at + 16384])
        if trailers:
            data += self.headers(stream, trailers, ends=True)
        self.send(data)

    def request(
        self, stream: int, headers: Headers = (), body: bytes = b"", *, method: str = "GET", path: str = "/", ends: bool = True,
    ) -> None:
        """A request in one piece, or with `ends` false its beginning."""
        head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test"), *headers]
        data = self.headers(stream, head, ends=ends and not body)
        if body:
            data += frame(DATA, END_STREAM if ends else 0, stream, body)
        self.send(data)

    # -- reading

    def read(self) -> Frame:
        """The next frame, whatever it is."""
        header = self.wire.exactly(9)
        length = int.from_bytes(header[:3], "big")
        got = Frame(header[3], header[4], int.from_bytes(header[5:9], "big"), self.wire.exactly(length))
        self.frames.append(got)
        if got.type == SETTINGS and not got.flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif got.type == PING and not got.flags & ACK:
            self.send(frame(PING, ACK, 0, got.payload))
        elif got.type == HEADERS:
            self.heads.setdefault(got.stream, []).append((self._decode(got), got.ends))
        return got

    def _decode(self, first: Frame) -> Headers:
        block, last = first.payload, first
        while not last.flags & END_HEADERS:
            header = self.wire.exactly(9)
            last = Frame(header[3], header[4], int.from_bytes(header[5:9], "big"), self.wire.exactly(int.from_bytes(header[:3], "big")))
            block += last.payload
        return [(name, value) for name, value in self.decoder.decode(block)]

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The next frame that is wanted; others are kept for who wants them later."""
        for place, held in enumerate(self.unused):
            if wanted(held):
                return self.unused.pop(place)
        while True:
            got = self.read()
            if wanted(got):
                return got
            self.unused.append(got)

    def of_type(self, type: int, stream: int | None = None) -> Frame:
        return self.until(lambda each: each.type == type and stream in (None, each.stream) and not (type == SETTINGS and each.flags & ACK))

    def head(self, stream: int | None = None) -> tuple[int, Headers, bool]:
        """The next head, of `stream` or of any: its stream, its fields, whether it ends the stream."""
        def wanted(each: Frame) -> bool:
            return (each.stream == stream and each.type in (HEADERS, RST_STREAM)) or (stream is None and each.type == HEADERS)

        got = self.until(wanted)
        if got.type == RST_STREAM:
            raise ResetError(got.stream, got.code)
        headers, ends = self.heads[got.stream].pop(0)
        return got.stream, headers, ends

    def message(self, stream: int | None = None) -> Message:
        """A whole message of `stream`, or of the one that begins next. Its windows are opened as it comes."""
        stream, headers, ends = self.head(stream)
        message = Message(stream, headers)
        while dict(message.headers).get(":status", "2").startswith("1"):
            message.before.append(message.headers)
            _, message.headers, ends = self.head(stream)
        while not ends:
            got = self.until(lambda each: each.type in (DATA, HEADERS, RST_STREAM) and each.stream == stream)
            if got.type == RST_STREAM:
                raise ResetError(stream, got.code)
            if got.type == DATA:
                message.body += got.payload
                if got.payload:
                    self.send(self.open_windows(0, len(got.payload)) + (b"" if got.ends else self.open_windows(stream, len(got.payload))))
            else:
                message.trailers, _ = self.heads[stream].pop(0)
            ends = got.ends
        return message


class Http2Server(Http2Wire):
    """An endpoint's side of an accepted connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.number = connection.number

    def accept(self, limits: dict[int, int] | None = None) -> Self:
        """Read the preface, say our SETTINGS."""
        assert self.wire.exactly(len(PREFACE)) == PREFACE
        self.send(settings(limits or {}))
        return self


class Http2Client(Http2Wire):
    """A client by prior knowledge."""

    def __init__(self, port: int, limits: dict[int, int] | None = None) -> None:
        super().__init__(Stream(socket.create_connection(("127.0.0.1", port))))
        self.send(PREFACE + settings(limits or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()


def http2_origin(script: Callable[[Http2Server], None]) -> Origin:
    """An origin whose connections run `script`, each in a thread of its own."""
    return Origin(raw=lambda connection: script(Http2Server(connection)))
