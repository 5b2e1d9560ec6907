"""The compiled HTTP/1 codec and its twin side by side: each function asserts that they agree, and gives what they agreed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from meshproxy.codecs import http1 as codec
from tests.oracles import http1 as oracle
from tests.oracles.http1 import BODY_END, BODY_MORE, DEFAULTS, MORE, Body, Limits

SPLIT_EVERYWHERE_BELOW_BYTES = 1500
"""Longer inputs are split at some hundred places: every prefix of them costs the square of their length."""

Verdict = dict | int
Parse = Callable[[bytes, int], Verdict]


def compiled_request(data: bytes, scanned: int = 0, limits: Limits = DEFAULTS) -> Verdict:
    said = codec.parse_request_bytes(
        data, scanned=scanned, head_bytes=limits.head_bytes, headers=limits.headers, target_bytes=limits.target_bytes,
        allow_http_10=limits.allow_http_10, allow_absolute_form=limits.allow_absolute_form,
    )
    return said[0] if isinstance(said, tuple) else said


def compiled_response(data: bytes, method: bytes = b"GET", scanned: int = 0, limits: Limits = DEFAULTS) -> Verdict:
    said = codec.parse_response_bytes(data, method, scanned=scanned, head_bytes=limits.head_bytes, headers=limits.headers)
    return said[0] if isinstance(said, tuple) else said


def places(length: int) -> Iterable[int]:
    """Where to split an input of that length."""
    return range(length + 1) if length < SPLIT_EVERYWHERE_BELOW_BYTES else range(0, length + 1, max(length // 200, 1))


def agree_on_request(data: bytes, limits: Limits = DEFAULTS) -> Verdict:
    said = compiled_request(data, 0, limits)
    assert said == oracle.parse_request(data, limits), data
    return said


def agree_on_response(data: bytes, method: bytes = b"GET", limits: Limits = DEFAULTS) -> Verdict:
    said = compiled_response(data, method, 0, limits)
    assert said == oracle.parse_response(data, method, limits), data
    return said


def agree_on_request_split(data: bytes, limits: Limits = DEFAULTS, cuts: Iterable[int] | None = None) -> Verdict:
    whole = agree_on_request(data, limits)
    agree_at_cuts(
        data, whole, places(len(data)) if cuts is None else cuts,
        lambda prefix, scanned: compiled_request(prefix, scanned, limits), lambda prefix: oracle.parse_request(prefix, limits),
    )
    return whole


def agree_on_response_split(data: bytes, method: bytes = b"GET", cuts: Iterable[int] | None = None) -> Verdict:
    whole = agree_on_response(data, method)
    agree_at_cuts(
        data, whole, places(len(data)) if cuts is None else cuts,
        lambda prefix, scanned: compiled_response(prefix, method, scanned), lambda prefix: oracle.parse_response(prefix, method),
    )
    return whole


def agree_at_cuts(data: bytes, whole: Verdict, cuts: Iterable[int], parse: Parse, twin: Callable[[bytes], Verdict]) -> None:
    """The head arrives up to each cut in turn. A head that is good in the end is never refused on the way, and one that is refused early
    is refused in the end."""
    scanned = 0
    for cut in cuts:
        said = parse(data[:cut], scanned)
        assert said == twin(data[:cut]), (data, cut)
        if said != MORE:
            assert said == whole if isinstance(said, dict) else isinstance(whole, int) and whole < 0, (data, cut)
            return
        scanned = cut


def feed(pieces: Iterable[bytes], body: int, content_length: int, trailer_limit: int) -> Body:
    """The body that a decoder makes of the pieces."""
    decoder = codec.Decoder(body, content_length, trailer_limit)
    decoded, said, consumed, trailers = b"", BODY_MORE, 0, None
    for piece in pieces:
        slices, said, taken, trailers = decoder.feed(piece)
        assert all(slices), "an empty slice of body"
        decoded += b"".join(slices)
        consumed += taken
        if said != BODY_MORE:
            break
        assert taken == len(piece)
    return Body(decoded, said, consumed, trailers) if said == BODY_END else Body(decoded, said)


def cut_up(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    begin = 0
    for cut in sorted(cuts):
        yield data[begin:cut]
        begin = cut
    yield data[begin:]


def agree_on_body(data: bytes, body: int, content_length: int = -1, trailer_limit: int = 8192, cuts: Iterable[int] = ()) -> Body:
    wanted = oracle.decode_body(data, body, content_length, trailer_limit)
    if wanted.said != BODY_END:
        wanted = Body(wanted.data, wanted.said)
    assert feed(cut_up(data, cuts), body, content_length, trailer_limit) == wanted, (data, body, content_length, cuts)
    return wanted


def agree_on_body_split(data: bytes, body: int, content_length: int = -1, trailer_limit: int = 8192) -> Body:
    """In one piece, in two at every place, and byte by byte."""
    for cut in places(len(data)):
        agree_on_body(data, body, content_length, trailer_limit, (cut,))
    agree_on_body(data, body, content_length, trailer_limit, range(1, len(data)))
    return agree_on_body(data, body, content_length, trailer_limit)


def agree_on_trailers(data: bytes, limits: Limits = DEFAULTS) -> Verdict:
    said = codec.parse_trailers_bytes(data, headers=limits.headers)
    said = said[0] if isinstance(said, tuple) else {key: said[key] for key in ("headers", "known")}
    assert said == oracle.parse_trailers(data, limits), data
    return said
