"""The admin API's HTTP: a request head in, a response out. Pure bytes.

Small on purpose. It answers people, scripts and scrapers on loopback; the strict, fast codec of the data path belongs to the workers.
What RFC 9112 calls an error is a 400 and the end of the connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

from meshproxy.errors import MeshproxyError

MAX_HEAD_BYTES = 16 << 10
"""Twice what browsers send with all their headers; nothing here needs more."""
MAX_BODY_BYTES = 64 << 10
"""Orders are in the query; a body is read only to be thrown away."""
MAX_QUERY_FIELDS = 100
CHUNK_CHARS = 32 << 10
"""Of a streamed body: some ms of work, after which others get their turn."""

REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*|\*|http://[\x21-\x7e]+) HTTP/1\.([01])")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")

SECURITY_HEADERS = (
    ("cache-control", "no-cache, max-age=0"),
    ("x-content-type-options", "nosniff"),
    # Nobody may show these pages inside of theirs, and they load nothing from elsewhere.
    ("x-frame-options", "DENY"),
    (
        "content-security-policy",
        "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
)


class BadRequest(MeshproxyError):
    """The request cannot be read or not be taken: answer with `status` and close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One request. Header names are lower case; of a repeated header the last value counts, except Host, which must not be repeated."""

    method: str
    path: str
    target: str = ""
    """Path and query as they came."""
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    keep_alive: bool = True
    version_minor: int = 1

    def flag(self, name: str) -> bool:
        """A query parameter that is a switch: there, and not `false` or `0`."""
        return self.query.get(name, "false").lower() not in ("false", "0")


@dataclass(frozen=True)
class Response:
    """One answer. A long one is `pieces`, made while it is sent, and then `body` is empty."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=UTF-8"
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Iterable[str] | None = None


def text(body: str, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Plain text, with a line end."""
    return Response((body if body.endswith("\n") or not body else body + "\n").encode(), status, headers=headers)


def head_length(data: bytes | bytearray) -> int:
    """Bytes of the head with its empty line, 0 while it is not whole. Raises BadRequest (431) for one that is too long."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0 and len(data) >= MAX_HEAD_BYTES:
        raise BadRequest(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")
    return end + 4 if end >= 0 else 0


def parse_head(head: bytes) -> Request:
    """The request of a whole head (with its empty line). Raises BadRequest."""
    first, *lines = head[:-4].lstrip(b"\r\n").split(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest(400, "the request line is not one of HTTP/1.0 or HTTP/1.1")
    headers = _headers(lines)
    minor = int(line[3])
    if minor == 1 and "host" not in headers:
        raise BadRequest(400, "an HTTP/1.1 request needs a Host header")  # RFC 9112 3.2
    target = line[2].decode("ascii")
    path, query = _target(target)
    connection = headers.get("connection", "").lower()
    return Request(
        method=line[1].decode("ascii"),
        path=path,
        target=target,
        query=query,
        headers=headers,
        body_bytes=_body_bytes(headers),
        keep_alive="close" not in connection if minor else "keep-alive" in connection,
        version_minor=minor,
    )


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = FIELD_LINE.fullmatch(line)
        if found is None:
            raise BadRequest(400, "a header line is malformed")
        name = found[1].decode("ascii").lower()
        if name in headers and name in ("host", "content-length", "origin"):
            raise BadRequest(400, f"the header {name} is there twice")
        headers[name] = found[2].decode("latin-1")
    return headers


def _target(target: str) -> tuple[str, dict[str, str]]:
    """Path and query; of an absolute-form the host is left to the Host header, which is checked."""
    if target.startswith("http://"):
        target = "/" + target[len("http://") :].partition("/")[2]
    path, _, query = target.partition("?")
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as error:
        raise BadRequest(400, f"the query has more than {MAX_QUERY_FIELDS} parameters") from error
    # A bare `?usedonly` is a switch that is on.
    bare = {part for part in query.split("&") if part and "=" not in part}
    return unquote(path), {name: "true" if name in bare and not value else value for name, value in fields}


def _body_bytes(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise BadRequest(411, "send no body, or one with a Content-Length: what can be said here is in the query")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 18:
        raise BadRequest(400, "the Content-Length is no number")
    if int(length) > MAX_BODY_BYTES:
        raise BadRequest(413, f"a body of {length} bytes is longer than {MAX_BODY_BYTES}: what can be said here is in the query")
    return int(length)


def streamed(pieces: Iterable[str], content_type: str = "text/plain; charset=UTF-8") -> Response:
    """A response of any length that is never in memory as a whole."""
    return Response(b"", content_type=content_type, pieces=pieces)


def render(response: Response, keep_alive: bool, head_only: bool = False) -> bytes:
    """The bytes of a response, or of the head of a streamed one."""
    framing = ("content-length", str(len(response.body))) if response.pieces is None else ("transfer-encoding", "chunked")
    headers = [
        ("content-type", response.content_type),
        framing,
        ("connection", "keep-alive" if keep_alive else "close"),
        *SECURITY_HEADERS,
        *response.headers,
    ]
    reason = HTTPStatus(response.status).phrase
    head = f"HTTP/1.1 {response.status} {reason}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    return head.encode("latin-1") + (b"" if head_only else response.body)


def gathered(pieces: Iterable[str]) -> Iterator[bytes]:
    """The body of a streamed response: pieces gathered into some tens of KiB."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= CHUNK_CHARS:
            yield "".join(held).encode()
            held, size = [], 0
    if size:
        yield "".join(held).encode()


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a body in its frame (RFC 9112 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
