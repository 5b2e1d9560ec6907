"""B3 and W3C trace context in and out, and which requests are traced."""

from __future__ import annotations

import pytest
from meshproxy.proxy.span import RouteTrace, Tracer, hand_on, verdict

from meshproxy.model import CustomTag, Decorator, DirectResponse, PathMatch, Route, RouteTracing, Tracing

TRACE, SPAN, PARENT = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312", "0020000000000001"
ALL = ("b3", "b3_single", "w3c")
NEW = 0xABC
UUID = "00000000-0000-4000-8000-000000000000"


def said(headers: list[tuple[str, str]], propagation: tuple[str, ...] = ALL) -> tuple[bool, str, str, str | None, int]:
    found, _, _ = hand_on(headers, propagation)
    parent = None if found["parent"] is None else f"{found['parent']:016x}"
    return bool(found["found"]), f"{found['trace']:032x}", f"{found['id']:016x}", parent, found["sampled"]


MULTI = [("X-B3-TraceId", TRACE), ("X-B3-SpanId", SPAN)]
WHOLE = (True, TRACE, SPAN)
NOTHING = (False, "0" * 32, "0" * 16)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (MULTI, (*WHOLE, None, -1)),
        ([*MULTI, ("x-b3-sampled", "1"), ("x-b3-parentspanid", PARENT)], (*WHOLE, PARENT, 1)),
        ([*MULTI, ("x-b3-sampled", "true")], (*WHOLE, None, 1)),
        ([*MULTI, ("x-b3-sampled", "false")], (*WHOLE, None, 0)),
        ([*MULTI, ("x-b3-flags", "1"), ("x-b3-sampled", "0")], (*WHOLE, None, 1)),
        ([("x-b3-traceid", TRACE[16:]), ("x-b3-spanid", SPAN)], (True, "0" * 16 + TRACE[16:], SPAN, None, -1)),
        ([("b3", f"{TRACE}-{SPAN}-1-{PARENT}")], (*WHOLE, PARENT, 1)),
        ([("b3", f"{TRACE}-{SPAN}-d")], (*WHOLE, None, 1)),
        ([("b3", f"{TRACE}-{SPAN}")], (*WHOLE, None, -1)),
        ([("b3", f"{TRACE[16:]}-{SPAN}-0")], (True, "0" * 16 + TRACE[16:], SPAN, None, 0)),
        ([("b3", "0")], (*NOTHING, None, 0)),
        ([("b3", f"{TRACE}-{SPAN}-1"), ("x-b3-traceid", "1" * 32), ("x-b3-spanid", "2" * 16)], (*WHOLE, None, 1)),
        ([("b3", "nonsense"), *MULTI], (*WHOLE, None, -1)),
        ([("traceparent", f"00-{TRACE}-{SPAN}-01")], (*WHOLE, None, 1)),
        ([("traceparent", f"00-{TRACE}-{SPAN}-00")], (*WHOLE, None, 0)),
        ([("traceparent", f"01-{TRACE}-{SPAN}-03-more")], (*WHOLE, None, 1)),
        ([("traceparent", f"00-{TRACE}-{SPAN}-01"), ("x-b3-sampled", "0")], (*WHOLE, None, 0)),
        ([("x-b3-traceid", TRACE)], (*NOTHING, None, -1)),
    ],
)
def test_what_a_head_says(headers: list[tuple[str, str]], wanted: tuple) -> None:
    assert said(headers) == wanted


@pytest.mark.parametrize(
    "header",
    [
        ("b3", ""), ("b3", "x"), ("b3", f"{TRACE}-{SPAN}-1-{PARENT}0"), ("b3", f"{TRACE}-{SPAN}-"), ("b3", f"{TRACE}_{SPAN}"),
        ("b3", f"{'0' * 32}-{SPAN}"), ("b3", f"{TRACE}-{'0' * 16}"), ("b3", f"{TRACE}-{SPAN}-1-"), ("b3", f"{TRACE[1:]}-{SPAN}"),
        ("traceparent", ""), ("traceparent", f"ff-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-01-"),
        ("traceparent", f"00-{'0' * 32}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{'0' * 16}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-0g"),
        ("traceparent", f"01-{TRACE}-{SPAN}-01more"), ("traceparent", f"0-{TRACE}-{SPAN}-01"),
    ],
)
def test_what_is_malformed_is_not_there(header: tuple[str, str]) -> None:
    assert said([header]) == (*NOTHING, None, -1)


