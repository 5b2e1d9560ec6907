"""Records of exchanges. The line is formatted straight into the ring, so a log costs no allocation and no system call here."""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memchr, memcpy, memset, strlen
from meshproxy.proxy.connection cimport ConnectionInfo, TlsFacts
from meshproxy.proxy.exchange cimport HttpConfig, LogTarget
from meshproxy.proxy.outcome cimport outcome_row
from meshproxy.proxy.span cimport put_hex
from meshproxy.scoreboard.cells cimport SERVER_RECORDS_DROPPED
from meshproxy.scoreboard.region cimport LAST_EXCHANGE_BYTES, RECORD_LOG, SlotHead, ring_commit, ring_reserve
from meshproxy.telemetry.facts cimport Text

cdef enum:
    LINE_BYTES = 4096                    # most lines; a longer one is formatted again with room for the longest head
    LONG_LINE_BYTES = 262144


cdef inline size_t put(char *out, size_t room, const char *text, size_t length) noexcept:
    length = length if length < room else room
    if length:
        memcpy(out, text, length)
    return length


cdef void note_exchange(Exchange x) noexcept:
    cdef SlotHead *head = x.config.slot_head
    cdef char *out = head.last_exchange
    cdef const char *query = <const char *>memchr(x.path, b'?', x.path_length)
    cdef size_t at = put(out, 32, x.bytes + x.head.method_at, x.head.method_length)
    out[at] = b' '
    at += 1
    at += put(out + at, 128, x.authority, x.authority_length)
    at += put(out + at, LAST_EXCHANGE_BYTES - at, x.path, query - x.path if query != NULL else x.path_length)
    head.last_exchange_length = at


cdef inline void set_text(Text *text, const char *at, size_t length) noexcept:
    text.at = at
    text.length = length


cdef inline void set_bytes(Text *text, bytes value) noexcept:
    if value is not None:
        text.at = <const char *>value
        text.length = len(value)


cdef inline int64_t since(Exchange x, int64_t at_us) noexcept:
    return at_us - x.start_us if at_us else -1


cdef void describe(Exchange x, Facts *facts) except *:
    cdef const char *details = outcome_row(x.outcome).details
    memset(facts, 0, sizeof(Facts))
    facts.request_bytes = x.bytes
    if x.head.length:
        facts.request = &x.head
        set_text(&facts.method, x.bytes + x.head.method_at, x.head.method_length)
        set_text(&facts.path, x.path, x.path_length)
        set_text(&facts.original_path, x.bytes + x.head.path_at, x.head.path_length)
        set_text(&facts.authority, x.authority, x.authority_length)
        facts.minor_version = x.head.minor_version
    if x.downstream.info.tls:
        set_text(&facts.scheme, b"https", 5)
    else:
        set_text(&facts.scheme, b"http", 4)
    if x.response_copy.length:
        facts.response_bytes = x.response_copy.at
        facts.response_length = x.response_copy.length
    facts.trailer_bytes = x.trailers
    facts.trailer_length = x.trailers_length
    facts.added_bytes = x.request_lines.at
    facts.added_length = x.request_lines.length
    facts.status = x.status
    facts.flags = x.flags
    if x.details is not None:
        set_text(&facts.code_details, <const char *>x.details, len(x.details))
    else:
        set_text(&facts.code_details, details, strlen(details))
    facts.start_unix_us = x.start_us + x.runtime.unix_offset_us
    facts.request_end_us = since(x, x.request_end_us)
    facts.upstream_start_us = since(x, x.upstream_start_us)
    facts.response_start_us = since(x, x.response_start_us)
    facts.response_end_us = since(x, x.response_end_us)
    facts.downstream_start_us = since(x, x.downstream_start_us)
    facts.duration_us = x.runtime.now_us - x.start_us
    facts.bytes_received = x.bytes_received
    facts.bytes_sent = x.bytes_sent
    facts.attempts = x.attempts
    facts.connection_id = x.connection_id
    if x.host is not None:
        set_bytes(&facts.upstream_host, x.host.address_bytes)
    if x.cluster is not None:
        set_bytes(&facts.upstream_cluster, x.cluster.name_bytes)
    if x.route is not None:
        set_bytes(&facts.route_name, x.route.name)
        set_bytes(&facts.virtual_host, x.route.virtual_host.name_bytes)
    set_bytes(&facts.listener, x.config.listener)
    set_bytes(&facts.upstream_failure_reason, x.failure_reason)
    describe_tls(x.downstream.info, facts, x.config.tells_tls)
    if x.upstream_info is not None:
        x.upstream_info.describe(facts, x.config.tells_tls)
    x.downstream.describe(facts)
    if x.client_ip_length:
        describe_client(x, facts)
    if x.config.tracer is not None and x.config.tracer.exports and x.span.begun:
        describe_trace(x, facts)


cdef void describe_tls(ConnectionInfo info, Facts *facts, bint whole) except *:
    """What is known of the client's connection as TLS has it; what certificates say only if the `whole` is asked for."""
    set_bytes(&facts.server_name, info.sni)
    set_bytes(&facts.ja3, info.ja3)
    set_bytes(&facts.ja4, info.ja4)
    set_bytes(&facts.downstream_failure_reason, info.transport_failure)
    if whole and info.tls_facts is not None:
        facts.downstream_tls = told_by(info.tls_facts)


cdef const Text *told_by(TlsFacts facts) except NULL:
    if not facts.loaded:
        facts.load()
    return facts.told


cdef char client_text[64]                        # these, for the length of a call to the log
cdef char trace_text[32]


cdef void describe_trace(Exchange x, Facts *facts) noexcept:
    put_hex(trace_text, x.span.high)
    put_hex(trace_text + 16, x.span.low)
    if x.span.high:
        set_text(&facts.trace_id, trace_text, 32)
    else:
        set_text(&facts.trace_id, trace_text + 16, 16)


cdef void describe_client(Exchange x, Facts *facts) noexcept:
    """The client of a trusted X-Forwarded-For; its port is not known, and Envoy prints 0."""
    cdef size_t length = x.client_ip_length
    memcpy(client_text, x.client_ip, length)
    memcpy(client_text + length, b":0", 2)
    set_text(&facts.downstream_remote, client_text, length + 2)


cdef void write_logs(Exchange x) except *:
    cdef HttpConfig config = x.config
    cdef Facts facts
    describe(x, &facts)
    write_lines(config.logs, config.ring, &facts, x.status, x.runtime)


cdef void write_lines(list logs, Ring *ring, const Facts *facts, int status, Runtime runtime) except *:
    cdef LogTarget target
    for target in logs:
        if status < target.min_status:
            continue
        if not write_line(ring, target, facts, LINE_BYTES) and not write_line(ring, target, facts, LONG_LINE_BYTES):
            runtime.server[SERVER_RECORDS_DROPPED] += 1


cdef bint write_line(Ring *ring, LogTarget target, const Facts *facts, uint32_t room) except *:
    """False: the ring has no room, or the line is longer than `room`. What was reserved and not committed is free again."""
    cdef char *out = ring_reserve(ring, room)
    cdef int64_t length
    if out == NULL:
        return False
    length = target.format.write(facts, out, room)
    if length < 0:
        return False
    ring_commit(ring, RECORD_LOG, target.sink, length)
    return True
