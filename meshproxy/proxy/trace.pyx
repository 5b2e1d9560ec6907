"""Spans of exchanges. What is traced costs one walk over the head, a few numbers and a record in the ring; what is not, the walk.

A record is `Fixed`, then strings: a key (`TEXT_*`), two bytes of length, the bytes; a custom tag is its name and then its value.
`telemetry.spans` reads it.
"""

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset
from meshproxy.codecs.http1 cimport HEADER_USER_AGENT, HEADER_X_FORWARDED_PROTO, HEADER_X_REQUEST_ID, Head, HeaderField
from meshproxy.proxy.exchange cimport Exchange, HttpConfig
from meshproxy.proxy.headers cimport drop_fields
from meshproxy.proxy.lines cimport lines_add, lines_find, lines_remove, strncasecmp
from meshproxy.proxy.span cimport Context, RouteTrace, SAMPLED_UNKNOWN, SAMPLED_YES, Span, Tags, Tracer, decide, extract, inject
from meshproxy.scoreboard.cells cimport SERVER_RECORDS_DROPPED
from meshproxy.scoreboard.region cimport RECORD_LOG, ring_commit, ring_reserve

cdef enum:
    ROOM_BYTES = 4096                    # most spans; a longer one is written again with room for the longest
    LONG_ROOM_BYTES = 131072
    MOST_TEXT_BYTES = 2048               # of one value; a path has its own limit

cdef enum:                               # Fixed.flags
    FLAG_HAS_PARENT = 1
    FLAG_SHARED = 2
    FLAG_CLIENT = 4
    FLAG_UPSTREAM = 8                    # there is a span of what went upstream
    FLAG_DEBUG = 16

cdef enum:                               # keys of strings
    TEXT_OPERATION = 0
    TEXT_REQUEST_ID
    TEXT_URL
    TEXT_METHOD
    TEXT_DOWNSTREAM_CLUSTER
    TEXT_USER_AGENT
    TEXT_PEER
    TEXT_CLUSTER
    TEXT_UPSTREAM_ADDRESS
    TEXT_CLIENT_TRACE_ID
    TEXT_TAG = 255

cdef packed struct Fixed:
    uint32_t length                      # of the whole record
    uint8_t flags
    int8_t minor_version                 # of HTTP/1 downstream; 2 = HTTP/2
    int8_t upstream_version              # the same of the upstream; -1 = it has not answered
    uint8_t unused
    uint16_t status, attempts
    uint64_t high, low, id, parent, upstream_id
    int64_t start_unix_us, duration_us, upstream_start_us, upstream_end_us, bytes_received, bytes_sent
    uint64_t response_flags

ctypedef struct Out:
    char *at
    char *end
    bint full


cdef const char *find(Exchange x, const char *name, uint32_t name_length, uint32_t *length) noexcept:
    """A request header as the upstream gets it; NULL = it is not there."""
    cdef Head *head = &x.head
    cdef const char *value = lines_find(&x.request_lines, name, name_length, length)
    cdef int i
    if value != NULL:
        return value
    for i in range(head.count):
        if head.fields[i].name_length == name_length and not head.fields[i].hop_by_hop:
            if strncasecmp(x.bytes + head.fields[i].name_at, name, name_length) == 0:
                length[0] = head.fields[i].value_length
                return x.bytes + head.fields[i].value_at
    return NULL


cdef char *request_uuid(Exchange x) noexcept:
    """The request's id, to be written in; NULL when it is not 36 characters long."""
    cdef uint32_t length = 0
    cdef char *value = lines_find(&x.request_lines, b"x-request-id", 12, &length)
    cdef int i = x.head.known[HEADER_X_REQUEST_ID]
    if value == NULL and i >= 0:
        value, length = x.bytes + x.head.fields[i].value_at, x.head.fields[i].value_length
        if length == 36 and x.config.use_remote_address and x.config.preserve_external_request_id:
            value[14] = b'4'                     # a stranger's verdict is not ours
    return value if length == 36 else NULL


cdef void begin_trace(Exchange x) except *:
    cdef Tracer tracer = x.config.tracer
    cdef RouteTrace route = x.route.trace if x.route is not None else None
    cdef Span *span = &x.span
    cdef Context context
    memset(span, 0, sizeof(Span))
    span.begun = True
    span.upstream_version = -1
    extract(tracer.propagation, x.bytes, &x.head, &context)
    span.sampled = decide(tracer, route, &context, request_uuid(x), x.runtime.random())
    if context.sampled != SAMPLED_UNKNOWN:
        span.sampled = context.sampled == SAMPLED_YES
    span.single, span.debug = context.single, context.debug
    span.client = tracer.egress and not tracer.spawns
    span.id = x.runtime.random() | 1             # never 0
    if not context.found:
        span.low = span.id if tracer.zipkin else x.runtime.random() | 1
        span.high = x.runtime.random() if tracer.wide else 0
    else:
        span.high, span.low = context.high, context.low
        if tracer.shares and not span.client:
            span.id, span.parent, span.has_parent, span.shared = context.id, context.parent, context.has_parent, True
        else:
            span.parent, span.has_parent = context.id, True
    name_operation(x, tracer, route)


