"""Envoy itself prints and judges the same formats. What only it can know (ports, times) is read from its own line."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from meshproxy.model import AccessLog
from meshproxy.telemetry.accesslog import Format
from meshproxy.telemetry.operators import NOT_YET, OPERATORS, check_format
from tests.peers import bootstrap
from tests.peers.envoy import Envoy, validate
from tests.peers.process import PeerMissingError, free_ports

pytestmark = pytest.mark.slow

KNOWN = (
    "START_TIME(%s.%6f)", "DOWNSTREAM_REMOTE_PORT", "DURATION", "REQUEST_DURATION", "CONNECTION_ID",
    "DOWNSTREAM_WIRE_BYTES_SENT", "DOWNSTREAM_WIRE_BYTES_RECEIVED", "HOSTNAME",
)  # fmt: skip
COMPARED = """PROTOCOL RESPONSE_CODE RESPONSE_CODE_DETAILS RESPONSE_FLAGS RESPONSE_FLAGS_LONG BYTES_RECEIVED BYTES_SENT DURATION
REQUEST_DURATION
RESPONSE_DURATION RESPONSE_TX_DURATION DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT
DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_PORT UPSTREAM_HOST UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW
UPSTREAM_LOCAL_ADDRESS UPSTREAM_REMOTE_PORT UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_TRANSPORT_FAILURE_REASON CONNECTION_ID
CONNECTION_TERMINATION_DETAILS ROUTE_NAME HOSTNAME REQUESTED_SERVER_NAME PATH PATH(NQ) PATH(WQ:ORIG) PATH(NQ:PATH) QUERY_PARAM(a)
QUERY_PARAM(b) QUERY_PARAM(c) QUERY_PARAMS REQ(USER-AGENT) REQ(USER-AGENT):5 REQ(X-A) REQ(X-EMPTY) REQ(HOST) REQ(:AUTHORITY)
REQ(:SCHEME) REQ(:METHOD) REQ(:PATH) REQ(X-ENVOY-ORIGINAL-PATH?:PATH) REQ(X-NO?X-A):2 REQ(X-A):0 RESP(:STATUS) RESP(SERVER) TRAILER(X)
ACCESS_LOG_TYPE ENVIRONMENT(NOT_SET_ANYWHERE) START_TIME START_TIME(%s) START_TIME(%3f) START_TIME(%6f) START_TIME(%s.%3f)
START_TIME(%Y/%m/%dT%H:%M:%S%z) START_TIME(%E3S) START_TIME(%Z) START_TIME(%q) START_TIME(%j_%e_%b_%%) START_TIME(plain)
DOWNSTREAM_WIRE_BYTES_SENT DOWNSTREAM_WIRE_BYTES_RECEIVED""".split()
SHAPE = {
    "code": "%RESPONSE_CODE%", "agent": "%REQ(USER-AGENT)%", "mix": "x %REQ(X-A)% %REQ(NOPE)%", "none": "%REQ(NOPE)%",
    "n": {"dur": "%BYTES_SENT%", "l": ["%BYTES_RECEIVED%", "%REQ(NOPE)%", "lit"]}, "flags": "%RESPONSE_FLAGS%", "ok": True, "num": 5,
    "status": "%RESP(NO?:STATUS):2%", "nul": None, "empty": "%REQ(X-EMPTY)%", "only": {"q": "%REQ(NOPE)%"},
    "two": "%BYTES_SENT%%BYTES_SENT%", "pct": "100%%",
}
AGENT = b"q'uo te \xe4\xff"
REQUESTS = {
    "direct": b"GET /d/x?a=1&b=%20 HTTP/1.1\r\nhost: ex.test\r\nuser-agent: " + AGENT + b"\r\nx-a: one\r\nx-a: two\r\nx-empty:\r\n\r\n",
    "missing": b"GET /nope HTTP/1.1\r\nhost: h\r\n\r\n",
    "garbage": b"BAD\x01 / HTTP/1.1\r\n\r\n",
}
FACTS: dict[str, dict[str, Any]] = {
    "direct": {
        "method": b"GET", "path": b"/d/x?a=1&b=%20", "original_path": b"/d/x?a=1&b=%20", "authority": b"ex.test", "scheme": b"http",
        "status": 200, "code_details": b"direct_response", "bytes_sent": 5, "route_name": b"rd",
        "request": [(b"user-agent", AGENT), (b"x-a", b"one"), (b"x-a", b"two"), (b"x-empty", b"")], "response_lines": b"server: envoy\r\n",
    },
    "missing": {
        "method": b"GET", "path": b"/nope", "original_path": b"/nope", "authority": b"h", "scheme": b"http", "status": 404, "flags": 1 << 8,
        "code_details": b"route_not_found", "request": [], "response_lines": b"server: envoy\r\n",
    },
    "garbage": {
        "status": 400, "flags": 1 << 17, "code_details": b"http1.invalid_characters", "bytes_sent": 11,
        "response_lines": b"server: envoy\r\n",
    },
}  # fmt: skip


def file_log(path: Path, **form: Any) -> dict:
    log = bootstrap.file_log(str(path))
    log["typed_config"]["log_format"] = form
    return log


def manager_config(port: int, logs: list[dict]) -> dict:
    direct = {"match": {"prefix": "/d"}, "name": "rd", "direct_response": {"status": 200, "body": {"inline_string": "hello"}}}
    listener = bootstrap.http_listener("l", port, [bootstrap.virtual_host([direct])], access_log=logs)
    return bootstrap.bootstrap([listener], [])


@pytest.fixture(scope="module")
def envoys_lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By request: the compared operators' lines, the known values, and the JSON lines with and without empty values."""
    folder = tmp_path_factory.mktemp("envoy")
    (port,) = free_ports(1)
    logs = [
        file_log(folder / "text", text_format_source={"inline_string": "\n".join(f"%{form}%" for form in [*KNOWN, *COMPARED]) + "\n"}),
        file_log(folder / "json", json_format=SHAPE),
        file_log(folder / "omit", json_format=SHAPE, omit_empty_values=True),
    ]
    try:
        envoy = Envoy(folder, manager_config(port, logs), [port])
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    with envoy:
        for request in REQUESTS.values():
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(request)
                client.settimeout(5)
                assert client.recv(65536)
    printed = (folder / "text").read_bytes().decode("latin-1").split("\n")
    size = len(KNOWN) + len(COMPARED)
    lines = {}
    # The probe that waited for the port sent nothing and left no line.
    for at, name in enumerate(REQUESTS):
        block = printed[at * size : (at + 1) * size]
        lines[name] = {
            "known": dict(zip(KNOWN, block, strict=False)), "compared": block[len(KNOWN) :],
            "json": json.loads((folder / "json").read_bytes().splitlines()[at]),
            "omit": json.loads((folder / "omit").read_bytes().splitlines()[at]),
            "port": port,
        }  # fmt: skip
    return lines


