# Where each operator's value comes from and how it is put down. Part of accesslog.pyx: it runs for each operator of each line.

cdef void put_value(Out *line, const Op *op, const Value *value, bint omit_empty) noexcept nogil:
    cdef size_t length = value.length
    if op.limit >= 0 and <size_t>op.limit < length:
        length = op.limit
    if value.kind == NUMBER:
        out_number(line, value.number)
    elif op.shape == SHAPE_ALONE:
        if value.kind == ABSENT:
            out_put(line, b"null", 4)
        else:
            out_put(line, b'"', 1)
            out_json(line, value.at, length)
            out_put(line, b'"', 1)
    elif value.kind == ABSENT:
        out_put(line, b"-", 0 if omit_empty else 1)
    elif op.shape == SHAPE_IN_STRING:
        out_json(line, value.at, length)
    else:
        out_text(line, value.at, length)


cdef void find_value(Format format, const Op *op, const Facts *facts, Value *value) noexcept nogil:
    if op.code == OP_REQUEST_HEADER:
        find_request_header(facts, &op.name, value)
        if value.kind == ABSENT and op.other.at != NULL:
            find_request_header(facts, &op.other, value)
    elif op.code == OP_RESPONSE_HEADER:
        find_response_header(format, facts, &op.name, value)
        if value.kind == ABSENT and op.other.at != NULL:
            find_response_header(format, facts, &op.other, value)
    elif op.code == OP_TRAILER:
        if not find_line(facts.trailer_bytes, facts.trailer_length, &op.name, value) and op.other.at != NULL:
            find_line(facts.trailer_bytes, facts.trailer_length, &op.other, value)
    elif op.code == OP_NUMBER:
        set_number(value, number_of(op.a, facts))
    elif op.code == OP_SPAN:
        find_span(op, facts, value)
    elif op.code == OP_ADDRESS:
        find_address(op, facts, value)
    elif op.code == OP_TEXT:
        set_text(value, text_of(op.a, facts))
    elif op.code == OP_STATIC:
        set_bytes(value, op.literal, op.literal_length)
    elif op.code == OP_PROTOCOL:
        # Without a head that could be read the version is not known; Envoy then says 1.1 too.
        if facts.minor_version == 2:
            set_bytes(value, b"HTTP/2", 6)
        elif facts.minor_version >= 0:
            set_bytes(value, b"HTTP/1.0" if facts.request != NULL and facts.minor_version == 0 else b"HTTP/1.1", 8)
    elif op.code == OP_UPSTREAM_PROTOCOL:
        if facts.upstream_version:
            set_bytes(value, b"HTTP/2" if facts.upstream_version == 2 else b"HTTP/1.1", 6 if facts.upstream_version == 2 else 8)
    elif op.code == OP_LINE_TYPE:
        set_bytes(value, LINE_TYPES[facts.line_type], strlen(LINE_TYPES[facts.line_type]))
    elif op.code == OP_DETAILS:
        find_details(format, op, facts, value)
    elif op.code == OP_GRPC_STATUS:
        find_grpc_status(op, facts, value)
    elif op.code == OP_FLAGS:
        find_flags(format, op, facts, value)
    elif op.code == OP_TIME:
        put_time(format, op, facts.start_unix_us + (max(facts.duration_us, 0) if op.a else 0), value)
    elif op.code == OP_TLS:
        find_tls(op, facts, value)
    elif op.code == OP_TLS_TIME:
        find_tls(op, facts, value)
        if value.kind == BYTES:
            put_time(format, op, decimal(value.at, value.length) * 1000000, value)
    elif op.code == OP_PATH:
        find_path(op, facts, value)
    elif op.code == OP_QUERY_PARAM:
        find_query_param(format, op, facts, value)
    elif op.code == OP_QUERY_PARAMS:
        find_query(facts, value)


cdef void find_grpc_status(const Op *op, const Facts *facts, Value *value) noexcept nogil:
    """The one in the trailers, in the head, or what HTTP's status stands for; absent where the request is no gRPC."""
    cdef HeaderName name
    cdef int64_t status
    name.pseudo, name.id = PSEUDO_NONE, HEADER_CONTENT_TYPE
    name.at, name.length = b"content-type", 12
    find_request_header(facts, &name, value)
    if value.kind != BYTES or value.length < 16 or memcmp(value.at, b"application/grpc", 16) or (value.length > 16 and value.at[16] != c'+'):
        value.kind = ABSENT
        return
    value.kind = ABSENT
    name.at, name.length = b"grpc-status", 11
    if find_line(facts.trailer_bytes, facts.trailer_length, &name, value) or find_line(facts.response_bytes, facts.response_length, &name, value):
        status = number_of_status(value.at, value.length)
    else:
        status = grpc_status_of_http(facts.status)
    if op.a == 2 or not 0 <= status <= 16:
        set_number(value, status)
    else:
        set_bytes(value, _GRPC_WORDS[op.a][status], strlen(_GRPC_WORDS[op.a][status]))


