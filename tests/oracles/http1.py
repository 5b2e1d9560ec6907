"""What the HTTP/1 codec must say, written to be read and not to be fast.

Regular expressions and slices over the whole input; no state between calls. The compiled codec has to give the same answer to the same
bytes, however they arrive.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

MORE = 1
BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_UNTIL_CLOSE = range(4)
BODY_MORE, BODY_END = 1, 3

BAD_REQUEST_LINE, BAD_STATUS_LINE, BAD_VERSION, BAD_TARGET, BAD_METHOD = -1, -2, -3, -4, -5
BAD_HEADER_NAME, BAD_HEADER_VALUE, BARE_CR, BARE_LF, OBS_FOLD = -6, -7, -8, -9, -10
BAD_CONTENT_LENGTH, LENGTH_AND_ENCODING, BAD_TRANSFER_ENCODING, MISSING_HOST, BAD_HOST = -11, -12, -13, -14, -15
HEAD_TOO_LARGE, TOO_MANY_HEADERS, TARGET_TOO_LONG, BAD_CHUNK, BAD_TRAILER = -16, -17, -18, -19, -20
TRAILERS_TOO_LARGE, HTTP2_PREFACE, TLS_HELLO, NOT_IMPLEMENTED_ENCODING = -21, -22, -23, -24

METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH"]

# In the order of HEADER_*, from 1.
NAMES = [
    b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade",
    b"expect", b"date", b"server", b"via", b"user-agent", b"referer", b"content-type", b"http2-settings", b"x-forwarded-for",
    b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-client-cert", b"x-request-id", b"x-envoy-internal",
    b"x-envoy-external-address", b"x-envoy-expected-rq-timeout-ms", b"x-envoy-upstream-rq-timeout-ms",
    b"x-envoy-upstream-rq-per-try-timeout-ms", b"x-envoy-max-retries", b"x-envoy-retry-on", b"x-envoy-attempt-count",
    b"x-envoy-original-path", b"x-envoy-upstream-service-time",
]
X_ENVOY_OTHER = len(NAMES) + 1
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings",
}
END_TO_END = {
    b"cookie", b"forwarded", b"x-real-ip", b"set-cookie", b"tracestate", b"traceparent", b"authorization", b"cache-control",
    b"proxy-authorization",
}
NO_TRAILERS = {b"range", b"pragma", b"location", b"max-forwards"}

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE_BYTES = rb"[\t\x20-\x7e\x80-\xff]*"
TARGET_BYTES = rb"[\x21\x22\x24-\x7e]*"
REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
AUTHORITY = re.compile(rb"(?:(" + REG_NAME + rb")|\[([0-9A-Fa-f:.]{1,45})\])(?::([0-9]{1,5}))?", re.DOTALL)


@dataclass(frozen=True)
class Limits:
    head_bytes: int = 61440
    headers: int = 100
    target_bytes: int = 16384
    allow_http_10: bool = True
    allow_absolute_form: bool = True


DEFAULTS = Limits()


class Refused(Exception):
    """Carries the number that the codec would have said: an error, or MORE."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def refuse_if(condition: bool, number: int) -> None:
    if condition:
        raise Refused(number)


def header_id(name: bytes) -> int:
    name = name.lower()
    if name in NAMES:
        return NAMES.index(name) + 1
    return X_ENVOY_OTHER if name.startswith(b"x-envoy-") and len(name) > 8 else 0


def run(pattern: bytes, text: bytes) -> bytes:
    """The bytes at the start of `text` that match; perhaps none."""
    found = re.match(pattern, text, re.DOTALL)
    return found.group() if found else b""


def authority_ok(text: bytes, port_wanted: bool = False) -> bool:
    found = AUTHORITY.fullmatch(text)
    if not found:
        return False
    _, ipv6, port = found.groups()
    if ipv6 is not None and ipv6.count(b":") < 2:
        return False
    if port is None:
        return not port_wanted
    return int(port_wanted) <= int(port) <= 65535


# Heads

def head_end(data: bytes, start: int) -> int:
    """The length of the head, 0 when its end is not there."""
    line = start
    while (feed := data.find(b"\n", line)) >= 0:
        refuse_if(feed == start or data[feed - 1:feed] != b"\r", BARE_LF)
        if feed - line == 1:
            return feed + 1
        line = feed + 1
    return 0