def facts_of(name: str, lines: dict[str, Any]) -> dict[str, Any]:
    known = lines["known"]
    seconds, _, micros = known["START_TIME(%s.%6f)"].partition(".")
    remote = f"127.0.0.1:{known['DOWNSTREAM_REMOTE_PORT']}".encode()
    return {
        **FACTS[name], "start_unix_us": int(seconds) * 1_000_000 + int(micros), "duration_us": int(known["DURATION"]) * 1000,
        "request_end_us": -1 if known["REQUEST_DURATION"] == "-" else int(known["REQUEST_DURATION"]) * 1000,
        "connection_id": int(known["CONNECTION_ID"]), "downstream_remote": remote, "downstream_direct_remote": remote,
        "downstream_local": f"127.0.0.1:{lines['port']}".encode(), "wire_bytes_sent": int(known["DOWNSTREAM_WIRE_BYTES_SENT"]),
        "wire_bytes_received": int(known["DOWNSTREAM_WIRE_BYTES_RECEIVED"]),
    }  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_envoy_prints_the_same_text(envoys_lines: dict[str, dict[str, Any]], name: str) -> None:
    lines = envoys_lines[name]
    facts = facts_of(name, lines)
    ours = [
        (Format(AccessLog(sink="stdout", text=f"%{form}%"), lines["known"]["HOSTNAME"], {}).render(facts) or b"").decode("latin-1")
        for form in COMPARED
    ]

    assert dict(zip(COMPARED, ours, strict=True)) == dict(zip(COMPARED, lines["compared"], strict=True))


@pytest.mark.parametrize("omit", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
def test_envoy_prints_the_same_json(envoys_lines: dict[str, dict[str, Any]], name: str, omit: bool) -> None:
    """Envoy sorts the keys and we keep their order; what is compared is the meaning."""
    lines = envoys_lines[name]
    line = Format(AccessLog(sink="stdout", json=SHAPE, omit_empty_values=omit), "", {}).render(facts_of(name, lines))

    assert line is not None
    assert json.loads(line) == lines["omit" if omit else "json"]


JUDGED = [
    "%NOPE%", "a %% b %", "abc %REQ(%", "%BYTES_SENT%x%", "%req(x)%", "%REQ(X):x%", "%REQ()%", "%REQ%", "%REQ(A?B?C)%", "%REQ(A B)%",
    "%PROTOCOL(X)%", "%DURATION:1%", "%START_TIME:3%", "%START_TIME(%n)%", "%PATH(X)%", "%PATH(NQ:X)%", "%QUERY_PARAM%",
    "%QUERY_PARAMS(x)%",
    "%COMMON_DURATION(X)%", "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:m)%", "%ENVIRONMENT%", "%REQ(X):0%", "%RESPONSE_CODE_DETAILS(X)%",
]  # fmt: skip


def verdict(folder: Path, text: str) -> str:
    try:
        return validate(folder, manager_config(1, [file_log(folder / "log", text_format_source={"inline_string": text})]))
    except PeerMissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("text", JUDGED)
def test_envoy_says_the_same_of_a_format(tmp_path: Path, text: str) -> None:
    envoys, ours = verdict(tmp_path, text), check_format(text)

    assert bool(ours) == bool(envoys)
    assert all(problem.split(": REQ(")[0] in envoys for problem in ours), envoys


def test_envoy_knows_every_operator_that_we_have(tmp_path: Path) -> None:
    arguments = {
        "REQ": "X", "RESP": "X", "TRAILER": "X", "REQUEST_HEADER": "X", "RESPONSE_HEADER": "X", "RESPONSE_TRAILER": "X", "QUERY_PARAM": "X",
        "ENVIRONMENT": "X", "COMMON_DURATION": "DS_RX_BEG:DS_TX_END:ms",
    }  # fmt: skip
    names = [name for name in OPERATORS if name != "VIRTUAL_HOST_NAME"]
    text = " ".join(f"%{name}({arguments[name]})%" if name in arguments else f"%{name}%" for name in names)

    assert verdict(tmp_path, text) == ""


def test_what_we_call_missing_is_envoys(tmp_path: Path) -> None:
    """A name that Envoy does not know is a typing error and must be called one."""
    with_arguments = {name for name in NOT_YET if "METADATA" in name or "FILTER_STATE" in name} | {"CEL"}
    unknown = [name for name in sorted(NOT_YET - with_arguments) if "Not supported field" in verdict(tmp_path, f"%{name}%")]

    assert unknown == []
