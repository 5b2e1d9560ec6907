"""Responses of bad, odd and good servers: what may poison the next response on a pooled connection is refused or ends the connection."""

from __future__ import annotations

from tests.corpus.http1.case import Case

NONE, LENGTH, CHUNKED, UNTIL_CLOSE = range(4)


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *lines, b"", body])


def refused(name: str, data: bytes, source: str, method: bytes = b"GET") -> Case:
    """A proxy answers 502 to each; the status here is what `error_status` has for the kind of error."""
    return Case(name, data, source, 400, method=method)


BAD: list[Case] = [
    refused("cl-te", response(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), "RFC 9112 6.3"),
    refused("cl-te-to-head", response(b"Content-Length: 5", b"Transfer-Encoding: chunked"), "RFC 9112 6.3", b"HEAD"),
    refused("cl-twice-differs", response(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), "RFC 9112 6.3"),
    refused("cl-list", response(b"Content-Length: 5, 5", body=b"hello"), "RFC 9110 8.6, refused by choice"),
    refused("cl-list-differs", response(b"Content-Length: 5, 6", body=b"hello"), "RFC 9112 6.3"),
    refused("cl-sign", response(b"Content-Length: +5", body=b"hello"), "RFC 9110 8.6"),
    refused("cl-empty", response(b"Content-Length: "), "RFC 9110 8.6"),
    refused("cl-tab", response(b"Content-Length:\t5", body=b"hello"), "RFC 9110 5.5, refused by choice"),
    refused("te-identity", response(b"Transfer-Encoding: identity"), "RFC 9112 6.1"),
    refused("te-xchunked", response(b"Transfer-Encoding: xchunked"), "RFC 9112 6.1"),
    refused("te-twice", response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), "RFC 9112 6.1"),
    refused("te-in-1.0", response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"), "RFC 9112 6.1"),
    refused("fold", response(b"X: y\r\n z"), "RFC 9112 5.2"),
    refused("space-before-colon", response(b"Content-Length : 5"), "RFC 9112 5.1"),
    refused("bare-lf", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "RFC 9112 2.2"),
    refused("bare-cr", response(b"X: y\rSet-Cookie: a=b"), "RFC 9112 2.2"),
    refused("nul", response(b"X: \x00"), "RFC 9110 5.5"),
    refused("leading-line", b"\r\n" + response(b"Content-Length: 0"), "RFC 9112 4"),
    refused("http-0.9", b"hello", "RFC 9112 4"),
    refused("tls-alert", b"\x15\x03\x01\x00\x02\x02\x46", "RFC 8446 6"),
    refused("http2-settings", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "RFC 9113 6.5"),
    refused("status-two-digits", response(line=b"HTTP/1.1 20 OK"), "RFC 9112 4"),
    refused("status-four-digits", response(line=b"HTTP/1.1 2000 OK"), "RFC 9112 4"),
    refused("status-099", response(line=b"HTTP/1.1 099 No"), "RFC 9110 15"),
    refused("status-600", response(line=b"HTTP/1.1 600 No"), "RFC 9110 15"),
    refused("status-sign", response(line=b"HTTP/1.1 +20 OK"), "RFC 9112 4"),
    refused("two-spaces", response(line=b"HTTP/1.1  200 OK"), "RFC 9112 4"),
    refused("reason-control", response(line=b"HTTP/1.1 200 O\x01K"), "RFC 9112 4"),
    refused("reason-bare-cr", response(line=b"HTTP/1.1 200 O\rK"), "RFC 9112 2.2"),
    refused("lower-case", response(line=b"http/1.1 200 OK"), "RFC 9112 2.3"),
    refused("icy", response(line=b"ICY 200 OK"), "RFC 9112 2.3"),
    Case("version-2", response(line=b"HTTP/2.0 200 OK"), "RFC 9112 2.3", 505),
    Case("version-1.2", response(line=b"HTTP/1.2 200 OK"), "RFC 9112 2.3", 505),
    Case("te-gzip-chunked", response(b"Transfer-Encoding: gzip, chunked"), "RFC 9112 6.1", 501),
    Case("head-too-large", response(b"X: " + b"y" * 70000), "RFC 6585 5", 431),
    Case("too-many-headers", response(*[b"X: y"] * 101), "RFC 6585 5", 431),
    refused("chunk-bare-lf", response(b"Transfer-Encoding: chunked", body=b"5\nhello\r\n0\r\n\r\n"), "RFC 9112 7.1"),
    refused("chunk-no-end", response(b"Transfer-Encoding: chunked", body=b"5\r\nhello0\r\n\r\n"), "RFC 9112 7.1"),
    refused("chunk-overflow", response(b"Transfer-Encoding: chunked", body=b"10000000000000005\r\nhello"), "RFC 9112 7.1"),
    refused("trailer-content-length", response(b"Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 9\r\n\r\n"), "RFC 9110 6.5.1"),
    refused("trailer-set-cookie", response(b"Transfer-Encoding: chunked", body=b"0\r\nSet-Cookie: a=b\r\n\r\n"), "RFC 9110 6.5.1"),
]

