"""Header rules of Envoy's connection manager and router (source/common/http/conn_manager_utility and router/router of 1.26 describe them)."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy
from meshproxy.codecs.http1 cimport *
from meshproxy.proxy.exchange cimport Exchange, HttpConfig
from meshproxy.proxy.lines cimport Lines, lines_add, lines_find, lines_raw, lines_remove, strncasecmp
from meshproxy.proxy.path cimport normalize
from meshproxy.proxy.request_match cimport RouteInput
from meshproxy.proxy.router cimport *
from meshproxy.proxy.trace cimport trace_response, trace_try

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *address)
    int AF_INET, AF_INET6

cdef const char *HEX = b"0123456789abcdef"
# Internal hints that only a trusted client may give; cleaned from everybody else's requests.
cdef bytes INTERNAL_NAMES = (
    b"x-envoy-retriable-status-codes\nx-envoy-retriable-header-names\nx-envoy-retry-grpc-on\nx-envoy-upstream-alt-stat-name\n"
    b"x-envoy-upstream-rq-timeout-alt-response\nx-envoy-force-trace\nx-envoy-ip-tags\nx-envoy-hedge-on-per-try-timeout\nx-envoy-original-url\n"
)
cdef bytes EDGE_NAMES = b"x-envoy-downstream-service-cluster\nx-envoy-downstream-service-node\nx-envoy-decorator-operation\n"


cdef void drop_known(Head *head, int id) noexcept:
    cdef int i = head.known[id]
    if i >= 0:
        while i < head.count:
            if head.fields[i].id == id:
                head.fields[i].hop_by_hop = 1
            i += 1


cdef inline bint has(const Head *head, int id) noexcept:
    cdef int i = head.known[id]
    return i >= 0 and (not head.fields[i].hop_by_hop or id == HEADER_HOST)


cdef int drop_fields(const char *bytes, Head *head, const char *name, size_t length) noexcept:
    """Mark every field of that name as dropped; how many there were."""
    cdef int i, dropped = 0
    for i in range(head.count):
        if head.fields[i].name_length == length and not head.fields[i].hop_by_hop:
            if strncasecmp(bytes + head.fields[i].name_at, name, length) == 0:
                head.fields[i].hop_by_hop = 1
                dropped += 1
    return dropped


cdef void drop_listed(const char *bytes, Head *head, const char *names, size_t length) noexcept:
    cdef const char *end = names + length
    cdef const char *stop
    while names < end:
        stop = <const char *>memchr(names, b'\n', end - names)
        drop_fields(bytes, head, names, stop - names)
        names = stop + 1


# -- requests

cdef void locate(Exchange x) except *:
    cdef HttpConfig config = x.config
    cdef Head *head = &x.head
    if head.path_is_root:                        # "OPTIONS http://host" asks about the server (RFC 9112 3.2.4)
        x.path, x.path_length = (b"*" if head.method == METHOD_OPTIONS else b"/"), 1
    else:
        x.path, x.path_length = x.bytes + head.path_at, head.path_length
    x.authority, x.authority_length = x.bytes + head.authority_at, head.authority_length
    if x.authority_length == 0 and head.minor_version == 0 and config.default_host_for_http_10:
        x.authority = <const char *>config.default_host_for_http_10
        x.authority_length = len(config.default_host_for_http_10)
        lines_add(&x.request_lines, b"host", 4, x.authority, x.authority_length)
    if config.normalize_path or config.merge_slashes:
        x.path_memory = <char *>malloc(x.path_length + 1)
        if x.path_memory == NULL:
            raise MemoryError("no room for a path")
        x.path_length = normalize(x.path_memory, x.path, x.path_length, config.normalize_path, config.merge_slashes)
        x.path = x.path_memory
    if config.strip_port:
        strip_port(x)


cdef void strip_port(Exchange x) except *:
    cdef uint32_t end = x.authority_length
    cdef int port = 0
    while end and b'0' <= x.authority[end - 1] <= b'9':
        end -= 1
    if end == 0 or end == x.authority_length or x.authority[end - 1] != b':':
        return
    port = int((<const char *>x.authority)[end:x.authority_length])
    if x.config.strip_port == 2 or port == x.config.listener_port:
        x.authority_length = end - 1
        drop_known(&x.head, HEADER_HOST)
        lines_add(&x.request_lines, b"host", 4, x.authority, x.authority_length)


cdef void receive_request(Exchange x) except *:
    cdef HttpConfig config = x.config
    cdef Head *head = &x.head
    cdef Lines *lines = &x.request_lines
    if head.absolute_form:
        drop_known(head, HEADER_HOST)            # RFC 9112 3.2.2: the target's authority is the truth
        lines_add(lines, b"host", 4, x.authority, x.authority_length)
    if head.known[HEADER_TE] >= 0:
        keep_te_trailers(x)
    if head.expect_continue and not config.proxy_100_continue:
        drop_known(head, HEADER_EXPECT)
    drop_known(head, HEADER_X_ENVOY_INTERNAL)
    config.client_cert.apply(x.downstream.info, x.bytes, head, lines)
    if config.use_remote_address:
        if config.xff_trusted_hops:
            find_client(x, config.xff_trusted_hops - 1)
        if config.xff_trusted_hops == 0 or not has(head, HEADER_X_FORWARDED_PROTO):
            drop_known(head, HEADER_X_FORWARDED_PROTO)
            add_forwarded_proto(x)
        if not config.skip_xff_append and x.downstream.info.remote_ip_length:
            append_forwarded_for(x)
    else:
        find_client(x, config.xff_trusted_hops)
        if not has(head, HEADER_X_FORWARDED_PROTO):
            add_forwarded_proto(x)
    # Nobody is internal unless told so (Envoy's `internal_address_config`, empty by default since 1.33, and not taken yet).
    clean_internal(x)
    if config.use_remote_address:
        drop_known(head, HEADER_X_ENVOY_EXTERNAL_ADDRESS)
        drop_known(head, HEADER_X_ENVOY_ORIGINAL_PATH)
        if x.client_ip_length:
            lines_add(lines, b"x-envoy-external-address", 24, x.client_ip, x.client_ip_length)
        elif x.downstream.info.remote_ip_length:
            lines_add(lines, b"x-envoy-external-address", 24, x.downstream.info.remote_ip, x.downstream.info.remote_ip_length)
    if config.user_agent:
        add_user_agent(x)
    if config.via:
        lines_add(lines, b"via", 3, <const char *>config.via, len(config.via))
    if config.generate_request_id:
        if config.use_remote_address and not config.preserve_external_request_id:
            drop_known(head, HEADER_X_REQUEST_ID)
        if not has(head, HEADER_X_REQUEST_ID):
            add_request_id(x)


cdef void keep_te_trailers(Exchange x) except *:
    """`TE: trailers` says that the client takes trailers, which go through; other codings are this connection's business."""
    cdef Head *head = &x.head
    cdef HeaderField *field = &head.fields[head.known[HEADER_TE]]
    if b"trailers" in (<const char *>(x.bytes + field.value_at))[:field.value_length].lower():
        drop_known(head, HEADER_TE)
        lines_raw(&x.request_lines, b"te: trailers\r\n", 14)