cdef int64_t number_of_status(const char *text, size_t length) noexcept nogil:
    """-1: no number."""
    cdef size_t at
    for at in range(length):
        if not c'0' <= text[at] <= c'9':
            return -1
    return decimal(text, length) if 0 < length < 10 else -1


cdef inline void set_bytes(Value *value, const char *at, size_t length) noexcept nogil:
    if at != NULL:
        value.kind = BYTES
        value.at = at
        value.length = length


cdef inline void set_text(Value *value, const Text *text) noexcept nogil:
    """Names and reasons that are empty are absent."""
    if text.length:
        set_bytes(value, text.at, text.length)


cdef inline void set_number(Value *value, int64_t number) noexcept nogil:
    value.kind = NUMBER
    value.number = number
    value.length = 0


cdef bint find_line(const char *lines, uint32_t length, const HeaderName *name, Value *value) noexcept nogil:
    """The first of "name: value\\r\\n" lines with this name."""
    cdef const char *at = lines
    cdef const char *end = lines + length
    cdef const char *next
    if lines == NULL:
        return False
    while at < end:
        next = <const char *>memchr(at, c'\n', end - at)
        if next == NULL:
            next = end
        if <size_t>(next - at) > name.length and at[name.length] == c':' and strncasecmp(at, name.at, name.length) == 0:
            at += name.length + 1
            while next > at and (next[-1] == c'\r' or next[-1] == c' ' or next[-1] == c'\t'):
                next -= 1
            while at < next and (at[0] == c' ' or at[0] == c'\t'):
                at += 1
            set_bytes(value, at, next - at)
            return True
        at = next + 1
    return False


cdef void find_request_header(const Facts *facts, const HeaderName *name, Value *value) noexcept nogil:
    if name.pseudo != PSEUDO_NONE and find_pseudo(facts, name, value):
        return
    if find_line(facts.added_bytes, facts.added_length, name, value) or facts.request == NULL:
        return
    cdef const Head *head = facts.request
    cdef const HeaderField *field
    cdef int at
    if name.id != HEADER_OTHER:
        if head.known[name.id] >= 0:
            field = &head.fields[head.known[name.id]]
            set_bytes(value, facts.request_bytes + field.value_at, field.value_length)
        return
    for at in range(head.count):
        field = &head.fields[at]
        if field.name_length == name.length and strncasecmp(facts.request_bytes + field.name_at, name.at, name.length) == 0:
            set_bytes(value, facts.request_bytes + field.value_at, field.value_length)
            return


cdef bint find_pseudo(const Facts *facts, const HeaderName *name, Value *value) noexcept nogil:
    """True: there is nowhere else to look."""
    if name.pseudo == PSEUDO_METHOD:
        set_text(value, &facts.method)
    elif name.pseudo == PSEUDO_PATH:
        set_text(value, &facts.path)
    elif name.pseudo == PSEUDO_AUTHORITY:
        set_text(value, &facts.authority)
    elif name.pseudo == PSEUDO_SCHEME:
        # Of a request that could not be read there is no scheme either.
        if facts.request != NULL:
            set_text(value, &facts.scheme)
    elif name.pseudo == PSEUDO_ORIGINAL_PATH:
        if not rewritten(facts):
            return False
        set_text(value, &facts.original_path)
    else:
        return False
    return True


cdef bint rewritten(const Facts *facts) noexcept nogil:
    cdef const Text *before = &facts.original_path
    return before.at != NULL and (before.length != facts.path.length or memcmp(before.at, facts.path.at, before.length) != 0)


cdef void find_response_header(Format format, const Facts *facts, const HeaderName *name, Value *value) noexcept nogil:
    cdef Out made
    if name.pseudo != PSEUDO_STATUS:
        find_line(facts.response_bytes, facts.response_length, name, value)
    elif facts.status:
        # A header's value is text, also where JSON would have a number for RESPONSE_CODE.
        made.at, made.end, made.full = format.scratch, format.scratch + SCRATCH_BYTES, False
        out_number(&made, facts.status)
        set_bytes(value, format.scratch, made.at - format.scratch)


