"""Requests as real clients send them; each is to be read, kept as it is and passed on."""

from __future__ import annotations

from tests.corpus.http1.case import Case

NONE, LENGTH, CHUNKED = range(3)


def lines(*rows: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([*rows, b"", body])


REQUESTS: list[Case] = [
    Case("plain", lines(b"GET / HTTP/1.1", b"Host: example.com"), "RFC 9112 3",
         says={"method": b"GET", "path": b"/", "authority": b"example.com", "body": NONE, "keep_alive": True, "minor_version": 1}),
    Case("curl", lines(b"GET /a?b=c HTTP/1.1", b"Host: 127.0.0.1:8080", b"User-Agent: curl/8.5.0", b"Accept: */*"), "curl 8.5",
         says={"path": b"/a?b=c", "authority": b"127.0.0.1:8080"}),
    Case("browser", lines(
        b"GET /index.html?q=%C3%A9|x&r=[1]{2}^`\\\"<> HTTP/1.1", b"Host: www.example.com", b"Connection: keep-alive",
        b'sec-ch-ua: "Chromium";v="124", "Not-A.Brand";v="99"', b"Upgrade-Insecure-Requests: 1",
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36",
        b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", b"Accept-Encoding: gzip, deflate, br, zstd",
        b"Accept-Language: de-DE,de;q=0.9", b"Cookie: a=b; c=\"d\"",
    ), "Chromium 124; raw characters as the WHATWG URL standard leaves them in queries", says={"keep_alive": True}, gone=(b"connection",)),
    Case("1.0", lines(b"GET / HTTP/1.0"), "RFC 9112 9.3", says={"minor_version": 0, "keep_alive": False, "authority": b""}),
    Case("1.0-keep-alive", lines(b"GET / HTTP/1.0", b"Connection: Keep-Alive", b"Host: a"), "ab", says={"keep_alive": True}),
    Case("post-length", lines(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 11", body=b"hello world"), "RFC 9112 6.2",
         says={"body": LENGTH, "content_length": 11}, body=b"hello world"),
    Case("post-empty", lines(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 0"), "RFC 9112 6.2", says={"content_length": 0}, body=b""),
    Case("post-largest", lines(b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 4611686018427387904"), "2**62",
         says={"content_length": 2**62}),
    Case("post-chunked", lines(
        b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
    ), "RFC 9112 7.1", says={"body": CHUNKED, "content_length": -1}, body=b"hello0123456789"),
    Case("post-trailers", lines(b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"),
         "RFC 9112 7.1.2", says={"body": CHUNKED}, body=b"x"),
    Case("expect", lines(b"PUT / HTTP/1.1", b"Host: a", b"Expect: 100-Continue", b"Content-Length: 1", body=b"x"), "RFC 9110 10.1.1",
         says={"expect_continue": True, "expect_other": False}),
    Case("websocket", lines(
        b"GET /chat HTTP/1.1", b"Host: a", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13",
    ), "RFC 6455", says={"upgrade": True, "keep_alive": True}, gone=(b"connection", b"upgrade")),
    Case("connect", lines(b"CONNECT example.com:443 HTTP/1.1", b"Host: example.com:443"), "RFC 9110 9.3.6",
         says={"authority": b"example.com:443", "path": b"", "method_id": 7}),
    Case("connect-ipv6", lines(b"CONNECT [2001:db8::1]:443 HTTP/1.1", b"Host: x"), "RFC 9110 9.3.6",
         says={"authority": b"[2001:db8::1]:443"}),
    Case("options-star", lines(b"OPTIONS * HTTP/1.1", b"Host: a"), "RFC 9112 3.2.4", says={"path": b"*"}),
    Case("absolute", lines(b"GET HTTP://B:81/c?d HTTP/1.1", b"Host: a"), "RFC 9112 3.2.2",
         says={"absolute_form": True, "authority": b"B:81", "path": b"/c?d", "path_is_root": False}),
    Case("absolute-https", lines(b"GET https://b/ HTTP/1.1", b"Host: b"), "RFC 9112 3.2.2", says={"authority": b"b", "path": b"/"}),
    Case("own-method", lines(b"PURGE-all!#$%&'*+-.^_`|~ / HTTP/1.1", b"Host: a"), "RFC 9110 9.1", says={"method_id": 0}),
    Case("lower-method", lines(b"get / HTTP/1.1", b"Host: a"), "RFC 9110 9.1", says={"method_id": 0, "method": b"get"}),
    Case("hosts-case", lines(b"GET / HTTP/1.1", b"hOsT: EXAMPLE.com"), "RFC 9110 5.1", says={"authority": b"EXAMPLE.com"}),
    Case("host-ipv6", lines(b"GET / HTTP/1.1", b"Host: [::ffff:1.2.3.4]:80"), "RFC 3986 3.2.2", says={"authority": b"[::ffff:1.2.3.4]:80"}),
    Case("host-ipv6-longest", lines(b"GET / HTTP/1.1", b"Host: [0000:0000:0000:0000:0000:ffff:255.255.255.255]"), "RFC 3986 3.2.2"),
    Case("host-marks", lines(b"GET / HTTP/1.1", b"Host: a_b-c.d~e!%41"), "RFC 3986 3.2.2", says={"authority": b"a_b-c.d~e!%41"}),
    Case("value-bytes", lines(b"GET / HTTP/1.1", b"Host: a", b"X: \ta\tb \xc3\xa9\xff \t", b"Empty:", b"Blank:   "), "RFC 9110 5.5",
         says={"headers": [
             (b"Host", b"a", 1, False), (b"X", b"a\tb \xc3\xa9\xff", 0, False), (b"Empty", b"", 0, False), (b"Blank", b"", 0, False),
         ]}),
    Case("no-space", lines(b"GET / HTTP/1.1", b"Host:a", b"X:y"), "RFC 9112 5", says={"authority": b"a"}),
    Case("many-options", lines(b"GET / HTTP/1.1", b"Host: a", b"Connection: , close ,, x-a,", b"Connection: X-B", b"X-A: 1", b"x-b: 2"),
         "RFC 9110 5.6.1", says={"keep_alive": False}, gone=(b"connection", b"x-a", b"x-b")),
    Case("hop-by-hop", lines(
        b"GET / HTTP/1.1", b"Host: a", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers", b"Trailer: X",
    ), "RFC 9110 7.6.1; Trailer goes on with the trailers (RFC 9110 6.6.2)", gone=(b"keep-alive", b"proxy-connection", b"te")),
    Case("pipelined", lines(b"GET /1 HTTP/1.1", b"Host: a") + lines(b"GET /2 HTTP/1.1", b"Host: a"), "RFC 9112 9.3.2",
         says={"path": b"/1"}),
    Case("hundred-headers", lines(b"GET / HTTP/1.1", b"Host: a", *[b"X-%d: y" % n for n in range(99)]), "the limit itself"),
    Case("long-value", lines(b"GET / HTTP/1.1", b"Host: a", b"Cookie: " + b"c" * 8000), "RFC 9110 2.3"),
    Case("underscore", lines(b"GET / HTTP/1.1", b"Host: a", b"X_Y: 1"), "RFC 9110 5.1: a token"),
]