cdef void add_user_agent(Exchange x) except *:
    cdef bytes agent = x.config.user_agent, node = x.config.service_node
    drop_fields(x.bytes, &x.head, b"x-envoy-downstream-service-cluster", 34)
    lines_add(&x.request_lines, b"x-envoy-downstream-service-cluster", 34, <const char *>agent, len(agent))
    if not has(&x.head, HEADER_USER_AGENT):
        lines_add(&x.request_lines, b"user-agent", 10, <const char *>agent, len(agent))
    if node:
        drop_fields(x.bytes, &x.head, b"x-envoy-downstream-service-node", 31)
        lines_add(&x.request_lines, b"x-envoy-downstream-service-node", 31, <const char *>node, len(node))


cdef void add_forwarded_proto(Exchange x) except *:
    if x.downstream.info.tls:
        lines_raw(&x.request_lines, b"x-forwarded-proto: https\r\n", 26)
    else:
        lines_raw(&x.request_lines, b"x-forwarded-proto: http\r\n", 25)


cdef void append_forwarded_for(Exchange x) except *:
    """One line with what was there and the peer (Envoy joins with a comma and no space)."""
    cdef Head *head = &x.head
    cdef Lines *lines = &x.request_lines
    cdef int i = head.known[HEADER_X_FORWARDED_FOR]
    cdef bint first = True
    if i < 0:
        lines_add(lines, b"x-forwarded-for", 15, x.downstream.info.remote_ip, x.downstream.info.remote_ip_length)
        return
    lines_raw(lines, b"x-forwarded-for: ", 17)
    while i < head.count:
        if head.fields[i].id == HEADER_X_FORWARDED_FOR and not head.fields[i].hop_by_hop:
            head.fields[i].hop_by_hop = 1
            if not first:
                lines_raw(lines, b",", 1)
            lines_raw(lines, x.bytes + head.fields[i].value_at, head.fields[i].value_length)
            first = False
        i += 1
    lines_raw(lines, b",", 1)
    lines_raw(lines, x.downstream.info.remote_ip, x.downstream.info.remote_ip_length)
    lines_raw(lines, b"\r\n", 2)