def request_start(data: bytes) -> int:
    """Where the request line begins; refuses what the first bytes give away."""
    refuse_if(data in (b"", b"\r", b"\r\n"), MORE)
    refuse_if(data[0:1] == b"\r" and data[1:2] != b"\n", BARE_CR)
    start = 2 if data.startswith(b"\r\n") else 0
    refuse_if(data.startswith(b"PRI * HTTP/2.0\r\n"), HTTP2_PREFACE)
    refuse_if(data == b"\x16", MORE)
    refuse_if(data.startswith(b"\x16\x03"), TLS_HELLO)
    first = data[start:start + 1]
    refuse_if(first == b"\n", BARE_LF)
    refuse_if(first == b"\r", BAD_REQUEST_LINE)
    refuse_if(not run(TOKEN, first), BAD_METHOD)
    return start


def request_line(text: bytes, limits: Limits) -> tuple[dict, int]:
    """`text` begins with the request line. What it says, and how long it is."""
    method = run(TOKEN, text)
    after = text[len(method):len(method) + 1]
    refuse_if(after == b"\r" and method != b"", BAD_REQUEST_LINE)
    refuse_if(after != b" " or not 1 <= len(method) <= 64, BAD_METHOD)
    rest = text[len(method) + 1:]
    target = run(TARGET_BYTES, rest)
    after = rest[len(target):len(target) + 1]
    refuse_if(len(target) > limits.target_bytes, TARGET_TOO_LONG)
    refuse_if(after == b"\r", BAD_REQUEST_LINE)
    refuse_if(after != b" ", BAD_TARGET)
    version = rest[len(target) + 1:][:10]
    refuse_if(target == b"" or len(version) < 10 or not re.match(rb"HTTP/[0-9]\.[0-9]", version), BAD_REQUEST_LINE)
    refuse_if(not re.match(rb"HTTP/1\.[01]", version), BAD_VERSION)
    refuse_if(version.startswith(b"HTTP/1.0") and not limits.allow_http_10, BAD_VERSION)
    refuse_if(version[8:] != b"\r\n", BAD_REQUEST_LINE)
    said = {"method": method, "method_id": METHODS.index(method) + 1 if method in METHODS else 0, "target": target}
    said["minor_version"] = int(version[7:8])
    said |= target_form(method, target, limits)
    return said, len(method) + 1 + len(target) + 1 + 10


def target_form(method: bytes, target: bytes, limits: Limits) -> dict:
    said = {"path": target, "authority": b"", "absolute_form": False, "path_is_root": False}
    if method == b"CONNECT":
        refuse_if(not authority_ok(target, port_wanted=True), BAD_TARGET)
        return said | {"path": b"", "authority": target}
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return said
    absolute = re.fullmatch(rb"https?://([^/?]*)(/.*)?", target, re.IGNORECASE | re.DOTALL)
    refuse_if(not limits.allow_absolute_form or not absolute or not authority_ok(absolute[1]), BAD_TARGET)
    path = absolute[2] or b""
    return said | {"path": path, "authority": absolute[1], "absolute_form": True, "path_is_root": path == b""}


def unfinished_request(data: bytes, start: int, limits: Limits) -> None:
    """Always refuses: with an error when no more bytes can help, else with MORE."""
    seen = data[start:limits.head_bytes]
    if b"\n" in seen:
        request_line(seen[:seen.index(b"\n") + 1], limits)
    else:
        unfinished_request_line(seen, limits)
    raise Refused(HEAD_TOO_LARGE if len(data) >= limits.head_bytes else MORE)


def unfinished_request_line(line: bytes, limits: Limits) -> None:
    method = run(TOKEN, line[:65])
    after = line[len(method):len(method) + 1]
    if after == b"":
        return
    refuse_if(after == b"\r", BAD_REQUEST_LINE)
    refuse_if(after != b" ", BAD_METHOD)
    target, space, version = line[len(method) + 1:].partition(b" ")
    refuse_if(len(target) > limits.target_bytes, TARGET_TOO_LONG)
    refuse_if(space != b"" and len(version) > 9, BAD_REQUEST_LINE)


def parse_request(data: bytes, limits: Limits = DEFAULTS) -> dict | int:
    try:
        start = request_start(data)
        end = head_end(data[:limits.head_bytes], start)
        if not end:
            unfinished_request(data, start, limits)
        head, line_length = request_line(data[start:end], limits)
        fields = header_fields(data[start + line_length:end - 2], limits)
        return head | settle_request(head, fields) | {"length": end}
    except Refused as refusal:
        return refusal.number


