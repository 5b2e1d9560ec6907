"""Access log lines. A format string or a JSON shape becomes an array of operators when configuration changes; a line is one walk over it.

What a stranger sent cannot end a line or a field: see `escape.h` for the rule of each form.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset, strlen
from libc.time cimport time_t
from meshproxy.codecs.grpc cimport grpc_status_of_http
from meshproxy.codecs.http1 cimport HEADER_CONTENT_TYPE, HEADER_ID_COUNT, HEADER_OTHER, HEADER_X_ENVOY_OTHER, Head, HeaderField, header_id
from meshproxy.telemetry.facts cimport TLS_TOLD_COUNT, Facts, Text

import json
import os
from collections.abc import Mapping

from meshproxy.model import AccessLog
from meshproxy.telemetry.operators import (
    DEFAULT_TIME,
    TLS_TOLD,
    FLAGS,
    GRPC,
    GRPC_STATUSES,
    GRPC_STATUSES_IN_CAPITALS,
    HEADERS,
    OPERATORS,
    PATH,
    SPAN_POINTS,
    SPAN_PRECISIONS,
    Operator,
    check_format,
    check_operator,
    split_format,
    time_pieces,
)

cdef extern from "escape.h" nogil:
    ctypedef struct Out:
        char *at
        char *end
        bint full
    void out_put(Out *out, const char *bytes, size_t length) noexcept
    void out_number(Out *out, int64_t number) noexcept
    void out_text(Out *out, const char *bytes, size_t length) noexcept
    void out_json(Out *out, const char *bytes, size_t length) noexcept
    size_t percent_decode(const char *bytes, size_t length, char *to, size_t room) noexcept

cdef extern from "time.h" nogil:
    ctypedef struct Broken "struct tm":
        const char *tm_zone
    Broken *gmtime_r(const time_t *seconds, Broken *broken) noexcept
    size_t strftime(char *out, size_t room, const char *format, const Broken *broken) noexcept

cdef extern from "strings.h" nogil:
    int strncasecmp(const char *one, const char *other, size_t length) noexcept

cdef enum:                               # Op.code
    OP_LITERAL
    OP_KEY                               # of a JSON object, or the place of a list's element: a comma when it is not the first
    OP_OPEN
    OP_CLOSE
    OP_STATIC
    OP_REQUEST_HEADER
    OP_RESPONSE_HEADER
    OP_TRAILER
    OP_PATH
    OP_QUERY_PARAM
    OP_QUERY_PARAMS
    OP_PROTOCOL
    OP_UPSTREAM_PROTOCOL
    OP_LINE_TYPE
    OP_DETAILS
    OP_FLAGS
    OP_NUMBER
    OP_SPAN
    OP_ADDRESS
    OP_TEXT
    OP_TIME
    OP_TLS
    OP_TLS_TIME
    OP_GRPC_STATUS

cdef const char *LINE_TYPES[5]
LINE_TYPES[:] = [b"DownstreamEnd", b"TcpConnectionEnd", b"TcpUpstreamConnected", b"TcpPeriodic", b"NotSet"]
"""Envoy's words, by LINE_OF_*."""

cdef enum:                               # Op.shape
    SHAPE_TEXT
    SHAPE_IN_STRING                      # among other things inside a JSON string
    SHAPE_ALONE                          # a JSON value

cdef enum:                               # HeaderName.pseudo
    PSEUDO_NONE
    PSEUDO_METHOD
    PSEUDO_PATH
    PSEUDO_AUTHORITY
    PSEUDO_SCHEME
    PSEUDO_ORIGINAL_PATH
    PSEUDO_STATUS

cdef enum:                               # TimePart.kind
    TIME_STRFTIME
    TIME_FRACTION
    TIME_EPOCH

cdef enum:
    ABSENT
    BYTES
    NUMBER
    MOST_DEPTH = 16                      # of nested JSON; deeper is refused when the format is made

ctypedef struct Value:
    int kind
    const char *at
    size_t length
    int64_t number