cdef void find_client(Exchange x, int skip) except *:
    """The client as X-Forwarded-For names it: the last address but `skip`; none if that is no address."""
    cdef Head *head = &x.head
    cdef HeaderField *field
    cdef const char *start
    cdef const char *end
    cdef int i = head.count - 1
    cdef char text[48]
    cdef unsigned char address[16]
    while i >= 0 and head.known[HEADER_X_FORWARDED_FOR] >= 0:
        field = &head.fields[i]
        i -= 1
        if field.id != HEADER_X_FORWARDED_FOR or field.hop_by_hop:
            continue
        end = x.bytes + field.value_at + field.value_length
        while end > x.bytes + field.value_at:
            start = end
            while start > x.bytes + field.value_at and start[-1] != b',':
                start -= 1
            if skip == 0:
                while start < end and start[0] in (b' ', b'\t'):
                    start += 1
                while end > start and end[-1] in (b' ', b'\t'):
                    end -= 1
                if 0 < end - start < 48:
                    memcpy(text, start, end - start)
                    text[end - start] = 0
                    if inet_pton(AF_INET, text, address) == 1 or inet_pton(AF_INET6, text, address) == 1:
                        x.client_ip = start
                        x.client_ip_length = end - start
                return
            skip -= 1
            end = start - 1
    return


