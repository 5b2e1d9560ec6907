"""B3 (openzipkin/b3-propagation) and W3C trace context (trace-context-1) in a request's head. What is malformed is as if it were not there."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from meshproxy.codecs.http1 cimport Head, HeaderField
from meshproxy.proxy.lines cimport Lines, lines_add, lines_reserve, strncasecmp
from meshproxy.proxy.sample_request cimport SampleRequest

import os
from collections.abc import Mapping

cdef const char *HEX = b"0123456789abcdef"
PROPAGATIONS = {"b3": PROPAGATE_B3, "b3_single": PROPAGATE_B3_SINGLE, "w3c": PROPAGATE_W3C}


def ten_thousandths(double percent) -> int:
    """A share of 10,000. What is not 0 is at least 1."""
    return max(int(percent * 100 + 0.5), 1) if percent > 0 else 0


cdef class Tags:
    def __init__(self, tags, environment: Mapping[str, str] | None = None):
        environment = os.environ if environment is None else environment
        self.rows = []
        for tag in tags:
            if tag.kind == "request_header":
                self.rows.append((tag.name.encode(), tag.value.lower().encode(), tag.default.encode()))
                continue
            value = tag.value if tag.kind == "literal" else environment.get(tag.value, tag.default)
            if value:
                self.rows.append((tag.name.encode(), None, value.encode(errors="surrogateescape")))


cdef class RouteTrace:
    def __init__(self, route):
        """Of a model Route."""
        decorator, tracing = route.decorator, route.tracing
        self.operation = decorator.operation.encode() if decorator is not None else b""
        self.propagate = decorator is not None and decorator.propagate
        self.overrides = tracing is not None
        if tracing is not None:
            self.client = ten_thousandths(tracing.client_percent)
            self.random = ten_thousandths(tracing.random_percent)
            self.overall = ten_thousandths(tracing.overall_percent)
            self.tags = Tags(tracing.custom_tags) if tracing.custom_tags else None


cdef class Tracer:
    def __init__(self, model, uint32_t sink):
        """Of a model Tracing; `sink` is the number that its records bear."""
        self.sink = sink
        self.exports = model.exporter != "none"
        self.zipkin = model.exporter.startswith("zipkin")
        self.wide = model.trace_id_128bit or not self.zipkin
        self.shares = model.shared_span_context and self.zipkin
        self.spawns = model.spawn_upstream_span
        self.egress = model.egress
        if self.exports:
            for word in model.propagation:
                self.propagation |= PROPAGATIONS[word]
        self.client = ten_thousandths(model.client_percent)
        self.random = ten_thousandths(model.random_percent)
        self.overall = ten_thousandths(model.overall_percent)
        self.max_path = model.max_path_tag_length
        self.tags = Tags(model.custom_tags) if model.custom_tags else None


# -- reading

cdef bint take_hex(const char *text, size_t length, uint64_t *value) noexcept:
    """All of `text` (at most 16 digits) as a number, either case."""
    cdef uint64_t made = 0
    cdef size_t i
    cdef unsigned char digit
    for i in range(length):
        digit = <unsigned char>text[i]
        if b'0' <= digit <= b'9':
            digit = digit - c'0'
        elif b'a' <= (digit | 32) <= b'f':
            digit = (digit | 32) - c'a' + 10
        else:
            return False
        made = made << 4 | digit
    value[0] = made
    return True


cdef bint take_trace_id(const char *text, size_t length, Context *to) noexcept:
    to.high = 0
    if length == 32:
        if not take_hex(text, 16, &to.high):
            return False
        text += 16
    elif length != 16:
        return False
    return take_hex(text, 16, &to.low) and (to.high | to.low) != 0


cdef bint take_id(const char *text, size_t length, uint64_t *value) noexcept:
    return length == 16 and take_hex(text, 16, value) and value[0] != 0


cdef void take_flag(char flag, Context *to) noexcept:
    if flag == b'1':
        to.sampled = SAMPLED_YES
    elif flag == b'd':
        to.sampled = SAMPLED_YES
        to.debug = True
    elif flag == b'0':
        to.sampled = SAMPLED_NO


cdef bint take_single(const char *text, size_t length, Context *to) noexcept:
    """`{trace}-{span}[-{flag}[-{parent}]]`, or the flag alone."""
    cdef size_t at
    if length == 1:
        take_flag(text[0], to)
        return to.sampled != SAMPLED_UNKNOWN
    at = 32 if length > 32 and text[32] == b'-' else 16
    if length < at + 17 or text[at] != b'-' or not take_trace_id(text, at, to) or not take_id(text + at + 1, 16, &to.id):
        return False
    at += 17
    if at == length:
        to.found = True
        return True
    if text[at] != b'-' or (length != at + 2 and (length != at + 19 or text[at + 2] != b'-')):
        return False
    if length == at + 19:
        if not take_id(text + at + 3, 16, &to.parent):
            return False
        to.has_parent = True
    take_flag(text[at + 1], to)
    to.found = True
    return True


cdef bint take_traceparent(const char *text, size_t length, Context *to) noexcept:
    """`{version}-{trace}-{span}-{flags}` (trace-context 3.2); a later version may have more behind it."""
    cdef uint64_t version, flags
    if length < 55 or text[2] != b'-' or text[35] != b'-' or text[52] != b'-':
        return False
    if not take_hex(text, 2, &version) or version == 255 or not take_hex(text + 53, 2, &flags):
        return False
    if (version == 0 and length != 55) or (length > 55 and text[55] != b'-'):
        return False
    if not take_trace_id(text + 3, 32, to) or not take_id(text + 36, 16, &to.id):
        return False
    to.found = True
    to.sampled = SAMPLED_YES if flags & 1 else SAMPLED_NO
    return True


cdef inline bint named(const char *bytes, const HeaderField *field, const char *name) noexcept:
    return strncasecmp(bytes + field.name_at, name, field.name_length) == 0


cdef void extract(int propagation, const char *bytes, Head *head, Context *context) noexcept:
    """Of several formats the first that is whole counts: b3, x-b3-*, traceparent (Envoy's order)."""
    cdef HeaderField *field
    cdef HeaderField *single = NULL
    cdef HeaderField *trace = NULL
    cdef HeaderField *span = NULL
    cdef HeaderField *parent = NULL
    cdef HeaderField *sampled = NULL
    cdef HeaderField *flags = NULL
    cdef HeaderField *traceparent = NULL
    cdef HeaderField *state = NULL
    cdef bint b3 = propagation & (PROPAGATE_B3 | PROPAGATE_B3_SINGLE) != 0
    cdef bint w3c = propagation & PROPAGATE_W3C != 0
    cdef Context tried
    cdef int i
    memset(context, 0, sizeof(Context))
    context.sampled = SAMPLED_UNKNOWN
    for i in range(head.count):
        field = &head.fields[i]
        if field.hop_by_hop:
            continue
        if field.name_length == 2:
            if b3 and named(bytes, field, b"b3"):
                field.hop_by_hop = 1
                single = field if single == NULL else single
        elif field.name_length == 10:
            if b3 and named(bytes, field, b"x-b3-flags"):
                flags = field if flags == NULL else flags
            elif w3c and named(bytes, field, b"tracestate"):
                state = field
        elif field.name_length == 11:
            if b3 and named(bytes, field, b"x-b3-spanid"):
                field.hop_by_hop = 1
                span = field if span == NULL else span
            elif w3c and named(bytes, field, b"traceparent"):
                field.hop_by_hop = 1
                traceparent = field if traceparent == NULL else traceparent
        elif field.name_length == 12:
            if b3 and named(bytes, field, b"x-b3-traceid"):
                field.hop_by_hop = 1
                trace = field if trace == NULL else trace
            elif b3 and named(bytes, field, b"x-b3-sampled"):
                field.hop_by_hop = 1
                sampled = field if sampled == NULL else sampled
        elif field.name_length == 17:
            if b3 and named(bytes, field, b"x-b3-parentspanid"):
                field.hop_by_hop = 1
                parent = field if parent == NULL else parent
            elif named(bytes, field, b"x-client-trace-id"):
                context.client_trace_id = True
        elif field.name_length == 19:
            if named(bytes, field, b"x-envoy-force-trace"):
                context.force = True
    if single != NULL:
        context.single = True
        tried = context[0]
        if take_single(bytes + single.value_at, single.value_length, &tried):
            context[0] = tried
    if not context.found and trace != NULL and span != NULL:
        tried = context[0]
        if (
            take_trace_id(bytes + trace.value_at, trace.value_length, &tried)
            and take_id(bytes + span.value_at, span.value_length, &tried.id)
            and (parent == NULL or take_id(bytes + parent.value_at, parent.value_length, &tried.parent))
        ):
            tried.found = True
            tried.has_parent = parent != NULL
            context[0] = tried
    if sampled != NULL and context.sampled == SAMPLED_UNKNOWN:
        # "true" and "false" are what early libraries wrote.
        if sampled.value_length == 1:
            take_flag(bytes[sampled.value_at], context)
        elif sampled.value_length == 4 and strncasecmp(bytes + sampled.value_at, b"true", 4) == 0:
            context.sampled = SAMPLED_YES
        elif sampled.value_length == 5 and strncasecmp(bytes + sampled.value_at, b"false", 5) == 0:
            context.sampled = SAMPLED_NO
    if flags != NULL and flags.value_length == 1 and bytes[flags.value_at] == b'1':
        context.debug = True
        context.sampled = SAMPLED_YES
    if not context.found and traceparent != NULL:
        tried = context[0]
        if take_traceparent(bytes + traceparent.value_at, traceparent.value_length, &tried):
            if context.sampled != SAMPLED_UNKNOWN:
                tried.sampled = context.sampled
            context[0] = tried
    if state != NULL and (traceparent == NULL or not context.found):
        drop_state(bytes, head)


cdef void drop_state(const char *bytes, Head *head) noexcept:
    """A trace that begins here takes no `tracestate` along (trace-context 3.3)."""
    cdef int i
    for i in range(head.count):
        if head.fields[i].name_length == 10 and named(bytes, &head.fields[i], b"tracestate"):
            head.fields[i].hop_by_hop = 1


# -- writing

cdef void put_hex(char *out, uint64_t value) noexcept:
    cdef int i
    for i in range(16):
        out[15 - i] = HEX[value & 15]
        value >>= 4


cdef void inject(int propagation, const Span *span, uint64_t id, uint64_t parent, bint has_parent, Lines *lines) except *:
    cdef char ids[32]
    cdef char text[72]
    cdef char flag = b'1' if span.sampled else b'0'
    cdef size_t at, width = 32 if span.high else 16
    put_hex(ids, span.high)
    put_hex(ids + 16, span.low)
    put_hex(text, id)
    lines_reserve(lines, 512)
    if propagation & PROPAGATE_B3 and (not span.single or propagation & PROPAGATE_B3_SINGLE):
        lines_add(lines, b"x-b3-traceid", 12, ids + 32 - width, width)
        lines_add(lines, b"x-b3-spanid", 11, text, 16)
        if has_parent:
            put_hex(text, parent)
            lines_add(lines, b"x-b3-parentspanid", 17, text, 16)
        lines_add(lines, b"x-b3-sampled", 12, &flag, 1)
    if propagation & PROPAGATE_B3_SINGLE or span.single:
        memcpy(text, ids + 32 - width, width)
        at = width
        text[at] = b'-'
        put_hex(text + at + 1, id)
        at += 17
        text[at] = b'-'
        text[at + 1] = b'd' if span.debug else flag
        at += 2
        if has_parent:
            text[at] = b'-'
            put_hex(text + at + 1, parent)
            at += 17
        lines_add(lines, b"b3", 2, text, at)
    if propagation & PROPAGATE_W3C:
        memcpy(text, b"00-", 3)
        memcpy(text + 3, ids, 32)
        text[35] = b'-'
        put_hex(text + 36, id)
        memcpy(text + 52, b"-0", 2)
        text[54] = flag
        lines_add(lines, b"traceparent", 11, text, 55)


# -- which requests are traced

cdef bint decide(Tracer tracer, RouteTrace route, const Context *context, char *uuid, uint64_t chance) noexcept:
    """Envoy's rule. The first 32 bits of the request's UUID are its lot, so that all hops draw the same; the UUID's version digit bears
    the verdict from hop to hop: 4 not traced, 9 sampled, a forced, b by the client."""
    cdef uint64_t lot = 0
    cdef uint32_t client = tracer.client, random = tracer.random, overall = tracer.overall
    cdef char verdict
    if uuid == NULL or not take_hex(uuid, 8, &lot):
        return False
    lot %= 10000
    if route is not None and route.overrides:
        client, random, overall = route.client, route.random, route.overall
    verdict = uuid[14]
    if verdict not in (b'9', b'a', b'b'):
        if context.client_trace_id and chance % 10000 < client:
            verdict = b'b'
        elif context.force:
            verdict = b'a'
        elif lot < random:
            verdict = b'9'
        else:
            return False
    if lot >= overall:
        verdict = b'4'
    uuid[14] = verdict
    return verdict != b'4'


# -- for tests

def hand_on(object headers, tuple propagation, uint64_t own=0) -> tuple[dict, list[bytes], bytes]:
    """What request headers (pairs) say, the names that are left of them, and the lines that hand the context on with span id `own`."""
    cdef SampleRequest request = SampleRequest("GET", "h", "/", headers, False)
    cdef Context context
    cdef Span span
    cdef Lines lines
    cdef int bits = 0, i
    memset(&lines, 0, sizeof(Lines))
    memset(&span, 0, sizeof(Span))
    for word in propagation:
        bits |= <int>PROPAGATIONS[word]
    extract(bits, <const char *>request.text, &request.head, &context)
    span.high, span.low, span.sampled = context.high, context.low, context.sampled == SAMPLED_YES
    span.single, span.debug = context.single, context.debug
    inject(bits, &span, own, context.id, context.found, &lines)
    made = lines.at[:lines.length]
    free(lines.at)
    left = [
        request.text[request.head.fields[i].name_at:request.head.fields[i].name_at + request.head.fields[i].name_length]
        for i in range(request.head.count) if not request.head.fields[i].hop_by_hop
    ]
    said = {
        "found": context.found, "trace": 0, "id": context.id,
        "parent": context.parent if context.has_parent else None, "sampled": context.sampled, "debug": context.debug,
    }
    said["trace"] = (<object>context.high << 64) | <object>context.low
    return said, left, made


def verdict(Tracer tracer not None, RouteTrace route, object headers, str uuid, uint64_t chance=0) -> tuple[bool, str]:
    """Whether a request with these headers is traced, and its request id afterwards."""
    cdef SampleRequest request = SampleRequest("GET", "h", "/", headers, False)
    cdef Context context
    cdef bytearray text = bytearray(uuid.encode())
    extract(0, <const char *>request.text, &request.head, &context)
    traced = decide(tracer, route, &context, <char *>text if len(text) == 36 else NULL, chance)
    return bool(traced), text.decode()
