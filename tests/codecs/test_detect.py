"""Detection of HTTP beside its twin, on every beginning of what clients send."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.codecs.detect import detect_http_bytes
from tests.oracles import detect as oracle
from tests.oracles.detect import HTTP_1_0, HTTP_1_1, HTTP_2, MORE, NONE

repeatable = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

SENT = {
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n": HTTP_1_1,
    b"POST /a?b HTTP/1.0\r\n": HTTP_1_0,
    b"M-SEARCH * HTTP/1.1\r\n": HTTP_1_1,
    b"GET  HTTP/1.1\r\n": HTTP_1_1,                          # the codec's to refuse
    oracle.PREFACE: HTTP_2,
    b"PRI /a HTTP/1.1\r\n": HTTP_1_1,
    b"PRI * HTTP/2.0\r\nX": NONE,
    b"GET / HTTP/1.2\r\n": NONE,
    b"GET / HTTP/2.0\r\n": NONE,
    b"GET /\r\n": NONE,
    b"GET HTTP/1.1\r\n": NONE,
    b"GET / HTTP/1.1\n": NONE,
    b"GET / HTTP/1.1\rX": NONE,
    b"GET / \x01HTTP": NONE,
    b"*1\r\n$4\r\nPING\r\n": NONE,
    b"SSH-2.0-OpenSSH_9.2\r\n": NONE,
    b"EHLO a\r\n": NONE,
    b"\x16\x03\x01\x02\x00": NONE,
    b"\x00\x00\x00\x17": NONE,
    b"\xda\xbb\xc2\x00": NONE,
    b"\r\nGET / HTTP/1.1\r\n": NONE,
    b"G" * 65: NONE,
    b"G" * 64 + b" / HTTP/1.1\r\n": HTTP_1_1,
}


@pytest.mark.parametrize("data", SENT)
def test_it_is_known_as_soon_as_it_can_be(data: bytes) -> None:
    verdict = SENT[data]
    said = [detect_http_bytes(data[:length]) for length in range(len(data) + 1)]

    known = said.index(verdict)
    assert said == [MORE] * known + [verdict] * (len(said) - known)
    assert said == [oracle.detect(data[:length]) for length in range(len(data) + 1)]
    assert said[1:known + 1] == [detect_http_bytes(data[:length], length - 1) for length in range(1, known + 1)]


PIECES = st.sampled_from([
    b"GET", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r", b"\n",
    b"PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n", b"\0", b"\xff", b"G" * 60,
])


@given(st.lists(st.one_of(PIECES, st.binary(max_size=3)), max_size=9).map(b"".join), st.data())
@repeatable
def test_whatever_comes(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))

    assert detect_http_bytes(data) == oracle.detect(data)
    if detect_http_bytes(data[:cut]) == MORE:
        assert detect_http_bytes(data, cut) == oracle.detect(data)