@pytest.mark.parametrize("cut", range(70))
def test_no_cut_of_a_good_value_is_read_beyond_its_end(cut: int) -> None:
    found, *_ = said([("b3", f"{TRACE}-{SPAN}-1-{PARENT}"[:cut])])

    assert found == (cut in (49, 51, 68, 69))


def test_a_format_that_is_not_ours_passes() -> None:
    headers = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), *MULTI]
    _, left, lines = hand_on(headers, ("w3c",), NEW)

    assert [name.lower() for name in left] == [b"host", b"tracestate", b"x-b3-traceid", b"x-b3-spanid"]
    assert lines == f"traceparent: 00-{TRACE}-{NEW:016x}-01\r\n".encode()


def test_the_state_of_another_trace_goes() -> None:
    assert hand_on([("tracestate", "a=1")], ("w3c",))[1] == [b"host"]
    assert hand_on([("traceparent", "bad"), ("tracestate", "a=1")], ("w3c",))[1] == [b"host"]


def test_all_formats_out() -> None:
    _, left, lines = hand_on([("b3", f"{TRACE}-{SPAN}-1-{PARENT}")], ALL, NEW)

    assert left == [b"host"]
    assert lines.decode().split("\r\n") == [
        f"x-b3-traceid: {TRACE}", f"x-b3-spanid: {NEW:016x}", f"x-b3-parentspanid: {SPAN}", "x-b3-sampled: 1",
        f"b3: {TRACE}-{NEW:016x}-1-{SPAN}", f"traceparent: 00-{TRACE}-{NEW:016x}-01", "",
    ]


def test_a_single_header_that_came_goes_on_as_one() -> None:
    lines = hand_on([("b3", f"{TRACE[16:]}-{SPAN}-d")], ("b3",), NEW)[2].decode()

    assert f"b3: {TRACE[16:]}-{NEW:016x}-d-{SPAN}\r\n" in lines


# ---- sampling ----


def tracer(client: float = 100, random: float = 100, overall: float = 100) -> Tracer:
    return Tracer(Tracing(exporter="none", client_percent=client, random_percent=random, overall_percent=overall), 1)


def marked(digit: str, lot: int = 0) -> str:
    return f"{lot:08x}{UUID[8:14]}{digit}{UUID[15:]}"


CLIENT, FORCE = [("x-client-trace-id", "c")], [("x-envoy-force-trace", "1")]


@pytest.mark.parametrize(
    ("percents", "headers", "uuid", "wanted"),
    [
        ((), (), marked("4"), (True, marked("9"))),
        ((100, 0), (), marked("4"), (False, marked("4"))),
        ((100, 10), (), marked("4", 999), (True, marked("9", 999))),
        ((100, 10), (), marked("4", 1000), (False, marked("4", 1000))),
        ((100, 10), (), marked("4", 10_999), (True, marked("9", 10_999))),
        ((100, 0), CLIENT, marked("4"), (True, marked("b"))),
        ((0, 0), CLIENT, marked("4"), (False, marked("4"))),
        ((100, 0), FORCE, marked("4"), (True, marked("a"))),
        ((100, 0), (), marked("9"), (True, marked("9"))),
        ((100, 0), (), marked("a"), (True, marked("a"))),
        ((100, 100, 0), (), marked("b"), (False, marked("4"))),
        ((100, 100, 50), (), marked("4", 5000), (False, marked("4", 5000))),
        ((), (), "seven", (False, "seven")),
        ((), (), "x" * 36, (False, "x" * 36)),
    ],
)
def test_sampling(percents: tuple, headers: list, uuid: str, wanted: tuple) -> None:
    assert verdict(tracer(*percents), None, headers, uuid) == wanted


def test_a_clients_share_is_by_chance() -> None:
    assert verdict(tracer(30, 0), None, CLIENT, UUID, chance=2999)[0]
    assert not verdict(tracer(30, 0), None, CLIENT, UUID, chance=3000)[0]


def test_a_route_has_the_last_word() -> None:
    def of(tracing: RouteTracing | None) -> RouteTrace:
        action = DirectResponse(status=200)
        return RouteTrace(Route(path=PathMatch("prefix", "/"), action=action, tracing=tracing, decorator=Decorator(operation="x")))

    assert not verdict(tracer(), of(RouteTracing(random_percent=0)), (), UUID)[0]
    assert verdict(tracer(0, 0), of(RouteTracing(random_percent=100)), (), UUID)[0]
    assert not verdict(tracer(0, 0), of(None), (), UUID)[0]


def test_a_tag_without_a_value_is_none() -> None:
    Tracer(Tracing(exporter="none", custom_tags=(CustomTag(name="a", kind="environment", value="MESHPROXY_NOT_SET"),)), 1)
