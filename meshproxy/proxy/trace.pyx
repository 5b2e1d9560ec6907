"""Spans of exchanges. What is traced costs one walk over the head, a few numbers and a record in the ring; what is not, the walk.
A try that is followed by another leaves a record of its own.

A record is `Fixed`, then strings: a key (`TEXT_*`), two bytes of length, the bytes; a custom tag is its name and then its value.
`telemetry.spans` reads it.
"""

from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from meshproxy.codecs.http1 cimport HEADER_X_REQUEST_ID, Head
from meshproxy.proxy.exchange cimport Exchange, HttpConfig
from meshproxy.proxy.grpc cimport find_field
from meshproxy.proxy.headers cimport drop_fields
from meshproxy.proxy.lines cimport Lines, lines_add, lines_find, lines_remove
from meshproxy.proxy.outcome cimport *
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
    FLAG_TRY = 32                        # only that: the request goes on
    FLAG_CANCELED = 64                   # the try, by us

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
    TEXT_REASON
    TEXT_GRPC_PATH
    TEXT_GRPC_AUTHORITY
    TEXT_GRPC_CONTENT_TYPE
    TEXT_GRPC_TIMEOUT
    TEXT_GRPC_STATUS
    TEXT_GRPC_MESSAGE
    TEXT_TAG = 255

cdef packed struct Fixed:
    uint32_t length                      # of the whole record
    uint8_t flags
    int8_t minor_version                 # of HTTP/1 downstream; 2 = HTTP/2
    int8_t upstream_version              # the same of the upstream; -1 = there was no connection
    uint8_t unused
    uint16_t status, upstream_status, tries
    uint64_t high, low, id, parent, upstream_id
    int64_t start_unix_us, duration_us, upstream_start_us, upstream_end_us, bytes_received, bytes_sent
    uint64_t response_flags, upstream_flags

ctypedef struct Out:
    char *at
    char *end
    bint full


cdef const char *find(Exchange x, const char *name, uint32_t name_length, uint32_t *length) noexcept:
    """A request header as the upstream gets it; NULL = it is not there."""
    cdef const char *value = lines_find(&x.request_lines, name, name_length, length)
    cdef int i
    if value != NULL:
        return value
    i = find_field(x.bytes, &x.head, name, name_length)
    if i < 0:
        return NULL
    length[0] = x.head.fields[i].value_length
    return x.bytes + x.head.fields[i].value_at


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
    cdef int i
    if route is not None and route.operation:
        span.operation, span.operation_length = <const char *>route.operation, len(route.operation)
        if tracer.egress and route.propagate:
            drop_fields(x.bytes, &x.head, b"x-envoy-decorator-operation", 27)
            lines_remove(&x.request_lines, b"x-envoy-decorator-operation", 27)
            lines_add(&x.request_lines, b"x-envoy-decorator-operation", 27, span.operation, span.operation_length)
        span.decorated = route.propagate and not tracer.egress
    if not tracer.egress:
        i = find_field(x.bytes, &x.head, b"x-envoy-decorator-operation", 27)
        if i >= 0:                               # it stays where it is as long as the exchange lives
            if x.head.fields[i].value_length:
                span.operation, span.operation_length = x.bytes + x.head.fields[i].value_at, x.head.fields[i].value_length
                span.decorated = False
            drop_fields(x.bytes, &x.head, b"x-envoy-decorator-operation", 27)


cdef void begin_try(Exchange x) noexcept:
    cdef Span *span = &x.span
    span.tries += 1
    span.upstream_id = x.runtime.random() | 1 if x.config.tracer.spawns else 0
    span.try_start_us = x.runtime.now_us
    span.try_flags = 0
    span.try_reason = NULL
    span.canceled = False
    span.upstream_version = -1
    span.try_status = 0


cdef void trace_try(Exchange x) except *:
    cdef Tracer tracer = x.config.tracer
    cdef Span *span = &x.span
    span.upstream_version = 2 if x.upstream.info.http_version == 2 else 1
    if not tracer.propagation:
        return
    if tracer.spawns:
        inject(tracer.propagation, span, span.upstream_id, span.id, True, &x.request_lines)
    else:
        inject(tracer.propagation, span, span.id, span.parent, span.has_parent, &x.request_lines)


cdef void lose_try(Exchange x, int outcome) noexcept:
    cdef Span *span = &x.span
    span.try_flags |= outcome_row(outcome).flag
    span.try_reason = reset_reason(outcome)


cdef const char *reset_reason(int outcome) noexcept:
    """Envoy's words; NULL for what is no reset."""
    if outcome == CONNECT_FAILED:
        return b"remote connection failure"
    if outcome == CONNECT_TIMED_OUT:
        return b"connection timeout"
    if outcome == UPSTREAM_RESET or outcome == UPSTREAM_CUT:
        return b"connection termination"
    if outcome == UPSTREAM_REMOTE_RESET or outcome == UPSTREAM_CUT_BY_RESET:
        return b"remote reset"
    if outcome == UPSTREAM_REFUSED:
        return b"remote refused stream reset"
    if outcome == UPSTREAM_PROTOCOL_ERROR or outcome == UPSTREAM_CUT_BY_ERROR:
        return b"protocol error"
    if outcome == UPSTREAM_OVERFLOW:
        return b"overflow"
    return NULL


cdef void end_try(Exchange x, bint canceled) except *:
    cdef Tracer tracer = x.config.tracer
    if x.span.upstream_id and x.span.sampled and tracer.exports and x.host is not None:
        x.span.canceled = canceled
        write_or_drop(x, tracer, True)