_PSEUDO = {
    ":method": PSEUDO_METHOD, ":path": PSEUDO_PATH, ":authority": PSEUDO_AUTHORITY, "host": PSEUDO_AUTHORITY, ":scheme": PSEUDO_SCHEME,
    "x-envoy-original-path": PSEUDO_ORIGINAL_PATH, ":status": PSEUDO_STATUS,
}
_TIME_KINDS = {"strftime": TIME_STRFTIME, "fraction": TIME_FRACTION, "epoch": TIME_EPOCH}
_PATH_CHOICES = {"": 0, "ORIG_OR_PATH": 0, "ORIG": 1, "PATH": 2}
_ADDRESSES = ("DOWNSTREAM_REMOTE", "DOWNSTREAM_DIRECT_REMOTE", "DOWNSTREAM_LOCAL", "UPSTREAM_REMOTE", "UPSTREAM_LOCAL", "DOWNSTREAM_DIRECT_LOCAL")
_CODES: dict[str, tuple[int, int, int]] = {
    "START_TIME": (OP_TIME, 0, 0), "EMIT_TIME": (OP_TIME, 1, 0),
    "REQ": (OP_REQUEST_HEADER, 0, 0), "REQUEST_HEADER": (OP_REQUEST_HEADER, 0, 0),
    "RESP": (OP_RESPONSE_HEADER, 0, 0), "RESPONSE_HEADER": (OP_RESPONSE_HEADER, 0, 0),
    "TRAILER": (OP_TRAILER, 0, 0), "RESPONSE_TRAILER": (OP_TRAILER, 0, 0),
    "PATH": (OP_PATH, 0, 0), "QUERY_PARAM": (OP_QUERY_PARAM, 0, 0), "QUERY_PARAMS": (OP_QUERY_PARAMS, 0, 0),
    "PROTOCOL": (OP_PROTOCOL, 0, 0), "UPSTREAM_PROTOCOL": (OP_UPSTREAM_PROTOCOL, 0, 0), "RESPONSE_CODE_DETAILS": (OP_DETAILS, 0, 0),
    "GRPC_STATUS": (OP_GRPC_STATUS, 0, 0), "GRPC_STATUS_NUMBER": (OP_GRPC_STATUS, 2, 0),
    "RESPONSE_FLAGS": (OP_FLAGS, 0, 0), "RESPONSE_FLAGS_LONG": (OP_FLAGS, 1, 0),
    "RESPONSE_CODE": (OP_NUMBER, 0, 0), "BYTES_RECEIVED": (OP_NUMBER, 1, 0), "BYTES_SENT": (OP_NUMBER, 2, 0),
    "DOWNSTREAM_WIRE_BYTES_RECEIVED": (OP_NUMBER, 3, 0), "DOWNSTREAM_WIRE_BYTES_SENT": (OP_NUMBER, 4, 0),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": (OP_NUMBER, 5, 0), "CONNECTION_ID": (OP_NUMBER, 6, 0),
    "UPSTREAM_CONNECTION_ID": (OP_NUMBER, 7, 0),
    "DURATION": (OP_SPAN, 0, 6), "REQUEST_DURATION": (OP_SPAN, 0, 1), "RESPONSE_DURATION": (OP_SPAN, 0, 3),
    "RESPONSE_TX_DURATION": (OP_SPAN, 3, 6), "COMMON_DURATION": (OP_SPAN, 0, 0),
    "UPSTREAM_HOST": (OP_ADDRESS, 3, 0),
    "UPSTREAM_CLUSTER": (OP_TEXT, 0, 0), "UPSTREAM_CLUSTER_RAW": (OP_TEXT, 0, 0), "ROUTE_NAME": (OP_TEXT, 1, 0),
    "VIRTUAL_HOST_NAME": (OP_TEXT, 2, 0), "UPSTREAM_TRANSPORT_FAILURE_REASON": (OP_TEXT, 3, 0),
    "CONNECTION_TERMINATION_DETAILS": (OP_TEXT, 4, 0),
    "REQUESTED_SERVER_NAME": (OP_TEXT, 5, 0), "TLS_JA3_FINGERPRINT": (OP_TEXT, 6, 0), "TLS_JA4_FINGERPRINT": (OP_TEXT, 7, 0),
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON": (OP_TEXT, 8, 0), "TRACE_ID": (OP_TEXT, 9, 0), "HOSTNAME": (OP_STATIC, 0, 0), "ENVIRONMENT": (OP_STATIC, 0, 0),
    "ACCESS_LOG_TYPE": (OP_LINE_TYPE, 0, 0),
    **{f"{name}_ADDRESS": (OP_ADDRESS, which, 0) for which, name in enumerate(_ADDRESSES)},
    **{f"{name}_ADDRESS_WITHOUT_PORT": (OP_ADDRESS, which, 1) for which, name in enumerate(_ADDRESSES)},
    **{f"{name}_PORT": (OP_ADDRESS, which, 2) for which, name in enumerate(_ADDRESSES)},
    **{
        f"{side}_{name}": (OP_TLS_TIME if name.endswith(("V_START", "V_END")) else OP_TLS, place, which)
        for which, side in enumerate(("DOWNSTREAM", "UPSTREAM")) for place, name in enumerate(TLS_TOLD)
        if f"{side}_{name}" in OPERATORS
    },
}
"""Of each operator: code, a, b."""

