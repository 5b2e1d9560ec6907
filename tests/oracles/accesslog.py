"""What a compiled access log format must print, said plainly: one value at a time, strings all the way, no care for speed."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from urllib.parse import unquote_to_bytes

from meshproxy.telemetry.operators import (
    DEFAULT_TIME,
    FLAGS,
    GRPC_STATUSES,
    GRPC_STATUSES_IN_CAPITALS,
    SPAN_POINTS,
    TLS_TOLD,
    Operator,
    split_format,
)

Facts = dict[str, Any]
Value = bytes | int | None

POINTS = dict(
    zip(
        SPAN_POINTS,
        ("zero", "request_end_us", "upstream_start_us", "response_start_us", "response_end_us", "downstream_start_us", "duration_us"),
        strict=True,
    ),
)
SPANS = {
    "DURATION": ("DS_RX_BEG", "DS_TX_END"), "REQUEST_DURATION": ("DS_RX_BEG", "DS_RX_END"),
    "RESPONSE_DURATION": ("DS_RX_BEG", "US_RX_BEG"), "RESPONSE_TX_DURATION": ("US_RX_BEG", "DS_TX_END"),
}
NUMBERS = {
    "RESPONSE_CODE": "status", "BYTES_RECEIVED": "bytes_received", "BYTES_SENT": "bytes_sent", "CONNECTION_ID": "connection_id",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": "attempts", "DOWNSTREAM_WIRE_BYTES_RECEIVED": "wire_bytes_received",
    "DOWNSTREAM_WIRE_BYTES_SENT": "wire_bytes_sent", "UPSTREAM_CONNECTION_ID": "upstream_connection_id",
}
TEXTS = {
    "UPSTREAM_CLUSTER": "upstream_cluster", "UPSTREAM_CLUSTER_RAW": "upstream_cluster", "ROUTE_NAME": "route_name",
    "VIRTUAL_HOST_NAME": "virtual_host", "UPSTREAM_TRANSPORT_FAILURE_REASON": "upstream_failure_reason",
    "CONNECTION_TERMINATION_DETAILS": "termination_details", "REQUESTED_SERVER_NAME": "server_name",
    "TLS_JA3_FINGERPRINT": "ja3", "TLS_JA4_FINGERPRINT": "ja4", "DOWNSTREAM_TRANSPORT_FAILURE_REASON": "downstream_failure_reason", "TRACE_ID": "trace_id",
}
ADDRESSES = {
    "DOWNSTREAM_REMOTE": "downstream_remote", "DOWNSTREAM_DIRECT_REMOTE": "downstream_direct_remote",
    "DOWNSTREAM_LOCAL": "downstream_local", "DOWNSTREAM_DIRECT_LOCAL": "downstream_local",
    "UPSTREAM_REMOTE": "upstream_host", "UPSTREAM_LOCAL": "upstream_local",
}
PSEUDO = {":method": "method", ":path": "path", ":authority": "authority", "host": "authority", ":scheme": "scheme"}


def line(facts: Facts, text: str | None, shape: dict | None, omit: bool, hostname: str, environment: dict[str, str]) -> bytes:
    """The whole line."""
    if shape is not None:
        return (_shape(facts, shape, omit, hostname, environment) or b"{}") + b"\n"
    return b"".join(_in_text(facts, token, omit, hostname, environment) for token in split_format(text or ""))


def _in_text(facts: Facts, token: str | Operator, omit: bool, hostname: str, environment: dict[str, str]) -> bytes:
    if isinstance(token, str):
        return token.encode()
    value = value_of(facts, token, hostname, environment)
    if value is None:
        return b"" if omit else b"-"
    return str(value).encode() if isinstance(value, int) else escape_text(value)


def _shape(facts: Facts, shape: Any, omit: bool, hostname: str, environment: dict[str, str], top: bool = True) -> bytes | None:
    """JSON of a shape; None = left out."""
    if isinstance(shape, dict):
        members = {key: _shape(facts, value, omit, hostname, environment, False) for key, value in shape.items()}
        listed = [json.dumps(key, ensure_ascii=False).encode() + b":" + value for key, value in members.items() if value is not None]
        return b"{" + b",".join(listed) + b"}" if listed or top or not omit else None
    if isinstance(shape, list):
        elements = [_shape(facts, value, omit, hostname, environment, False) for value in shape]
        listed = [element for element in elements if element is not None]
        return b"[" + b",".join(listed) + b"]" if listed or not omit else None
    if not isinstance(shape, str):
        return None if shape is None and omit else json.dumps(shape).encode()
    tokens = split_format(shape)
    if len(tokens) == 1 and isinstance(tokens[0], Operator):
        value = value_of(facts, tokens[0], hostname, environment)
        if value is None:
            return None if omit else b"null"
        return str(value).encode() if isinstance(value, int) else b'"' + escape_json(value) + b'"'
    return b'"' + b"".join(_in_string(facts, token, omit, hostname, environment) for token in tokens) + b'"'


def _in_string(facts: Facts, token: str | Operator, omit: bool, hostname: str, environment: dict[str, str]) -> bytes:
    if isinstance(token, str):
        return json.dumps(token, ensure_ascii=False)[1:-1].encode()
    value = value_of(facts, token, hostname, environment)
    if value is None:
        return b"" if omit else b"-"
    return str(value).encode() if isinstance(value, int) else escape_json(value)


def escape_text(value: bytes) -> bytes:
    return re.sub(rb'[\x00-\x1f\x7f"\\]', lambda found: b"\\x%02X" % found[0][0], value)


def escape_json(value: bytes) -> bytes:
    """UTF-8 stays; whatever is none, or would have to be escaped, is \\u00HH."""
    out = b""
    while value:
        for length in (1, 2, 3, 4):
            try:
                text = value[:length].decode()
            except UnicodeDecodeError:
                continue
            if len(value) >= length:
                out += b"\\u%04x" % value[0] if text < " " or text in '"\\\x7f' else value[:length]
                value = value[length:]
                break
        else:
            out += b"\\u%04x" % value[0]
            value = value[1:]
    return out


def value_of(facts: Facts, operator: Operator, hostname: str, environment: dict[str, str]) -> Value:
    value = _whole_value(facts, operator, hostname, environment)
    return value[: operator.length] if isinstance(value, bytes) and operator.length is not None else value


def _whole_value(facts: Facts, operator: Operator, hostname: str, environment: dict[str, str]) -> Value:
    name, argument = operator.name, operator.argument or ""
    if name in NUMBERS:
        return facts.get(NUMBERS[name], 0)
    if name in TEXTS:
        return facts.get(TEXTS[name]) or None
    if name in SPANS:
        return span(facts, *SPANS[name], "ms")
    if name == "COMMON_DURATION":
        return span(facts, *argument.split(":"))
    if name in ("REQ", "REQUEST_HEADER"):
        return first_of(argument, lambda header: request_header(facts, header))
    if name in ("RESP", "RESPONSE_HEADER"):
        return first_of(argument, lambda header: response_header(facts, header))
    if name in ("TRAILER", "RESPONSE_TRAILER"):
        return first_of(argument, lambda header: in_lines(facts.get("trailer_lines"), header))
    if name in ("START_TIME", "EMIT_TIME"):
        later = max(facts.get("duration_us", -1), 0) if name == "EMIT_TIME" else 0
        return time_text(argument or DEFAULT_TIME, facts.get("start_unix_us", 0) + later)
    if name.startswith("PATH"):
        return path_of(facts, argument or "WQ")
    if name in ("QUERY_PARAM", "QUERY_PARAMS"):
        return query_of(facts, argument if name == "QUERY_PARAM" else None)
    if name == "PROTOCOL":
        return b"HTTP/1.0" if facts.get("request") is not None and facts.get("minor_version", 1) == 0 else b"HTTP/1.1"
    if name == "UPSTREAM_PROTOCOL":
        return {0: None, 1: b"HTTP/1.1", 2: b"HTTP/2"}[facts.get("upstream_version", 0)]
    if name == "RESPONSE_CODE_DETAILS":
        details = facts.get("code_details") or None
        return details if details is None or argument == "ALLOW_WHITESPACES" else re.sub(rb"[ \t\r\n]", b"_", details)
    if name in ("GRPC_STATUS", "GRPC_STATUS_NUMBER"):
        return grpc_status(facts, "NUMBER" if name == "GRPC_STATUS_NUMBER" else argument)
    if name in ("RESPONSE_FLAGS", "RESPONSE_FLAGS_LONG"):
        set_flags = [names for bit, names in enumerate(FLAGS) if facts.get("flags", 0) >> bit & 1]
        return ",".join(names[name.endswith("LONG")] for names in set_flags).encode() or b"-"
    static = {"HOSTNAME": hostname, "ENVIRONMENT": environment.get(argument), "ACCESS_LOG_TYPE": "DownstreamEnd"}
    if name in static:
        text = static[name]
        return text.encode() if text is not None else None
    side, _, told = name.partition("_")
    if told in TLS_TOLD:
        text = (facts.get(f"{side.lower()}_tls") or {}).get(told) or None
        return time_text(argument or DEFAULT_TIME, int(text) * 1_000_000) if text and "_CERT_V_" in told else text
    return address_of(facts, name)


def grpc_status(facts: Facts, form: str) -> Value:
    if not re.fullmatch(rb"application/grpc(\+.*)?", request_header(facts, "content-type") or b"", re.DOTALL):
        return None
    said = in_lines(facts.get("trailer_lines"), "grpc-status")
    if said is None:
        said = in_lines(facts.get("response_lines"), "grpc-status")
    if said is None:
        by_http = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
        number = by_http.get(facts.get("status", 0), 2)
    else:
        number = int(said) if re.fullmatch(rb"[0-9]{1,9}", said) else -1
    names = GRPC_STATUSES_IN_CAPITALS if form == "SNAKE_STRING" else GRPC_STATUSES
    return number if form == "NUMBER" or not 0 <= number < len(names) else names[number].encode()


def span(facts: Facts, start: str, end: str, precision: str) -> int | None:
    first, last = (0 if POINTS[point] == "zero" else facts.get(POINTS[point], -1) for point in (start, end))
    if first < 0 or last < first:
        return None
    return {"ms": (last - first) // 1000, "us": last - first, "ns": (last - first) * 1000}[precision]


def first_of(argument: str, find: Any) -> Value:
    for header in argument.split("?"):
        if (value := find(header.lower())) is not None:
            return value
    return None


def request_header(facts: Facts, header: str) -> bytes | None:
    if header in PSEUDO:
        if header == ":scheme" and facts.get("request") is None:
            return None
        return facts.get(PSEUDO[header]) or None
    if header == "x-envoy-original-path" and rewritten(facts):
        return facts["original_path"] or None
    added = in_lines(facts.get("added_lines"), header)
    if added is not None:
        return added
    return next((value for name, value in facts.get("request") or () if name.decode().lower() == header), None)


def response_header(facts: Facts, header: str) -> Value:
    if header == ":status":
        return str(facts["status"]).encode() if facts.get("status") else None
    return in_lines(facts.get("response_lines"), header)


def in_lines(lines: bytes | None, header: str) -> bytes | None:
    for each in (lines or b"").split(b"\n"):
        name, colon, value = each.partition(b":")
        if colon and name.decode("latin-1").lower() == header:
            return value.strip(b" \t\r").strip(b" \t")
    return None


def rewritten(facts: Facts) -> bool:
    return facts.get("original_path") is not None and facts["original_path"] != facts.get("path", b"")


def path_of(facts: Facts, argument: str) -> bytes | None:
    query, _, which = argument.partition(":")
    original = facts["original_path"] if rewritten(facts) else None
    path = {"ORIG": original, "PATH": facts.get("path")}.get(which, original if original is not None else facts.get("path"))
    if not path:
        return None
    return path.partition(b"?")[0] if query == "NQ" else path


def query_of(facts: Facts, wanted: str | None) -> bytes | None:
    _, mark, query = (facts.get("path") or b"").partition(b"?")
    if not mark or wanted is None:
        return query if mark else None
    for pair in query.split(b"&"):
        name, equals, value = pair.partition(b"=")
        if equals and name == wanted.encode():
            return unquote_to_bytes(value)
    return None


def time_text(form: str, unix_us: int) -> bytes:
    seconds, rest_us = divmod(unix_us, 1_000_000)
    fraction = f"{rest_us:06}000"

    def piece(found: re.Match[str]) -> str:
        whole = found[0]
        if whole[-1] == "s":
            return str(seconds)
        if whole[-1] == "f":
            return fraction[: int(whole[1:-1] or 9)]
        if whole.startswith("%E"):
            return time.strftime("%S", time.gmtime(seconds)) + ("." + fraction[: int(whole[2])] if whole[2] != "0" else "")
        return "UTC" if whole == "%Z" else time.strftime(whole, time.gmtime(seconds))

    return re.sub(r"%E[0-9]S|%[0-9]?[fs]|%.", piece, form).encode()


def address_of(facts: Facts, name: str) -> Value:
    if name == "UPSTREAM_HOST":
        return facts.get("upstream_host") or None
    for prefix, fact in sorted(ADDRESSES.items(), key=lambda item: -len(item[0])):
        if name.startswith(prefix + "_"):
            whole, part = facts.get(fact) or None, name.removeprefix(prefix + "_")
            break
    if whole is None or part == "ADDRESS":
        return whole
    found = re.fullmatch(rb"(.*):(\d+)", whole)
    if found is None:
        return whole if part == "ADDRESS_WITHOUT_PORT" else None
    if part == "PORT":
        return int(found[2])
    return found[1][1:-1] if found[1].startswith(b"[") and found[1].endswith(b"]") else found[1]