cdef int64_t number_of(int which, const Facts *facts) noexcept nogil:
    if which == 0:
        return facts.status
    if which == 1:
        return facts.bytes_received
    if which == 2:
        return facts.bytes_sent
    if which == 3:
        return facts.wire_bytes_received
    if which == 4:
        return facts.wire_bytes_sent
    if which == 5:
        return facts.attempts
    if which == 6:
        return facts.connection_id
    return facts.upstream_connection_id


cdef const Text *text_of(int which, const Facts *facts) noexcept nogil:
    if which == 0:
        return &facts.upstream_cluster
    if which == 1:
        return &facts.route_name
    if which == 2:
        return &facts.virtual_host
    if which == 3:
        return &facts.upstream_failure_reason
    if which == 4:
        return &facts.termination_details
    if which == 5:
        return &facts.server_name
    if which == 6:
        return &facts.ja3
    if which == 7:
        return &facts.ja4
    if which == 9:
        return &facts.trace_id
    return &facts.downstream_failure_reason


cdef void find_tls(const Op *op, const Facts *facts, Value *value) noexcept nogil:
    """a: which of the texts; b: 1 of the connection to the endpoint."""
    cdef const Text *told = facts.upstream_tls if op.b else facts.downstream_tls
    if told != NULL:
        set_text(value, &told[op.a])


cdef int64_t decimal(const char *text, size_t length) noexcept nogil:
    cdef int64_t number = 0
    cdef size_t at
    for at in range(length):
        number = number * 10 + (text[at] - c'0')
    return number


cdef int64_t point_us(int which, const Facts *facts) noexcept nogil:
    """A time point by its place in SPAN_POINTS; -1 = did not happen."""
    if which == 0:
        return 0
    if which == 1:
        return facts.request_end_us
    if which == 2:
        return facts.upstream_start_us
    if which == 3:
        return facts.response_start_us
    if which == 4:
        return facts.response_end_us
    if which == 5:
        return facts.downstream_start_us
    return facts.duration_us