cdef void trace_response(Exchange x, const char *bytes, const Head *head) except *:
    if head != NULL and x.grpc and x.span.begun and x.span.sampled:
        # A head that is trailers too is gone when the exchange ends.
        x.grpc_status = copy_of(bytes, head, b"grpc-status", 11)
        x.grpc_message = copy_of(bytes, head, b"grpc-message", 12)
    if x.span.begun and x.span.decorated:
        lines_add(&x.response_lines, b"x-envoy-decorator-operation", 27, x.span.operation, x.span.operation_length)


cdef bytes copy_of(const char *bytes, const Head *head, const char *name, size_t length):
    """A header's value; None = it is not there."""
    cdef int i = find_field(bytes, head, name, length)
    return None if i < 0 else (bytes + head.fields[i].value_at)[:min(head.fields[i].value_length, <uint32_t>MOST_TEXT_BYTES)]


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
    if x.span.sampled and tracer.exports:
        write_or_drop(x, tracer, False)


cdef void write_or_drop(Exchange x, Tracer tracer, bint only_try) except *:
    if not write_span(x, tracer, only_try, ROOM_BYTES) and not write_span(x, tracer, only_try, LONG_ROOM_BYTES):
        x.runtime.server[SERVER_RECORDS_DROPPED] += 1


cdef bint write_span(Exchange x, Tracer tracer, bint only_try, uint32_t room) except *:
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
        | (FLAG_UPSTREAM if span.upstream_id and x.host is not None else 0) | (FLAG_DEBUG if span.debug else 0)
        | (FLAG_TRY if only_try else 0) | (FLAG_CANCELED if span.canceled else 0)
    )
    fixed.minor_version = 2 if x.downstream.http2 else <int8_t>x.head.minor_version
    fixed.upstream_version = span.upstream_version
    fixed.status, fixed.upstream_status, fixed.tries = <uint16_t>x.status, <uint16_t>span.try_status, <uint16_t>span.tries
    fixed.high, fixed.low, fixed.id, fixed.parent, fixed.upstream_id = span.high, span.low, span.id, span.parent, span.upstream_id
    fixed.start_unix_us = x.start_us + x.runtime.unix_offset_us
    fixed.duration_us = x.runtime.now_us - x.start_us
    fixed.upstream_start_us = span.try_start_us - x.start_us
    fixed.upstream_end_us = x.response_end_us - x.start_us if x.response_end_us else fixed.duration_us
    fixed.bytes_received, fixed.bytes_sent = x.bytes_received, x.bytes_sent
    fixed.response_flags, fixed.upstream_flags = x.flags, span.try_flags
    if not only_try:
        put_request(&out, x, tracer)
    if x.cluster is not None:
        put_short(&out, TEXT_CLUSTER, <const char *>x.cluster.name_bytes, len(x.cluster.name_bytes))
    if x.host is not None:
        put_short(&out, TEXT_UPSTREAM_ADDRESS, <const char *>x.host.address_bytes, len(x.host.address_bytes))
    if span.try_reason != NULL:
        put_short(&out, TEXT_REASON, span.try_reason, strlen(span.try_reason))
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


cdef void put_request(Out *out, Exchange x, Tracer tracer) except *:
    """What the client's span says and a try's does not."""
    cdef Span *span = &x.span
    if span.operation != NULL:
        put_short(out, TEXT_OPERATION, span.operation, span.operation_length)
    else:
        put_short(out, TEXT_OPERATION, x.authority, x.authority_length)
    put_header(out, TEXT_REQUEST_ID, x, b"x-request-id", 12)
    put_url(out, x, tracer.max_path)
    put_short(out, TEXT_METHOD, x.bytes + x.head.method_at, x.head.method_length)
    put_header(out, TEXT_DOWNSTREAM_CLUSTER, x, b"x-envoy-downstream-service-cluster", 34)
    put_header(out, TEXT_USER_AGENT, x, b"user-agent", 10)
    put_short(out, TEXT_PEER, x.downstream.info.remote_ip, x.downstream.info.remote_ip_length)
    put_header(out, TEXT_CLIENT_TRACE_ID, x, b"x-client-trace-id", 17)
    if x.grpc:
        put_short(out, TEXT_GRPC_PATH, x.path, x.path_length)
        put_short(out, TEXT_GRPC_AUTHORITY, x.authority, x.authority_length)
        put_header(out, TEXT_GRPC_CONTENT_TYPE, x, b"content-type", 12)
        put_header(out, TEXT_GRPC_TIMEOUT, x, b"grpc-timeout", 12)
        put_grpc(out, TEXT_GRPC_STATUS, x, b"grpc-status", 11, x.grpc_status)
        put_grpc(out, TEXT_GRPC_MESSAGE, x, b"grpc-message", 12, x.grpc_message)


cdef void put_grpc(Out *out, uint8_t key, Exchange x, const char *name, size_t name_length, bytes told) noexcept:
    """Of our own answer, of the trailers, or `told` by the endpoint's head."""
    cdef Lines trailers
    cdef uint32_t length = 0
    cdef const char *value = lines_find(&x.response_lines, name, name_length, &length)
    if value == NULL and x.trailers_length:
        trailers.at, trailers.length, trailers.capacity = <char *>x.trailers, <uint32_t>x.trailers_length, 0
        value = lines_find(&trailers, name, name_length, &length)
    if value == NULL and told is not None:
        value, length = <const char *>told, <uint32_t>len(told)
    put_short(out, key, value, length)