GOOD: list[Case] = [
    Case("length", response(b"Content-Length: 5", body=b"hello"), "RFC 9112 6.3",
         says={"body": LENGTH, "content_length": 5, "keep_alive": True, "status": 200, "reason": b"OK"}, body=b"hello"),
    Case("chunked", response(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), "RFC 9112 7.1",
         says={"body": CHUNKED, "keep_alive": True}, gone=(b"transfer-encoding",), body=b"hello"),
    Case("until-close", response(body=b"hello"), "RFC 9112 6.3", says={"body": UNTIL_CLOSE, "keep_alive": False}),
    Case("until-close-keep-alive", response(b"Connection: keep-alive"), "RFC 9112 6.3", says={"body": UNTIL_CLOSE, "keep_alive": False}),
    Case("1.0", response(b"Content-Length: 0", line=b"HTTP/1.0 200 OK"), "RFC 9112 9.3", says={"keep_alive": False, "minor_version": 0}),
    Case("1.0-keep-alive", response(b"Content-Length: 0", b"Connection: Keep-Alive", line=b"HTTP/1.0 200 OK"), "RFC 9112 9.3",
         says={"keep_alive": True}),
    Case("close", response(b"Content-Length: 0", b"Connection: close"), "RFC 9112 9.6", says={"keep_alive": False}),
    Case("no-reason", response(b"Content-Length: 0", line=b"HTTP/1.1 200 "), "RFC 9112 4", says={"status": 200, "reason": b""}),
    Case("no-reason-no-space", response(b"Content-Length: 0", line=b"HTTP/1.1 200"), "RFC 9112 4",
         says={"status": 200, "reason": b""}),
    Case("reason-high-bytes", response(b"Content-Length: 0", line=b"HTTP/1.1 404 p\xe4ng\t!"), "RFC 9112 4",
         says={"reason": b"p\xe4ng\t!"}),
    Case("100", response(line=b"HTTP/1.1 100 Continue"), "RFC 9112 6.3", says={"body": NONE, "keep_alive": True, "status": 100}),
    Case("101", response(b"Connection: upgrade", b"Upgrade: websocket", line=b"HTTP/1.1 101 Switching Protocols"), "RFC 9110 7.8",
         says={"body": NONE, "upgrade": True}),
    Case("103", response(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints"), "RFC 8297", says={"body": NONE}),
    Case("204", response(line=b"HTTP/1.1 204 No Content"), "RFC 9112 6.3", says={"body": NONE, "keep_alive": True}),
    Case("204-length-0", response(b"Content-Length: 0", line=b"HTTP/1.1 204 No Content"), "RFC 9110 8.6",
         says={"body": NONE, "keep_alive": True}, gone=(b"content-length",)),
    Case("204-length-5", response(b"Content-Length: 5", line=b"HTTP/1.1 204 No Content", body=b"hello"), "RFC 9110 8.6",
         says={"body": NONE, "keep_alive": False}, gone=(b"content-length",)),
    Case("204-chunked", response(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 204 No Content"), "RFC 9112 6.1",
         says={"body": NONE, "keep_alive": False}, gone=(b"transfer-encoding",)),
    Case("304-length", response(b"Content-Length: 5", line=b"HTTP/1.1 304 Not Modified"), "RFC 9112 6.3",
         says={"body": NONE, "content_length": 5, "keep_alive": True}),
    Case("head", response(b"Content-Length: 5"), "RFC 9112 6.3",
         says={"body": NONE, "content_length": 5, "keep_alive": True}, method=b"HEAD"),
    Case("head-chunked", response(b"Transfer-Encoding: chunked"), "RFC 9112 6.1",
         says={"body": NONE, "keep_alive": True}, gone=(b"transfer-encoding",), method=b"HEAD"),
    Case("head-nothing", response(), "RFC 9112 6.3", says={"body": NONE, "keep_alive": True}, method=b"HEAD"),
    Case("connect", response(line=b"HTTP/1.1 200 Connected"), "RFC 9110 9.3.6", says={"body": NONE}, method=b"CONNECT"),
    Case("connect-length", response(b"Content-Length: 5"), "RFC 9110 9.3.6",
         says={"body": NONE}, gone=(b"content-length",), method=b"CONNECT"),
    Case("connect-refused", response(b"Content-Length: 2", line=b"HTTP/1.1 403 No", body=b"no"), "RFC 9110 9.3.6",
         says={"body": LENGTH}, body=b"no", method=b"CONNECT"),
    Case("cl-twice-same", response(b"Content-Length: 5", b"content-length: 5", body=b"hello"), "RFC 9110 8.6",
         says={"body": LENGTH, "content_length": 5}, gone=(b"content-length",), body=b"hello"),
    Case("trailers", response(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\ngrpc-status: 0\r\nX-Sum:  1 \r\n\r\n"), "RFC 9112 7.1.2",
         says={"body": CHUNKED}, body=b"x"),
    Case("nominated", response(b"Content-Length: 0", b"Connection: X-Hop", b"x-hop: 1"), "RFC 9110 7.6.1", gone=(b"connection", b"x-hop")),
]