# Header lines

def header_fields(text: bytes, limits: Limits) -> list[tuple[bytes, bytes, bytes]]:
    """(name, value, white space around the value) of each line."""
    fields = []
    while text:
        refuse_if(text[0:1] in b" \t", OBS_FOLD)
        name = run(TOKEN, text)
        after = text[len(name):len(name) + 2]
        refuse_if(after[0:1] == b"\r" and after != b"\r\n", BARE_CR)
        refuse_if(name == b"" or after[0:1] != b":", BAD_HEADER_NAME)
        refuse_if(len(fields) >= limits.headers, TOO_MANY_HEADERS)
        refuse_if(len(name) > 65535, HEAD_TOO_LARGE)
        raw = run(VALUE_BYTES, text[len(name) + 1:])
        line_end = text[len(name) + 1 + len(raw):][:2]
        refuse_if(line_end[0:1] != b"\r", BAD_HEADER_VALUE)
        refuse_if(line_end != b"\r\n", BARE_CR)
        refuse_if(name.lower().replace(b"_", b"-") in (b"content-length", b"transfer-encoding") and b"_" in name, BAD_HEADER_NAME)
        value = raw.strip(b" \t")
        fields.append((name, value, raw.replace(value, b"", 1)))
        text = text[len(name) + 1 + len(raw) + 2:]
    return fields