cdef void name_operation(Exchange x, Tracer tracer, RouteTrace route) except *:
    """The route's word, or the caller's on the way in; it is passed on by Envoy's x-envoy-decorator-operation."""
    cdef Span *span = &x.span
    cdef uint32_t length = 0
    cdef const char *given
    if route is not None and route.operation:
        span.operation, span.operation_length = <const char *>route.operation, len(route.operation)
        if tracer.egress and route.propagate:
            drop_fields(x.bytes, &x.head, b"x-envoy-decorator-operation", 27)
            lines_remove(&x.request_lines, b"x-envoy-decorator-operation", 27)
            lines_add(&x.request_lines, b"x-envoy-decorator-operation", 27, span.operation, span.operation_length)
        span.decorated = route.propagate and not tracer.egress
    if not tracer.egress and find_field(x, b"x-envoy-decorator-operation", 27, &given, &length):
        if length:
            span.operation, span.operation_length, span.decorated = given, length, False
        drop_fields(x.bytes, &x.head, b"x-envoy-decorator-operation", 27)


cdef bint find_field(Exchange x, const char *name, uint32_t name_length, const char **value, uint32_t *length) noexcept:
    """Of those that came: they stay where they are as long as the exchange lives."""
    cdef int i
    for i in range(x.head.count):
        if x.head.fields[i].name_length == name_length and not x.head.fields[i].hop_by_hop:
            if strncasecmp(x.bytes + x.head.fields[i].name_at, name, name_length) == 0:
                value[0], length[0] = x.bytes + x.head.fields[i].value_at, x.head.fields[i].value_length
                return True
    return False


cdef void trace_try(Exchange x) except *:
    cdef Tracer tracer = x.config.tracer
    cdef Span *span = &x.span
    if not span.begun or not tracer.propagation:
        return
    if tracer.spawns:
        span.upstream_id = x.runtime.random() | 1
        inject(tracer.propagation, span, span.upstream_id, span.id, True, &x.request_lines)
    else:
        inject(tracer.propagation, span, span.id, span.parent, span.has_parent, &x.request_lines)


cdef void trace_response(Exchange x, const Head *head) except *:
    if head != NULL and x.upstream is not None:
        x.span.upstream_version = 2 if x.upstream.http2 else <int8_t>head.minor_version
    if x.span.begun and x.span.decorated:
        lines_add(&x.response_lines, b"x-envoy-decorator-operation", 27, x.span.operation, x.span.operation_length)


# -- the record

cdef void put(Out *out, uint8_t key, const char *text, size_t length) noexcept:
    cdef uint16_t short
    if text == NULL or out.full:
        return
    length = length if length < 65535 else 65535
    if <size_t>(out.end - out.at) < length + 3:
        out.full = True
        return
    short = <uint16_t>length
    out.at[0] = <char>key
    memcpy(out.at + 1, &short, 2)
    if length:
        memcpy(out.at + 3, text, length)
    out.at += 3 + length


cdef inline void put_short(Out *out, uint8_t key, const char *text, size_t length) noexcept:
    put(out, key, text, length if length < MOST_TEXT_BYTES else MOST_TEXT_BYTES)


cdef void put_header(Out *out, uint8_t key, Exchange x, const char *name, uint32_t name_length) noexcept:
    cdef uint32_t length = 0
    cdef const char *value = find(x, name, name_length, &length)
    put_short(out, key, value, length)


cdef void put_url(Out *out, Exchange x, uint32_t max_path) noexcept:
    """scheme://host/path as the client asked, the path cut."""
    cdef char *start = out.at
    cdef uint32_t length = 0, host_length, path_length
    cdef uint16_t short
    cdef const char *scheme = find(x, b"x-forwarded-proto", 17, &length)
    cdef const char *path = x.bytes + x.head.path_at if x.head.path_length else x.path
    if scheme == NULL:
        scheme, length = (b"https", 5) if x.downstream.info.tls else (b"http", 4)
    path_length = x.head.path_length if x.head.path_length else x.path_length
    path_length = path_length if path_length < max_path else max_path
    path_length = path_length if path_length < 60000 else 60000
    host_length = x.authority_length if x.authority_length < 1024 else 1024
    length = length if length < 16 else 16
    if out.full or <size_t>(out.end - out.at) < length + host_length + path_length + 6:
        out.full = True
        return
    out.at += 3
    memcpy(out.at, scheme, length)
    memcpy(out.at + length, b"://", 3)
    out.at += length + 3
    memcpy(out.at, x.authority, host_length)
    out.at += host_length
    memcpy(out.at, path, path_length)
    out.at += path_length
    short = <uint16_t>(out.at - start - 3)
    start[0] = TEXT_URL
    memcpy(start + 1, &short, 2)


