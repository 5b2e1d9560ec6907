"""Codec and twin on bytes that nobody wrote down: made from the grammar with faults, or mutated from the corpus."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_http1
from tests.oracles import http1_agreement as agreement
from tests.oracles.http1 import BODY_CHUNKED, Limits

repeatable = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"CONNECT", b"OPTIONS", b"get", b"M-SEARCH", b"", b"G T", b"G" * 65])
HOSTS = st.sampled_from([b"a", b"a.b:80", b"[::1]:1", b"", b"a b", b"u@a", b"a:x", b"a:70000", b"%41", b"%4"])
TARGETS = st.one_of(
    st.sampled_from([b"/", b"*", b"a:80", b"/a?b#c", b"http://a", b"http://a/b", b"https://a:1/?c", b"http://@/", b"", b"/a b", b"/\xff"]),
    st.binary(max_size=40).map(lambda tail: b"/" + tail),
    HOSTS.map(lambda host: b"http://" + host + b"/"),
)
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"", b"HTTP/1.1 "])
NAMES = st.sampled_from([
    b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"TE", b"X-Y", b"x-y", b"X-Forwarded-For", b"Cookie",
    b"X-Envoy-Internal", b"X-Envoy-Q", b"Content_Length", b"Trailer", b"", b"X Y", b" X", b"X\t", b"Host", b"Keep-Alive",
])
VALUES = st.one_of(
    st.sampled_from([
        b"chunked", b"CHUNKED", b"gzip, chunked", b"chunked,chunked", b"5", b"05", b"0", b"5, 5", b"+5", b"close", b"keep-alive, X-Y",
        b"Upgrade, Cookie", b"100-continue", b"websocket", b"", b"a\x00", b"a\rb", b"a\nb", b"a\r\n b", b"\tx\t", b" \t ",
    ]),
    st.text(alphabet="0123456789,; \t+-xaA", max_size=12).map(str.encode),
    st.binary(max_size=30),
)
COLONS = st.sampled_from([b": ", b":", b": ", b": ", b" : ", b":\t", b"", b"::"])
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b""])
LINES = st.tuples(NAMES, COLONS, VALUES, ENDS).map(b"".join)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    line = draw(METHODS) + b" " + draw(TARGETS) + b" " + draw(VERSIONS) + draw(ENDS)
    host = b"Host: " + draw(HOSTS) + draw(ENDS) if draw(st.integers(0, 9)) else b""
    return line + host + b"".join(draw(st.lists(LINES, max_size=5))) + draw(ENDS)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from([b"200 OK", b"204 No", b"304 x", b"100 x", b"101 S", b"600 x", b"200", b"2000", b"20 x", b"200\tx"]))
    line = draw(VERSIONS) + b" " + status + draw(ENDS)
    return line + b"".join(draw(st.lists(LINES, max_size=5))) + draw(ENDS)


SIZES = st.one_of(st.sampled_from([b"5", b"0", b"00", b"a", b"F", b"0x1", b"-1", b" 1", b"1 ", b"", b"4000000000000001"]),
                  st.text(alphabet="0123456789abcdefg", max_size=18).map(str.encode))
EXTENSIONS = st.sampled_from([b""] * 5 + [b";a", b";a=b", b";a=b;c", b";", b";a=", b"; a", b';a="b"', b";" + b"a" * 260])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    chunks = []
    for _ in range(draw(st.integers(0, 4))):
        data = draw(st.binary(max_size=20))
        size = b"%x" % len(data) if data and draw(st.integers(0, 5)) else draw(SIZES)
        chunks += [size, draw(EXTENSIONS), draw(ENDS), data, draw(ENDS)]
    trailers = b"".join(draw(st.lists(st.tuples(NAMES, COLONS, VALUES, ENDS).map(b"".join), max_size=3)))
    return b"".join(chunks) + draw(st.sampled_from([b"0", b"0", b"0", b"", b"00"])) + draw(ENDS) + trailers + draw(ENDS) + b"next"


@given(heads())
@repeatable
def test_request_heads(data: bytes) -> None:
    agreement.agree_on_request_split(data)


@given(heads(), st.integers(1, 200), st.integers(0, 4), st.integers(0, 20), st.booleans(), st.booleans())
@repeatable
def test_request_heads_under_limits(data: bytes, head: int, headers: int, target: int, http_10: bool, absolute: bool) -> None:
    agreement.agree_on_request_split(data, Limits(head, headers, target, http_10, absolute))


@given(responses(), st.sampled_from([b"GET", b"HEAD", b"CONNECT"]))
@repeatable
def test_response_heads(data: bytes, method: bytes) -> None:
    agreement.agree_on_response_split(data, method)


@given(st.binary(max_size=60))
@repeatable
def test_noise(data: bytes) -> None:
    agreement.agree_on_request_split(data)
    agreement.agree_on_response_split(data)
    agreement.agree_on_body_split(data, BODY_CHUNKED)
    agreement.agree_on_trailers(data)


@given(chunked_bodies(), st.sampled_from([8192, 30, 5, 0]))
@repeatable
def test_chunked_bodies(data: bytes, trailer_limit: int) -> None:
    agreement.agree_on_body_split(data, BODY_CHUNKED, trailer_limit=trailer_limit)


@given(chunked_bodies(), st.lists(st.integers(0, 100), max_size=8))
@repeatable
def test_chunked_bodies_in_many_pieces(data: bytes, cuts: list[int]) -> None:
    agreement.agree_on_body(data, BODY_CHUNKED, cuts=[min(cut, len(data)) for cut in cuts])


@given(st.lists(LINES, max_size=4).map(b"".join), st.integers(0, 3))
@repeatable
def test_trailer_lines(data: bytes, headers: int) -> None:
    agreement.agree_on_trailers(data, Limits(headers=headers))


def test_mutated_corpus(request: pytest.FixtureRequest) -> None:
    """The fuzz target, briefly; with --long for as long as it takes to be convincing."""
    ran = fuzz_http1.fuzz(seed=1, iterations=1_000_000 if request.config.getoption("--long") else 8_000)

    assert min(ran) > 500, "mutations that never change the verdict find nothing"