cdef void find_span(const Op *op, const Facts *facts, Value *value) noexcept nogil:
    cdef int64_t start = point_us(op.a, facts), end = point_us(op.b, facts)
    if start >= 0 and end >= start:
        set_number(value, (end - start) * op.multiply // op.divide)


cdef void find_address(const Op *op, const Facts *facts, Value *value) noexcept nogil:
    cdef const Text *address
    cdef const char *colon
    cdef int64_t port = 0
    if op.a == 0:
        address = &facts.downstream_remote
    elif op.a == 1:
        address = &facts.downstream_direct_remote
    elif op.a == 3:
        address = &facts.upstream_host
    elif op.a == 4:
        address = &facts.upstream_local
    else:
        address = &facts.downstream_local
    if op.b == 0 or address.length == 0:
        set_text(value, address)
        return
    colon = address.at + address.length - 1
    while colon > address.at and c'0' <= colon[0] <= c'9':
        colon -= 1
    if colon[0] != c':' or colon == address.at + address.length - 1:
        if op.b == 1:                    # a UNIX socket's path has no port
            set_text(value, address)
        return
    if op.b == 1:
        if address.at[0] == c'[' and colon[-1] == c']':
            set_bytes(value, address.at + 1, colon - address.at - 2)
        else:
            set_bytes(value, address.at, colon - address.at)
        return
    for at in range(colon + 1 - address.at, address.length):
        port = port * 10 + (address.at[at] - c'0')
    set_number(value, port)


cdef void find_details(Format format, const Op *op, const Facts *facts, Value *value) noexcept nogil:
    cdef const Text *details = &facts.code_details
    cdef uint32_t at, length = min(details.length, <uint32_t>SCRATCH_BYTES)
    if op.a or length == 0:
        set_text(value, details)
        return
    for at in range(length):
        format.scratch[at] = c'_' if details.at[at] in (c' ', c'\t', c'\n', c'\r') else details.at[at]
    set_bytes(value, format.scratch, length)


cdef void find_flags(Format format, const Op *op, const Facts *facts, Value *value) noexcept nogil:
    cdef size_t made = 0, length
    cdef const char *name
    cdef int bit
    for bit in range(_FLAG_COUNT):
        if facts.flags >> bit & 1:
            name = _LONG_FLAGS[bit] if op.a else _SHORT_FLAGS[bit]
            length = strlen(name)
            if made:
                format.scratch[made] = c','
                made += 1
            memcpy(format.scratch + made, name, length)
            made += length
    # "-" is this operator's value and not an absence: JSON has the string too.
    if made:
        set_bytes(value, format.scratch, made)
    else:
        set_bytes(value, b"-", 1)


cdef void put_time(Format format, const Op *op, int64_t unix_us, Value *value) noexcept nogil:
    cdef int64_t unix_s = unix_us // 1000000, rest_ns = unix_us % 1000000 * 1000
    cdef Out made
    cdef TimePart *part
    cdef int at
    made.at, made.end, made.full = format.scratch, format.scratch + SCRATCH_BYTES, False
    for at in range(op.part_count):
        part = &op.parts[at]
        if part.kind == TIME_STRFTIME:
            if part.cached_s != unix_s:
                fill_time(part, unix_s)
            out_put(&made, part.cached, part.cached_length)
        elif part.kind == TIME_EPOCH:
            out_number(&made, unix_s)
        else:
            put_fraction(&made, rest_ns, part.digits)
    set_bytes(value, format.scratch, made.at - format.scratch)


cdef void fill_time(TimePart *part, int64_t unix_s) noexcept nogil:
    cdef time_t seconds = unix_s
    cdef Broken broken
    gmtime_r(&seconds, &broken)
    broken.tm_zone = b"UTC"
    part.cached_length = strftime(part.cached, sizeof(part.cached), part.format, &broken)
    part.cached_s = unix_s


cdef void put_fraction(Out *made, int64_t rest_ns, int digits) noexcept nogil:
    cdef char all_digits[9]
    cdef int at
    for at in range(8, -1, -1):
        all_digits[at] = c'0' + rest_ns % 10
        rest_ns //= 10
    out_put(made, all_digits, digits)


cdef void find_path(const Op *op, const Facts *facts, Value *value) noexcept nogil:
    """a: without the query; b: 0 the original or the path, 1 the original, 2 the path."""
    cdef const char *query
    cdef bint original = rewritten(facts)
    if op.b == 1 and not original:
        return
    set_text(value, &facts.original_path if original and op.b != 2 else &facts.path)
    if op.a and value.kind == BYTES:
        query = <const char *>memchr(value.at, c'?', value.length)
        if query != NULL:
            value.length = query - value.at


cdef void find_query(const Facts *facts, Value *value) noexcept nogil:
    cdef const Text *path = &facts.path
    cdef const char *query
    if path.at == NULL:
        return
    query = <const char *>memchr(path.at, c'?', path.length)
    if query != NULL:
        set_bytes(value, query + 1, path.at + path.length - query - 1)


cdef void find_query_param(Format format, const Op *op, const Facts *facts, Value *value) noexcept nogil:
    cdef Value query
    cdef const char *at
    cdef const char *end
    cdef const char *next
    query.kind = ABSENT
    find_query(facts, &query)
    if query.kind == ABSENT:
        return
    at, end = query.at, query.at + query.length
    while at < end:
        next = <const char *>memchr(at, c'&', end - at)
        if next == NULL:
            next = end
        if <size_t>(next - at) > op.literal_length and at[op.literal_length] == c'=' and memcmp(at, op.literal, op.literal_length) == 0:
            at += op.literal_length + 1
            set_bytes(value, format.scratch, percent_decode(at, next - at, format.scratch, SCRATCH_BYTES))
            return
        at = next + 1


# ---- facts by name, for tests and for the checker of formats ----

cdef int _point(Text *text, object value, list kept) except -1:
    if value is not None:
        kept.append(value)
        text.at = <const char *><bytes>value
        text.length = len(value)
    return 0


cdef object _facts_from(Facts *facts, dict given):
    """Fill `facts`; the result must live as long as they are used. `request` is a list of (name, value)."""
    cdef Text lines
    cdef list kept = []
    memset(facts, 0, sizeof(Facts))
    texts = dict(given)
    for name in ("request_end_us", "upstream_start_us", "response_start_us", "response_end_us", "downstream_start_us", "duration_us"):
        texts.setdefault(name, -1)
    _point(&facts.method, texts.get("method"), kept)
    _point(&facts.path, texts.get("path"), kept)
    _point(&facts.original_path, texts.get("original_path"), kept)
    _point(&facts.authority, texts.get("authority"), kept)
    _point(&facts.scheme, texts.get("scheme"), kept)
    _point(&facts.code_details, texts.get("code_details"), kept)
    _point(&facts.termination_details, texts.get("termination_details"), kept)
    _point(&facts.downstream_remote, texts.get("downstream_remote"), kept)
    _point(&facts.downstream_direct_remote, texts.get("downstream_direct_remote"), kept)
    _point(&facts.downstream_local, texts.get("downstream_local"), kept)
    _point(&facts.upstream_host, texts.get("upstream_host"), kept)
    _point(&facts.upstream_local, texts.get("upstream_local"), kept)
    _point(&facts.upstream_cluster, texts.get("upstream_cluster"), kept)
    _point(&facts.route_name, texts.get("route_name"), kept)
    _point(&facts.virtual_host, texts.get("virtual_host"), kept)
    _point(&facts.server_name, texts.get("server_name"), kept)
    _point(&facts.ja3, texts.get("ja3"), kept)
    _point(&facts.ja4, texts.get("ja4"), kept)
    _point(&facts.trace_id, texts.get("trace_id"), kept)
    _point(&facts.downstream_failure_reason, texts.get("downstream_failure_reason"), kept)
    facts.downstream_tls = _point_told(texts.get("downstream_tls"), kept)
    facts.upstream_tls = _point_told(texts.get("upstream_tls"), kept)
    _point(&facts.upstream_failure_reason, texts.get("upstream_failure_reason"), kept)
    memset(&lines, 0, sizeof(Text))
    _point(&lines, texts.get("response_lines"), kept)
    facts.response_bytes, facts.response_length = lines.at, lines.length
    memset(&lines, 0, sizeof(Text))
    _point(&lines, texts.get("added_lines"), kept)
    facts.added_bytes, facts.added_length = lines.at, lines.length
    memset(&lines, 0, sizeof(Text))
    _point(&lines, texts.get("trailer_lines"), kept)
    facts.trailer_bytes, facts.trailer_length = lines.at, lines.length
    facts.minor_version = texts.get("minor_version", 1)
    facts.status = texts.get("status", 0)
    facts.flags = texts.get("flags", 0)
    facts.start_unix_us = texts.get("start_unix_us", 0)
    facts.request_end_us = texts["request_end_us"]
    facts.upstream_start_us = texts["upstream_start_us"]
    facts.response_start_us = texts["response_start_us"]
    facts.response_end_us = texts["response_end_us"]
    facts.downstream_start_us = texts["downstream_start_us"]
    facts.duration_us = texts["duration_us"]
    facts.bytes_received, facts.bytes_sent = texts.get("bytes_received", 0), texts.get("bytes_sent", 0)
    facts.wire_bytes_received, facts.wire_bytes_sent = texts.get("wire_bytes_received", 0), texts.get("wire_bytes_sent", 0)
    facts.attempts = texts.get("attempts", 0)
    facts.connection_id = texts.get("connection_id", 0)
    facts.upstream_connection_id = texts.get("upstream_connection_id", 0)
    facts.upstream_version = texts.get("upstream_version", 0)
    if texts.get("request") is not None:
        _point_head(facts, texts["request"], kept)
    return kept


cdef const Text *_point_told(object told, list kept) except? NULL:
    """`told`: by the operator's name without its side."""
    if told is None:
        return NULL
    room = bytearray(TLS_TOLD_COUNT * sizeof(Text))
    kept.append(room)
    cdef Text *texts = <Text *><char *>room
    for place, name in enumerate(TLS_TOLD):
        _point(&texts[place], told.get(name), kept)
    return texts


cdef int _point_head(Facts *facts, list headers, list kept) except -1:
    head_bytes = bytearray(sizeof(Head))
    field_bytes = bytearray(max(1, len(headers)) * sizeof(HeaderField))
    kept += [head_bytes, field_bytes]
    cdef Head *head = <Head *><char *>head_bytes
    cdef int at
    head.fields = <HeaderField *><char *>field_bytes
    for at in range(HEADER_ID_COUNT):
        head.known[at] = -1
    raw = b""
    for name, value in headers:
        field = &head.fields[head.count]
        field.name_at, field.name_length = len(raw), len(name)
        field.value_at, field.value_length = len(raw) + len(name) + 2, len(value)
        field.id = header_id(<const char *><bytes>name, len(name))
        if head.known[field.id] < 0:
            head.known[field.id] = head.count
        head.count += 1
        raw += name + b": " + value + b"\r\n"
    kept.append(raw)
    facts.request_bytes = <const char *><bytes>raw
    facts.request = head
    return 0