cdef void put_tags(Out *out, Exchange x, Tags tags) except *:
    cdef bytes name, header, value
    cdef uint32_t length = 0
    cdef const char *found
    for name, header, value in tags.rows:
        if header is not None:
            found = find(x, <const char *>header, len(header), &length)
        else:
            found = NULL
        if found == NULL:
            if not value:
                continue
            found, length = <const char *>value, len(value)
        put_short(out, TEXT_TAG, <const char *>name, len(name))
        put_short(out, TEXT_TAG, found, length)


cdef void end_trace(Exchange x) except *:
    cdef Tracer tracer = x.config.tracer
    if not x.span.begun:
        if x.head.length == 0:
            return                               # what could not be read has no trace
        begin_trace(x)
    if not x.span.sampled or not tracer.exports:
        return
    if not write_span(x, tracer, ROOM_BYTES) and not write_span(x, tracer, LONG_ROOM_BYTES):
        x.runtime.server[SERVER_RECORDS_DROPPED] += 1


cdef bint write_span(Exchange x, Tracer tracer, uint32_t room) except *:
    """False: the ring has no room, or the record is longer than `room`."""
    cdef char *start = ring_reserve(x.config.ring, room)
    cdef Span *span = &x.span
    cdef RouteTrace route = x.route.trace if x.route is not None else None
    cdef Fixed fixed
    cdef Out out
    if start == NULL:
        return False
    out.at, out.end, out.full = start + sizeof(Fixed), start + room, False
    memset(&fixed, 0, sizeof(Fixed))
    fixed.flags = (
        (FLAG_HAS_PARENT if span.has_parent else 0) | (FLAG_SHARED if span.shared else 0) | (FLAG_CLIENT if span.client else 0)
        | (FLAG_UPSTREAM if span.upstream_id else 0) | (FLAG_DEBUG if span.debug else 0)
    )
    fixed.minor_version = 2 if x.downstream.http2 else <int8_t>x.head.minor_version
    fixed.upstream_version = span.upstream_version
    fixed.status, fixed.attempts = <uint16_t>x.status, <uint16_t>x.attempts
    fixed.high, fixed.low, fixed.id, fixed.parent, fixed.upstream_id = span.high, span.low, span.id, span.parent, span.upstream_id
    fixed.start_unix_us = x.start_us + x.runtime.unix_offset_us
    fixed.duration_us = x.runtime.now_us - x.start_us
    fixed.upstream_start_us = x.upstream_start_us - x.start_us if x.upstream_start_us else 0
    fixed.upstream_end_us = x.response_end_us - x.start_us if x.response_end_us else fixed.duration_us
    fixed.bytes_received, fixed.bytes_sent, fixed.response_flags = x.bytes_received, x.bytes_sent, x.flags
    if span.operation != NULL:
        put_short(&out, TEXT_OPERATION, span.operation, span.operation_length)
    else:
        put_short(&out, TEXT_OPERATION, x.authority, x.authority_length)
    put_header(&out, TEXT_REQUEST_ID, x, b"x-request-id", 12)
    put_url(&out, x, tracer.max_path)
    put_short(&out, TEXT_METHOD, x.bytes + x.head.method_at, x.head.method_length)
    put_header(&out, TEXT_DOWNSTREAM_CLUSTER, x, b"x-envoy-downstream-service-cluster", 34)
    put_header(&out, TEXT_USER_AGENT, x, b"user-agent", 10)
    put_short(&out, TEXT_PEER, x.downstream.info.remote_ip, x.downstream.info.remote_ip_length)
    if x.cluster is not None:
        put_short(&out, TEXT_CLUSTER, <const char *>x.cluster.name_bytes, len(x.cluster.name_bytes))
    if x.host is not None:
        put_short(&out, TEXT_UPSTREAM_ADDRESS, <const char *>x.host.address_bytes, len(x.host.address_bytes))
    put_header(&out, TEXT_CLIENT_TRACE_ID, x, b"x-client-trace-id", 17)
    if tracer.tags is not None:
        put_tags(&out, x, tracer.tags)
    if route is not None and route.tags is not None:
        put_tags(&out, x, route.tags)
    if out.full:
        return False
    fixed.length = <uint32_t>(out.at - start)
    memcpy(start, &fixed, sizeof(Fixed))
    ring_commit(x.config.ring, RECORD_LOG, tracer.sink, fixed.length)
    return True