def values(fields: list[tuple[bytes, bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value, _ in fields if name.lower() == wanted]


def tab_around(fields: list[tuple[bytes, bytes, bytes]], wanted: bytes) -> bool:
    """Of the first field with that name: a tab anywhere in what follows the colon."""
    return next((b"\t" in value + space for name, value, space in fields if name.lower() == wanted), False)


def framing(fields: list[tuple[bytes, bytes, bytes]], minor_version: int) -> tuple[int, int]:
    """(body, content length)."""
    encodings, lengths = values(fields, b"transfer-encoding"), values(fields, b"content-length")
    refuse_if(bool(encodings and lengths), LENGTH_AND_ENCODING)
    if encodings:
        refuse_if(len(encodings) > 1 or minor_version == 0 or tab_around(fields, b"transfer-encoding"), BAD_TRANSFER_ENCODING)
        codings = [coding.strip(b" \t").lower() for coding in encodings[0].split(b",")]
        refuse_if(any(not re.fullmatch(TOKEN, coding) for coding in codings), BAD_TRANSFER_ENCODING)
        refuse_if(codings.index(b"chunked") != len(codings) - 1 if b"chunked" in codings else True, BAD_TRANSFER_ENCODING)
        refuse_if(len(codings) > 1, NOT_IMPLEMENTED_ENCODING)
        return BODY_CHUNKED, -1
    if lengths:
        refuse_if(tab_around(fields, b"content-length"), BAD_CONTENT_LENGTH)
        refuse_if(not re.fullmatch(rb"0|[1-9][0-9]{0,18}", lengths[0]) or int(lengths[0]) > 2**62, BAD_CONTENT_LENGTH)
        return BODY_LENGTH, int(lengths[0])
    return BODY_NONE, -1


def connection(fields: list[tuple[bytes, bytes, bytes]], minor_version: int) -> tuple[dict, set[bytes]]:
    """What the options say, and the lower-case names that they take from the message."""
    options = [
        option.strip(b" \t").lower()
        for value in values(fields, b"connection")
        for option in value.split(b",")
        if re.fullmatch(TOKEN, option.strip(b" \t"))
    ]
    nominated = [option for option in options if option not in (b"close", b"keep-alive", b"upgrade")]
    refuse_if(len(nominated) > 32, BAD_HEADER_VALUE)
    keep_alive = b"close" not in options and (minor_version == 1 or b"keep-alive" in options)
    upgrade = b"upgrade" in options and bool(values(fields, b"upgrade")) and minor_version == 1
    return {"keep_alive": keep_alive, "upgrade": upgrade}, {name for name in nominated if not is_end_to_end(name)}


def is_end_to_end(name: bytes) -> bool:
    if name in HOP_BY_HOP:
        return False
    return header_id(name) != 0 or name in END_TO_END or name.startswith((b"x-forwarded-", b"content-"))


def listed(fields: list[tuple[bytes, bytes, bytes]], dropped: set[bytes]) -> dict:
    """The fields and the index of the first with each id, as the codec tells them."""
    headers = [(name, value, header_id(name), name.lower() in HOP_BY_HOP | dropped) for name, value, _ in fields]
    known: dict[int, int] = {}
    for index, header in enumerate(headers):
        known.setdefault(header[2], index)
    return {"headers": headers, "known": known}


def settle_request(head: dict, fields: list[tuple[bytes, bytes, bytes]]) -> dict:
    minor_version = head["minor_version"]
    said: dict = {}
    hosts = values(fields, b"host")
    refuse_if(not hosts and minor_version == 1, MISSING_HOST)
    if hosts:
        refuse_if(len(hosts) > 1 or tab_around(fields, b"host"), BAD_HOST)
        refuse_if(not authority_ok(hosts[0]) and not (head["absolute_form"] and hosts[0] == b""), BAD_HOST)
        if not head["absolute_form"] and head["method"] != b"CONNECT":
            said["authority"] = hosts[0]
    refuse_if(len(values(fields, b"content-length")) > 1, BAD_CONTENT_LENGTH)
    said["body"], said["content_length"] = framing(fields, minor_version)
    if head["method"] == b"CONNECT":
        refuse_if(said["body"] == BODY_CHUNKED, BAD_TRANSFER_ENCODING)
        refuse_if(said["content_length"] > 0, BAD_CONTENT_LENGTH)
    options, dropped = connection(fields, minor_version)
    expectations = [value.lower() for value in values(fields, b"expect")]
    said["expect_other"] = expectations not in ([], [b"100-continue"])
    said["expect_continue"] = expectations == [b"100-continue"] and minor_version == 1
    return said | options | listed(fields, dropped)


# Responses

def unfinished_response(data: bytes, limits: Limits) -> None:
    if len(data) < 8:
        refuse_if(not b"HTTP/".startswith(data[:5]), BAD_STATUS_LINE)
    elif not data.startswith(b"HTTP/1."):
        raise Refused(BAD_VERSION if re.match(rb"HTTP/[0-9]\.[0-9]", data) else BAD_STATUS_LINE)
    raise Refused(HEAD_TOO_LARGE if len(data) >= limits.head_bytes else MORE)


def status_line(text: bytes) -> tuple[dict, int]:
    refuse_if(len(text) < 14 or not re.match(rb"HTTP/[0-9]\.[0-9]", text), BAD_STATUS_LINE)
    refuse_if(not re.match(rb"HTTP/1\.[01]", text), BAD_VERSION)
    found = re.match(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (" + VALUE_BYTES + rb"))?\r", text, re.DOTALL)
    if not found:
        raise Refused(BAD_STATUS_LINE)
    refuse_if(text[found.end():found.end() + 1] != b"\n", BARE_CR)
    return {"minor_version": int(found[1]), "status": int(found[2]), "reason": found[3] or b""}, found.end() + 1


def parse_response(data: bytes, method: bytes = b"GET", limits: Limits = DEFAULTS) -> dict | int:
    try:
        refuse_if(data == b"", MORE)
        end = head_end(data[:limits.head_bytes], 0)
        if not end:
            unfinished_response(data, limits)
        head, line_length = status_line(data[:end])
        fields = header_fields(data[line_length:end - 2], limits)
        return head | settle_response(head, fields, method) | {"length": end}
    except Refused as refusal:
        return refusal.number


def settle_response(head: dict, fields: list[tuple[bytes, bytes, bytes]], method: bytes) -> dict:
    status = head["status"]
    lengths = values(fields, b"content-length")
    refuse_if(len(set(lengths)) > 1, BAD_CONTENT_LENGTH)
    body, content_length = framing(fields, head["minor_version"])
    said, dropped = connection(fields, head["minor_version"])
    said |= listed(fields, dropped)
    length_goes = False
    if status < 200 or status in (204, 304) or method == b"HEAD" or (method == b"CONNECT" and status < 300):
        length_goes = status != 304 and method != b"HEAD"
        if length_goes and (body == BODY_CHUNKED or content_length > 0):
            said["keep_alive"] = False
        body = BODY_NONE
    elif body == BODY_NONE:
        body = BODY_UNTIL_CLOSE
        said["keep_alive"] = False
    said["headers"] = [
        (name, value, id, hop or (id == 2 and (length_goes or index != said["known"][2])))
        for index, (name, value, id, hop) in enumerate(said["headers"])
    ]
    return said | {"body": body, "content_length": content_length}


# Trailers and bodies

def parse_trailers(data: bytes, limits: Limits = DEFAULTS) -> dict | int:
    try:
        refuse_if(data != b"" and not data.endswith(b"\r\n"), BAD_TRAILER)
        fields = header_fields(data, limits)
    except Refused as refusal:
        return refusal.number if refusal.number == TOO_MANY_HEADERS else BAD_TRAILER
    for name, _, _ in fields:
        lower = name.lower()
        if header_id(name) or is_end_to_end(lower) or lower in NO_TRAILERS or lower.startswith(b"if-"):
            return BAD_TRAILER
    return listed(fields, set())


@dataclass(frozen=True)
class Body:
    """`said` is BODY_MORE, BODY_END or an error; `consumed` and `trailers` count with BODY_END only."""

    data: bytes
    said: int
    consumed: int = 0
    trailers: bytes | None = None


EXTENSIONS = rb"(?:;" + TOKEN + rb"(?:=" + TOKEN + rb")?)*"
SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(" + EXTENSIONS + rb")\r\n", re.DOTALL)
SIZE_LINE_BEGUN = re.compile(
    rb"(?:([0-9A-Fa-f]{1,16})(" + EXTENSIONS + rb"(?:;|;" + TOKEN + rb"=)?)|([0-9A-Fa-f]{1,16})(" + EXTENSIONS + rb")\r)?", re.DOTALL,
)


def decode_body(data: bytes, body: int, content_length: int = -1, trailer_limit: int = 8192) -> Body:
    if body == BODY_CHUNKED:
        return decode_chunked(data, trailer_limit)
    if body == BODY_UNTIL_CLOSE:
        return Body(data, BODY_MORE)
    length = content_length if body == BODY_LENGTH else 0
    taken = data[:length]
    return Body(taken, BODY_END if len(taken) == length else BODY_MORE, len(taken))


def decode_chunked(data: bytes, trailer_limit: int) -> Body:
    decoded, at, extension_bytes = b"", 0, 0
    while True:
        line = data[at:data.find(b"\n", at) + 1 or None]
        found = SIZE_LINE.fullmatch(line) or SIZE_LINE_BEGUN.fullmatch(line)
        if not found:
            return Body(decoded, BAD_CHUNK)
        digits, extensions = [group for group in found.groups() if group is not None] or (b"", b"")
        extension_bytes += len(extensions)
        if int(digits or b"0", 16) > 2**62 or len(digits + extensions) > 256 or extension_bytes > 16384:
            return Body(decoded, BAD_CHUNK)
        if not line.endswith(b"\n"):
            return Body(decoded, BODY_MORE)
        at += len(line)
        size = int(digits, 16)
        if size == 0:
            return decode_trailers(data, at, decoded, trailer_limit)
        decoded += data[at:at + size]
        at += size
        ending = data[at:at + 2]
        if ending != b"\r\n":
            return Body(decoded, BODY_MORE if b"\r\n".startswith(ending) else BAD_CHUNK)
        at += 2


def decode_trailers(data: bytes, begin: int, decoded: bytes, limit: int) -> Body:
    at, line = begin, begin
    while at < len(data):
        rest = data[at:at + 2]
        if at == line and rest[0:1] == b"\r":
            if rest == b"\r\n" and isinstance(parse_trailers(data[begin:at], Limits(headers=sys.maxsize)), dict):
                return Body(decoded, BODY_END, at + 2, data[begin:at] or None)
            return Body(decoded, BODY_MORE if rest == b"\r" else BAD_TRAILER)
        if at + 1 - begin > limit:
            return Body(decoded, TRAILERS_TOO_LARGE)
        if rest[0:1] == b"\r":
            if rest != b"\r\n" and len(rest) == 2:
                return Body(decoded, TRAILERS_TOO_LARGE if at + 2 - begin > limit else BAD_TRAILER)
            if len(rest) == 2 and at + 2 - begin > limit:
                return Body(decoded, TRAILERS_TOO_LARGE)
            at, line = at + 2, at + 2
        elif re.fullmatch(VALUE_BYTES, rest[0:1], re.DOTALL):
            at += 1
        else:
            return Body(decoded, BAD_TRAILER)
    return Body(decoded, BODY_MORE)
