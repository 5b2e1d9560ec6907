"""Compiled formats print what the plain oracle prints; what a stranger sends cannot end a line or a field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.model import AccessLog
from meshproxy.model.telemetry import DEFAULT_FORMAT
from meshproxy.telemetry.accesslog import Format
from meshproxy.telemetry.operators import HEADERS, OPERATORS, SPAN, TLS_TOLD
from tests.oracles import accesslog as oracle

HOSTNAME, ENVIRONMENT = "vm-7", {"HOME": "/root"}
START_US = 1_700_000_000_123_456

EXCHANGE: dict[str, Any] = {
    "method": b"POST", "path": b"/rew/y?z=2&b=%20x", "original_path": b"/up/y?z=2&b=%20x", "authority": b"ex.test", "scheme": b"http",
    "status": 200, "start_unix_us": START_US, "request_end_us": 1500, "upstream_start_us": 2000, "response_start_us": 8000,
    "response_end_us": 9000, "downstream_start_us": 8100, "duration_us": 1_234_567, "bytes_received": 4, "bytes_sent": 10,
    "wire_bytes_received": 104, "wire_bytes_sent": 110, "attempts": 2, "connection_id": 42, "code_details": b"via upstream",
    "upstream_connection_id": 43, "upstream_version": 2,
    "downstream_remote": b"1.2.3.4:4711", "downstream_direct_remote": b"[::1]:99", "downstream_local": b"127.0.0.1:8080",
    "upstream_host": b"10.0.0.1:80", "upstream_local": b"10.0.0.9:5555", "upstream_cluster": b"svc", "route_name": b"r",
    "virtual_host": b"vh",
    "request": [(b"Host", b"ex.test"), (b"User-Agent", b"curl/8"), (b"X-A", b"one"), (b"x-a", b"two"), (b"X-Empty", b"")],
    "added_lines": b"x-request-id: abc\r\nx-forwarded-for: 1.2.3.4\r\nx-added:   spaced \t\r\n",
    "response_lines": b"server: s\r\nx-envoy-upstream-service-time: 7\r\nX-Multi: 1\r\nx-multi: 2\r\n",
    "trailer_lines": b"grpc-status: 0\r\n",
}


def text(form: str, facts: dict[str, Any] = EXCHANGE, **settings: Any) -> str:
    line = Format(AccessLog(sink="stdout", text=form, **settings), HOSTNAME, ENVIRONMENT).render(facts)
    assert line is not None
    return line.decode("latin-1")


def shaped(shape: dict, facts: dict[str, Any] = EXCHANGE, **settings: Any) -> str:
    line = Format(AccessLog(sink="stdout", json=shape, **settings), HOSTNAME, ENVIRONMENT).render(facts)
    assert line is not None
    return line.decode()


def test_the_default_format() -> None:
    assert text(DEFAULT_FORMAT) == (
        '[2023-11-14T22:13:20.123Z] "POST /up/y?z=2&b=%20x HTTP/1.1" 200 - 4 10 1234 7 "1.2.3.4" "curl/8" "abc" "ex.test" "10.0.0.1:80"\n'
    )


@pytest.mark.parametrize(
    ("form", "printed"),
    [
        ("%RESP(NO?:STATUS)% %RESP(:STATUS):1%", "200 2"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z)%", "2023/11/14T22:13:20+0000"),
        ("%START_TIME(%s.%6f %f %Z %j_%e_%b_%% %E2S)%", "1700000000.123456 123456000 UTC 318_14_Nov_% 20.12"),
        ("%EMIT_TIME(%s.%3f)%", "1700000001.358"),
        ("%REQ(X-A)%", "one"), ("%REQ(X-NO?X-A):2%", "on"), ("%REQ(X-A):0%", ""), ("%REQ(X-EMPTY)%", ""), ("%REQ(X-NO)%", "-"),
        ("%REQ(HOST)% %REQ(:AUTHORITY)% %REQ(:SCHEME)% %REQ(:METHOD)%", "ex.test ex.test http POST"),
        ("%REQ(:PATH)%", "/rew/y?z=2&b=%20x"), ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/up/y?z=2&b=%20x"), ("%REQ(X-ADDED)%", "spaced"),
        ("%RESP(X-MULTI)% %RESP(:STATUS)% %RESP(NO?SERVER)% %RESPONSE_HEADER(SERVER)%", "1 200 s s"),
        ("%TRAILER(GRPC-STATUS)% %TRAILER(X)% %RESPONSE_TRAILER(X?GRPC-STATUS)%", "0 - 0"),
        ("%PATH% %PATH(NQ)% %PATH(WQ:ORIG)% %PATH(NQ:PATH)%", "/up/y?z=2&b=%20x /up/y /up/y?z=2&b=%20x /rew/y"),
        ("%QUERY_PARAM(z)%|%QUERY_PARAM(b)%|%QUERY_PARAM(no)%|%QUERY_PARAMS%", "2| x|-|z=2&b=%20x"),
        ("%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via_upstream via upstream"),
        ("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "1234 1 8 1226"),
        ("%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)% %COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:ns)%", "6000 8100000"),
        ("%COMMON_DURATION(US_RX_BEG:US_TX_BEG:ms)%", "-"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", "1.2.3.4 4711"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "::1"),
        ("%DOWNSTREAM_LOCAL_PORT% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_ADDRESS%", "8080 80 10.0.0.9:5555"),
        ("%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %ROUTE_NAME% %VIRTUAL_HOST_NAME%", "svc svc r vh"),
        ("%CONNECTION_ID% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %DOWNSTREAM_WIRE_BYTES_SENT%", "42 2 110"),
        ("%HOSTNAME% %ENVIRONMENT(HOME)% %ENVIRONMENT(NO)% %ACCESS_LOG_TYPE% %REQUESTED_SERVER_NAME%", "vm-7 /root - DownstreamEnd -"),
        ("100%%", "100%"), ("", ""),
    ],
)
def test_operators(form: str, printed: str) -> None:
    assert text(form) == printed


def test_a_request_that_could_not_be_read() -> None:
    """As Envoy has it: the protocol is said to be 1.1, whatever the head would have told is absent."""
    bad = {"status": 400, "flags": 1 << 17, "duration_us": 0, "scheme": b"http"}
    form = '"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %REQ(:SCHEME)%'

    assert text(form, bad) == '"- - HTTP/1.1" 400 DPE -'


def test_no_response_at_all() -> None:
    gone = {**EXCHANGE, "status": 0, "flags": 1 << 13, "response_lines": None, "response_start_us": -1}
    assert text("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESP(:STATUS)% %RESP(SERVER)% %RESPONSE_DURATION%", gone) == "0 DC - - -"


def test_flags_stand_in_the_order_of_their_bits() -> None:
    many = {**EXCHANGE, "flags": (1 << 14) | (1 << 5) | 1}
    assert text("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", many) == (
        "LH,UF,URX FailedLocalHealthCheck,UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    )
    every = {**EXCHANGE, "flags": (1 << 23) - 1}
    assert text("%RESPONSE_FLAGS_LONG%", every).count(",") == 22


def test_unix_sockets_have_no_port() -> None:
    pipe = {**EXCHANGE, "downstream_remote": b"/run/x.sock", "upstream_host": b"/run/8080"}
    assert text("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT% %UPSTREAM_REMOTE_PORT%", pipe) == "/run/x.sock - -"


def test_an_injected_line_or_field_stays_inside_its_own() -> None:
    hostile = {**EXCHANGE, "request": [(b"User-Agent", b'a"\r\n[fake] \\x22\x1b[2J\x7f\xc3\xa9\xff')]}
    assert text('"%REQ(USER-AGENT)%"', hostile) == '"a\\x22\\x0D\\x0A[fake] \\x5Cx22\\x1B[2J\\x7F\xc3\xa9\xff"'


def test_json_keeps_order_and_types() -> None:
    shape = {
        "b": "%RESPONSE_CODE%", "a": "%REQ(X-A)%", "none": "%REQ(NO)%", "mix": "x %BYTES_SENT% %REQ(NO)%",
        "two": "%BYTES_SENT%%BYTES_SENT%",
        "n": {"l": ["%DURATION%", "%REQ(NO)%", "lit"], "e": {}}, "port": "%UPSTREAM_REMOTE_PORT%", "flags": "%RESPONSE_FLAGS%", "ok": True,
        "nul": None, "num": 5, 'q"k': "100%%",
    }
    assert shaped(shape) == (
        '{"b":200,"a":"one","none":null,"mix":"x 10 -","two":"1010","n":{"l":[1234,null,"lit"],"e":{}},"port":80,"flags":"-","ok":true,'
        '"nul":null,"num":5,"q\\"k":"100%"}\n'
    )


def test_json_without_empty_values_leaves_out_what_becomes_empty() -> None:
    shape = {
        "first": "%REQ(NO)%", "mix": "x %REQ(NO)%", "l": ["%REQ(NO)%", "lit"], "only": {"q": "%REQ(NO)%", "r": [None]}, "nul": None,
        "last": "%BYTES_SENT%",
    }
    assert shaped(shape, omit_empty_values=True) == '{"mix":"x ","l":["lit"],"last":10}\n'
    assert shaped({"a": "%REQ(NO)%"}, omit_empty_values=True) == "{}\n"


def test_text_without_empty_values() -> None:
    assert text("[%REQ(NO)%] %RESPONSE_FLAGS%", omit_empty_values=True) == "[] -"


def test_json_of_hostile_bytes_is_json() -> None:
    hostile = {**EXCHANGE, "request": [(b"x-a", b'q"\\\t\x00\x7f \xc3\xa9 \xff\xc3')]}
    line = shaped({"a": "%REQ(X-A)%", "m": "<%REQ(X-A):8%>"}, hostile)

    assert json.loads(line) == {"a": 'q"\\\t\x00\x7f é \xff\xc3', "m": '<q"\\\t\x00\x7f \xc3>'}


def test_json_nested_too_deep_is_refused() -> None:
    shape: dict = {}
    for _ in range(17):
        shape = {"a": shape}
    with pytest.raises(ValueError, match="nested deeper than 16"):
        shaped(shape)


def test_a_syslog_line_always_ends() -> None:
    log = AccessLog(sink="syslog", path="/dev/log", text="x")
    assert Format(log, "", {}).render({}) == b"x\n"


def test_an_unchecked_format_is_refused_not_compiled() -> None:
    with pytest.raises(ValueError, match="Not supported field in StreamInfo: NOPE"):
        text("%NOPE%")


@pytest.mark.parametrize("shape", [None, {"a": "%REQ(X-A)%", "b": ["%DURATION%", "x%START_TIME%"], "c": {}}])
def test_a_line_is_whole_or_not_there(shape: dict | None) -> None:
    log = AccessLog(sink="stdout", json=shape) if shape else AccessLog(sink="stdout", text=DEFAULT_FORMAT)
    line = Format(log, "", {}).render(EXCHANGE)
    assert line is not None

    assert Format(log, "", {}).render(EXCHANGE, len(line)) == line
    assert {Format(log, "", {}).render(EXCHANGE, capacity) for capacity in range(len(line))} == {None}


def test_the_second_turns_over() -> None:
    """The text of a second is remembered, so it has to be forgotten with it."""
    form = Format(AccessLog(sink="stdout", text="%START_TIME%"), "", {})
    lines = [form.render({"start_unix_us": at}) for at in (999_999, 1_000_000, 999_999, 86_400_000_000)]

    assert lines == [b"1970-01-01T00:00:00.999Z", b"1970-01-01T00:00:01.000Z", b"1970-01-01T00:00:00.999Z", b"1970-01-02T00:00:00.000Z"]


# ---- agreement with the oracle ----

NAMES = ["x-a", "X-B", "User-Agent", "host", ":path", ":method", ":authority", ":scheme", ":status"]
NAMES += ["x-envoy-original-path", "x-request-id"]
TIMES = ["%s", "%f", "%3f", "%1f", "%Y-%m-%d", "%H:%M:%S.%6f %Z", "%E3S", "%E0S", "%j %b%%", "plain"]
values = st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"").strip(b" \t"))
header_names = st.sampled_from([name.encode() for name in NAMES if not name.startswith(":")])


def lines_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


headers = st.lists(st.tuples(header_names, values), max_size=4)
micros = st.integers(-1, 10_000_000)
texts = st.one_of(st.none(), st.binary(min_size=1, max_size=10))
addresses = st.one_of(st.none(), st.sampled_from([b"1.2.3.4:80", b"[::1]:4711", b"/run/s", b"/run/a:b", b"::", b"x:", b":1"]))
told = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {name: st.integers(0, 4_000_000_000).map(b"%d".__mod__) if "_CERT_V_" in name else texts for name in TLS_TOLD},
    ),
)
facts = st.fixed_dictionaries(
    {
        "method": texts, "path": st.sampled_from([b"/", b"/a?x=1&y=%2f%zz%4", b"/a?x", b"/?x=&x=2", None]),
        "original_path": st.sampled_from([None, b"/", b"/o?x=3"]), "authority": texts, "scheme": st.just(b"http"),
        "status": st.sampled_from([0, 200, 503]), "flags": st.integers(0, (1 << 23) - 1),
        "start_unix_us": st.integers(0, 4_000_000_000_000_000),
        "request_end_us": micros, "upstream_start_us": micros, "response_start_us": micros, "response_end_us": micros,
        "downstream_start_us": micros, "duration_us": micros, "bytes_received": st.integers(0, 1 << 62), "bytes_sent": st.just(7),
        "attempts": st.integers(0, 3), "connection_id": st.integers(0, 1 << 40), "minor_version": st.integers(0, 1), "code_details": texts,
        "upstream_connection_id": st.integers(0, 1 << 40), "upstream_version": st.integers(0, 2),
        "termination_details": texts, "downstream_remote": addresses, "downstream_direct_remote": addresses, "downstream_local": addresses,
        "upstream_host": addresses, "upstream_local": addresses, "upstream_cluster": texts, "route_name": texts, "virtual_host": texts,
        "upstream_failure_reason": texts, "downstream_failure_reason": texts, "server_name": texts, "ja3": texts, "ja4": texts,
        "trace_id": texts,
        "downstream_tls": told, "upstream_tls": told, "request": st.one_of(st.none(), headers), "added_lines": headers.map(lines_of),
        "response_lines": headers.map(lines_of), "trailer_lines": headers.map(lines_of),
    },
)


@st.composite
def operators(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(OPERATORS)))
    row, argument = OPERATORS[name], ""
    if row.argument == HEADERS:
        argument = "?".join(draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)))
        length = draw(st.one_of(st.just(""), st.integers(0, 9).map(lambda number: f":{number}")))
        return f"%{name}({argument}){length}%"
    if row.argument == SPAN:
        points = draw(st.tuples(*[st.sampled_from(list(oracle.POINTS))] * 2))
        return f"%{name}({points[0]}:{points[1]}:{draw(st.sampled_from(['ms', 'us', 'ns']))})%"
    choices = {
        "START_TIME": TIMES, "EMIT_TIME": TIMES, "DOWNSTREAM_PEER_CERT_V_START": TIMES, "UPSTREAM_PEER_CERT_V_END": TIMES,
        "PATH": ["WQ", "NQ", "NQ:ORIG", "WQ:PATH"], "QUERY_PARAM": ["x", "y"],
        "ENVIRONMENT": ["HOME", "NO"], "RESPONSE_CODE_DETAILS": ["ALLOW_WHITESPACES", ""],
    }
    argument = draw(st.sampled_from(choices.get(name, [""])))
    return f"%{name}({argument})%" if argument else f"%{name}%"


literals = st.text(st.characters(codec="utf-8"), max_size=5).map(lambda text: text.replace("%", "%%"))
forms = st.lists(st.one_of(operators(), literals), max_size=5).map("".join)
shapes = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.one_of(forms, st.none(), st.booleans(), st.integers(0, 9)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(forms, facts, st.booleans())
def test_text_agrees_with_the_oracle(form: str, given_facts: dict, omit: bool) -> None:
    compiled = Format(AccessLog(sink="stdout", text=form, omit_empty_values=omit), HOSTNAME, ENVIRONMENT)

    assert compiled.render(given_facts) == oracle.line(given_facts, form, None, omit, HOSTNAME, ENVIRONMENT)


@settings(max_examples=300, deadline=None)
@given(shapes, facts, st.booleans())
def test_json_agrees_with_the_oracle_and_is_json(shape: dict, given_facts: dict, omit: bool) -> None:
    line = Format(AccessLog(sink="stdout", json=shape, omit_empty_values=omit), HOSTNAME, ENVIRONMENT).render(given_facts)

    assert line == oracle.line(given_facts, None, shape, omit, HOSTNAME, ENVIRONMENT)
    json.loads(line)