cdef const char *_GRPC_WORDS[2][17]
_GRPC_NAMES = [[name.encode() for name in names] for names in (GRPC_STATUSES, GRPC_STATUSES_IN_CAPITALS)]
cdef int _form, _number
for _form in range(2):
    for _number in range(17):
        _GRPC_WORDS[_form][_number] = <bytes>_GRPC_NAMES[_form][_number]

cdef const char *_SHORT_FLAGS[64]
cdef const char *_LONG_FLAGS[64]
cdef int _FLAG_COUNT = len(FLAGS)
_FLAG_NAMES = [(short.encode(), long.encode()) for short, long in FLAGS]
cdef int _bit
for _bit in range(_FLAG_COUNT):
    _SHORT_FLAGS[_bit] = <bytes>_FLAG_NAMES[_bit][0]
    _LONG_FLAGS[_bit] = <bytes>_FLAG_NAMES[_bit][1]


cdef class Format:
    """A compiled access log. `hostname` and `environment` are what `%HOSTNAME%` and `%ENVIRONMENT(X)%` become; without them, this
    machine's and this process's. Raises ValueError for what `check_format` refuses.

    Not shared between threads: it has its own scratch memory and remembers the text of the last second.
    """

    def __init__(self, log: AccessLog, hostname: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        hostname = os.uname().nodename if hostname is None else hostname
        environment = os.environ if environment is None else environment
        self.min_status = log.min_status
        self.omit_empty = log.omit_empty_values
        self.keep = []
        steps = _Steps(hostname, environment)
        if log.json is not None:
            steps.value(log.json, 0)
            steps.literal("\n")
        else:
            # One datagram for each line: a syslog record has to end where the next begins.
            text = log.text or ""
            steps.string(text + "\n" if log.sink == "syslog" and not text.endswith("\n") else text, SHAPE_TEXT)
        self._compile(steps.done())

    def __dealloc__(self):
        cdef int at
        for at in range(self.op_count):
            free(self.ops[at].parts)
        free(self.ops)

    def _compile(self, steps: list[dict]) -> None:
        self.ops = <Op *>calloc(len(steps) or 1, sizeof(Op))
        if self.ops == NULL:
            raise MemoryError()
        cdef Op *op
        for step in steps:
            op = &self.ops[self.op_count]
            self.op_count += 1
            op.code, op.shape, op.a, op.b = step["code"], step["shape"], step.get("a", 0), step.get("b", 0)
            self.tells_tls = self.tells_tls or op.code in (OP_TLS, OP_TLS_TIME)
            op.multiply, op.divide = step.get("precision", (1, 1000))
            op.limit = step.get("limit", -1)
            if step.get("text") is not None:
                op.literal, op.literal_length = kept(self, step["text"]), len(step["text"].encode())
            if step.get("headers"):
                compile_name(self, &op.name, step["headers"][0])
            if len(step.get("headers", ())) > 1:
                compile_name(self, &op.other, step["headers"][1])
            if step.get("time"):
                compile_time(self, op, time_pieces(step["time"]))

    cdef int64_t write(self, const Facts *facts, char *out, int64_t capacity) noexcept:
        cdef Out line
        cdef Value value
        cdef char *opened[MOST_DEPTH + 1]
        cdef char *mark = out
        cdef int depth = 0, at
        cdef const Op *op
        line.at, line.end, line.full = out, out + capacity, False
        for at in range(self.op_count):
            op = &self.ops[at]
            if op.code == OP_LITERAL:
                out_put(&line, op.literal, op.literal_length)
            elif op.code == OP_KEY:
                mark = line.at
                if line.at > out and line.at[-1] != c'{' and line.at[-1] != c'[':
                    out_put(&line, b",", 1)
                out_put(&line, op.literal, op.literal_length)
            elif op.code == OP_OPEN:
                opened[depth] = mark
                depth += 1
                out_put(&line, op.literal, 1)
            elif op.code == OP_CLOSE:
                depth -= 1
                mark = opened[depth]
                if self.omit_empty and depth > 0 and line.at[-1] == op.a:
                    line.at = mark
                else:
                    out_put(&line, op.literal, 1)
            else:
                value.kind = ABSENT
                find_value(self, op, facts, &value)
                if value.kind == ABSENT and self.omit_empty and op.shape == SHAPE_ALONE:
                    line.at = mark
                else:
                    put_value(&line, op, &value, self.omit_empty)
            if line.full:
                return -1
        return line.at - out

    def render(self, facts: dict, capacity: int = 65536) -> bytes | None:
        """The line for facts given by name, as tests know them (`lines` of headers as bytes); None when it does not fit."""
        cdef Facts record
        room = bytearray(capacity)
        borrowed = _facts_from(&record, facts)
        cdef int64_t length = self.write(&record, <char *>room, capacity)
        del borrowed
        return None if length < 0 else bytes(room[:length])

    def measure(self, facts: dict, int64_t count) -> None:
        """Write the line so many times, to be timed."""
        cdef Facts record
        cdef int64_t at
        room = bytearray(65536)
        cdef char *out = room
        borrowed = _facts_from(&record, facts)
        for at in range(count):
            self.write(&record, out, 65536)
        del borrowed


def operator_names() -> set[str]:
    """The operators that are compiled."""
    return set(_CODES)


cdef const char *kept(Format format, str text) except NULL:
    encoded = text.encode()
    format.keep.append(encoded)
    return <const char *><bytes>encoded


cdef int compile_name(Format format, HeaderName *name, str header) except -1:
    name.at = kept(format, header.lower())
    name.length = strlen(name.at)
    name.pseudo = _PSEUDO.get(header.lower(), PSEUDO_NONE)
    name.id = header_id(name.at, name.length)
    if name.id == HEADER_X_ENVOY_OTHER:
        name.id = HEADER_OTHER           # many names share it, so the field found by it may be another
    return 0


cdef int compile_time(Format format, Op *op, list pieces) except -1:
    cdef TimePart *part
    op.parts = <TimePart *>calloc(len(pieces) or 1, sizeof(TimePart))
    if op.parts == NULL:
        raise MemoryError()
    for kind, text in pieces:
        part = &op.parts[op.part_count]
        part.kind = _TIME_KINDS[kind]
        part.cached_s = -1
        part.digits = int(text) if kind == "fraction" else 0
        part.format = kept(format, text) if kind == "strftime" else NULL
        op.part_count += 1
    return 0


class _Steps:
    """Collects a format's steps; neighbouring literals become one."""

    def __init__(self, hostname: str, environment: Mapping[str, str]) -> None:
        self._static = {"HOSTNAME": hostname or None, "REQUESTED_SERVER_NAME": None}
        self._environment = environment
        self._steps: list[dict] = []

    def done(self) -> list[dict]:
        return self._steps

    def literal(self, text: str) -> None:
        last = self._steps[len(self._steps) - 1] if self._steps else {"code": -1}
        if last["code"] == OP_LITERAL:
            last["text"] += text
        elif text:
            self._steps.append({"code": OP_LITERAL, "shape": SHAPE_TEXT, "text": text})

    def string(self, text: str, int shape) -> None:
        """A format string's text and operators, with text escaped as the shape wants it."""
        for token in split_format(text):
            if isinstance(token, Operator):
                self.operator(token, shape)
            else:
                self.literal(_inside_json(token) if shape == SHAPE_IN_STRING else token)

    def value(self, value: object, int depth) -> None:
        """A JSON shape: nested dicts and lists, format strings at the leaves."""
        if depth > MOST_DEPTH - 1:
            raise ValueError(f"json access log format: nested deeper than {MOST_DEPTH}")
        if isinstance(value, dict):
            self._container("{}", [(f"{_quoted(str(key))}:", member) for key, member in value.items()], depth)
        elif isinstance(value, (list, tuple)):
            self._container("[]", [("", member) for member in value], depth)
        elif isinstance(value, str):
            self._leaf(value)
        else:
            self._steps.append({"code": OP_STATIC, "shape": SHAPE_ALONE} if value is None else
                               {"code": OP_LITERAL, "shape": SHAPE_TEXT, "text": json.dumps(value)})

    def _container(self, brackets: str, members: list[tuple[str, object]], int depth) -> None:
        opening, closing = brackets
        self._steps.append({"code": OP_OPEN, "shape": SHAPE_TEXT, "text": opening})
        for key, member in members:
            self._steps.append({"code": OP_KEY, "shape": SHAPE_TEXT, "text": key})
            self.value(member, depth + 1)
        self._steps.append({"code": OP_CLOSE, "shape": SHAPE_TEXT, "text": closing, "a": ord(opening)})

    def _leaf(self, text: str) -> None:
        tokens = split_format(text)
        if len(tokens) == 1 and isinstance(tokens[0], Operator):
            self.operator(tokens[0], SHAPE_ALONE)
            return
        self.literal('"')
        self.string(text, SHAPE_IN_STRING)
        self.literal('"')

    def operator(self, operator: Operator, int shape) -> None:
        name, argument, length = operator
        if problems := check_operator(operator):
            raise ValueError("; ".join(problems))
        code, a, b = _CODES[name]
        step = {"code": code, "shape": shape, "a": a, "b": b}
        if length is not None:
            step["limit"] = length
        if OPERATORS[name].argument == HEADERS:
            step["headers"] = argument.split("?")
        elif OPERATORS[name].argument == PATH:
            query, _, which = (argument or "WQ").partition(":")
            step["a"], step["b"] = int(query == "NQ"), _PATH_CHOICES[which]
        elif code == OP_TIME or code == OP_TLS_TIME:
            step["time"] = argument or DEFAULT_TIME
        elif name == "COMMON_DURATION":
            start, end, precision = argument.split(":")
            step["a"], step["b"], step["precision"] = SPAN_POINTS.index(start), SPAN_POINTS.index(end), SPAN_PRECISIONS[precision]
        elif name == "RESPONSE_CODE_DETAILS":
            step["a"] = int(argument == "ALLOW_WHITESPACES")
        elif name == "GRPC_STATUS":
            step["a"] = GRPC.split("|").index(argument or "CAMEL_STRING")
        elif name == "QUERY_PARAM":
            step["text"] = argument
        elif code == OP_STATIC:
            step["text"] = self._environment.get(argument) if name == "ENVIRONMENT" else self._static[name]
        self._steps.append(step)


def _quoted(text: str) -> str:
    return f'"{_inside_json(text)}"'


def _inside_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1 : len(json.dumps(text, ensure_ascii=False)) - 1]


include "accesslog_values.pxi"