cdef void clean_internal(Exchange x) except *:
    cdef Head *head = &x.head
    drop_known(head, HEADER_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
    drop_known(head, HEADER_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS)
    drop_known(head, HEADER_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS)
    drop_known(head, HEADER_X_ENVOY_MAX_RETRIES)
    drop_known(head, HEADER_X_ENVOY_RETRY_ON)
    if head.known[HEADER_X_ENVOY_OTHER] >= 0:
        drop_listed(x.bytes, head, INTERNAL_NAMES, len(INTERNAL_NAMES))
        if x.config.use_remote_address:
            drop_listed(x.bytes, head, EDGE_NAMES, len(EDGE_NAMES))
    if x.config.routes.router is not None:
        for name in x.config.routes.router.internal_only_headers:
            drop_fields(x.bytes, head, <const char *>(<bytes>name), len(name))


cdef void add_request_id(Exchange x) except *:
    """A random UUID (RFC 9562 version 4), as Envoy's uuid extension makes."""
    cdef uint64_t words[2]
    cdef unsigned char *raw = <unsigned char *>words
    cdef char *out = x.request_id
    cdef int i, at = 0
    words[0] = x.runtime.random()
    words[1] = x.runtime.random()
    raw[6] = (raw[6] & 0x0f) | 0x40
    raw[8] = (raw[8] & 0x3f) | 0x80
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            out[at] = b'-'
            at += 1
        out[at] = HEX[raw[i] >> 4]
        out[at + 1] = HEX[raw[i] & 15]
        at += 2
    lines_add(&x.request_lines, b"x-request-id", 12, out, 36)


cdef void edit(Edits edits, const char *bytes, Head *head, Lines *lines) except *:
    """Removals first, then additions; the edits are flattened in the order of their levels."""
    cdef HeaderEdit *e
    cdef int i
    cdef uint32_t ignored
    cdef bint exists
    for i in range(edits.remove_count):
        e = &edits.removes[i]
        if head != NULL:
            drop_fields(bytes, head, e.name, e.name_length)
        lines_remove(lines, e.name, e.name_length)
    for i in range(edits.add_count):
        e = &edits.adds[i]
        if e.how != MUTATE_APPEND:
            exists = lines_find(lines, e.name, e.name_length, &ignored) != NULL or (head != NULL and find(bytes, head, e.name, e.name_length))
            if e.how == MUTATE_ADD_IF_ABSENT:
                if exists:
                    continue
            else:
                if e.how == MUTATE_OVERWRITE_IF_EXISTS and not exists:
                    continue
                if head != NULL:
                    drop_fields(bytes, head, e.name, e.name_length)
                lines_remove(lines, e.name, e.name_length)
        lines_add(lines, e.name, e.name_length, e.value, e.value_length)


cdef bint find(const char *bytes, const Head *head, const char *name, size_t length) noexcept:
    cdef int i
    for i in range(head.count):
        if head.fields[i].name_length == length and not head.fields[i].hop_by_hop:
            if strncasecmp(bytes + head.fields[i].name_at, name, length) == 0:
                return True
    return False


cdef void set_host(Exchange x, const char *value, size_t length) except *:
    if x.route.append_forwarded_host:
        lines_add(&x.request_lines, b"x-forwarded-host", 16, x.authority, x.authority_length)
    if not x.config.suppress_envoy_headers:
        lines_add(&x.request_lines, b"x-envoy-original-host", 21, x.authority, x.authority_length)
    drop_known(&x.head, HEADER_HOST)
    lines_remove(&x.request_lines, b"host", 4)
    lines_add(&x.request_lines, b"host", 4, value, length)


cdef void add_host_of_try(Exchange x) except *:
    """The endpoint's own name, or the client's word where it has none."""
    if not x.host.hostname:
        lines_add(&x.request_lines, b"host", 4, x.authority, x.authority_length)
        return
    if not x.config.suppress_envoy_headers:
        lines_add(&x.request_lines, b"x-envoy-original-host", 21, x.authority, x.authority_length)
    lines_add(&x.request_lines, b"host", 4, <const char *>x.host.hostname, len(x.host.hostname))


cdef void route_request(Exchange x) except *:
    cdef RouteInput request
    cdef char *rewritten
    cdef int64_t length
    if x.target.request_edits is not None:
        edit(x.target.request_edits, x.bytes, &x.head, &x.request_lines)
    if x.target.host_rewrite:
        set_host(x, <const char *>x.target.host_rewrite, len(x.target.host_rewrite))
    elif x.route.auto_host_rewrite:              # each try says its own
        drop_known(&x.head, HEADER_HOST)
        lines_remove(&x.request_lines, b"host", 4)
        if x.route.append_forwarded_host:
            lines_add(&x.request_lines, b"x-forwarded-host", 16, x.authority, x.authority_length)
    if x.route.rewrites_path:
        fill_input(x, &request)
        rewritten = <char *>malloc(x.path_length + 4096)
        if rewritten == NULL:
            raise MemoryError("no room for a path")
        length = x.route.rewrite_path(&request, rewritten, x.path_length + 4096)
        if length < 0:
            free(rewritten)
            return
        if not x.config.suppress_envoy_headers:
            lines_add(&x.request_lines, b"x-envoy-original-path", 21, x.path, x.path_length)
        free(x.path_memory)
        x.path_memory = rewritten
        x.path, x.path_length = rewritten, length


cdef void fill_input(Exchange x, RouteInput *request) noexcept:
    request.bytes = x.bytes
    request.head = &x.head
    request.path = x.path
    request.path_length = x.path_length
    request.authority = x.authority
    request.authority_length = x.authority_length
    request.tls = x.downstream.info.tls


cdef size_t decimal(char *out, uint64_t value) noexcept:
    cdef char digits[20]
    cdef size_t n = 0, i
    while True:
        digits[n] = c'0' + value % 10
        value //= 10
        n += 1
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef void try_request(Exchange x) except *:
    cdef char number[24]
    cdef int64_t expected
    x.request_lines.length = x.base_lines
    if x.route.auto_host_rewrite and not x.target.host_rewrite:
        add_host_of_try(x)
    expected = x.try_timeout_ms if x.try_timeout_ms else x.route_timeout_ms
    if expected and not x.config.suppress_envoy_headers:
        if x.head.known[HEADER_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS] >= 0:
            drop_known(&x.head, HEADER_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS)
        lines_add(&x.request_lines, b"x-envoy-expected-rq-timeout-ms", 30, number, decimal(number, expected))
    if x.route.virtual_host.attempt_count_request:
        drop_known(&x.head, HEADER_X_ENVOY_ATTEMPT_COUNT)
        lines_add(&x.request_lines, b"x-envoy-attempt-count", 21, number, decimal(number, x.attempts))
    if x.config.tracer is not None:
        trace_try(x)


# -- responses

cdef void edit_response(Exchange x, Edits edits, const char *bytes, Head *head) except *:
    if edits is not None:
        edit(edits, bytes, head, &x.response_lines)


cdef void send_response(Exchange x, const char *bytes, Head *head) except *:
    cdef HttpConfig config = x.config
    cdef Lines *lines = &x.response_lines
    cdef char number[24]
    cdef int64_t took
    if head != NULL:
        if x.route is not None:
            edit_response(x, x.target.response_edits, bytes, head)
        if not config.suppress_envoy_headers:
            drop_known(head, HEADER_X_ENVOY_UPSTREAM_SERVICE_TIME)
            took = (x.response_start_us - x.upstream_start_us) // 1000
            lines_add(lines, b"x-envoy-upstream-service-time", 29, number, decimal(number, took if took > 0 else 0))
        if x.route is not None and x.route.virtual_host.attempt_count_response:
            lines_add(lines, b"x-envoy-attempt-count", 21, number, decimal(number, x.attempts))
    if head == NULL or not has(head, HEADER_DATE):
        lines_add(lines, b"date", 4, x.runtime.http_date(), 29)
    if config.server_header == 0:
        if head != NULL:
            drop_known(head, HEADER_SERVER)
        lines_add(lines, b"server", 6, <const char *>config.server_name, len(config.server_name))
    elif config.server_header == 1 and (head == NULL or not has(head, HEADER_SERVER)):
        lines_add(lines, b"server", 6, <const char *>config.server_name, len(config.server_name))
    if config.via:
        lines_add(lines, b"via", 3, <const char *>config.via, len(config.via))
    if config.request_id_in_response:
        copy_request_id(x, lines)
    if config.tracer is not None:
        trace_response(x, bytes, head)


cdef void copy_request_id(Exchange x, Lines *lines) except *:
    cdef uint32_t length = 0
    cdef const char *value = lines_find(&x.request_lines, b"x-request-id", 12, &length)
    cdef int i = x.head.known[HEADER_X_REQUEST_ID]
    if value != NULL:
        lines_add(lines, b"x-request-id", 12, value, length)
    elif i >= 0:
        lines_add(lines, b"x-request-id", 12, x.bytes + x.head.fields[i].value_at, x.head.fields[i].value_length)
