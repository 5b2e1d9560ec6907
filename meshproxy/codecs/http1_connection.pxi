"""Part of http1.pyx: what the Connection header says (RFC 9110 7.6.1)."""

cdef bint is_end_to_end(const char *name, uint32_t length) noexcept nogil:
    """Names that a Connection header cannot take away.

    A client that could would strip what the proxies in front of us have said about it, its credentials' absence or the framing (Davison,
    "Abusing HTTP hop-by-hop request headers"; CVE-2022-31813; CVE-2024-45410). RFC 9110 7.6.1 forbids to nominate such fields, so
    nothing legal is lost.
    """
    cdef int id = header_id(name, length)
    if id != HEADER_OTHER:
        return (<uint64_t>HOP_BY_HOP >> id & 1) == 0
    if length >= 12 and h1_same(name, b"x-forwarded-", 12): return True
    if length >= 8 and h1_same(name, b"content-", 8): return True
    if length == 6: return h1_same(name, b"cookie", 6)
    if length == 9: return h1_same(name, b"forwarded", 9) or h1_same(name, b"x-real-ip", 9)
    if length == 10: return h1_same(name, b"set-cookie", 10) or h1_same(name, b"tracestate", 10)
    if length == 11: return h1_same(name, b"traceparent", 11)
    if length == 13: return h1_same(name, b"authorization", 13) or h1_same(name, b"cache-control", 13)
    if length == 19: return h1_same(name, b"proxy-authorization", 19)
    return False


cdef void nominate(Head *head, const char *data, const char *name, uint32_t length) noexcept nogil:
    cdef int i
    if is_end_to_end(name, length):
        return
    for i in range(head.count):
        if head.fields[i].name_length == length and h1_same_name(data + head.fields[i].name_at, name, length):
            head.fields[i].hop_by_hop = 1


cdef int take_option(Head *head, const char *data, const char *option, uint32_t length, int *nominated) noexcept nogil:
    """One option of a Connection header: the OPTION_ bit it stands for, 0 for the name of a field."""
    if length == 5 and h1_same(option, b"close", 5): return OPTION_CLOSE
    if length == 10 and h1_same(option, b"keep-alive", 10): return OPTION_KEEP_ALIVE
    if length == 7 and h1_same(option, b"upgrade", 7): return OPTION_UPGRADE
    nominated[0] += 1
    if nominated[0] <= NOMINATED_AT_MOST:
        nominate(head, data, option, length)
    return 0


cdef int take_connection_field(Head *head, const char *data, const HeaderField *field, int *nominated) noexcept nogil:
    """The options of one line. An element that is no token can name no field and is passed over: the line does not go on anyhow."""
    cdef uint32_t at = field.value_at, end = field.value_at + field.value_length, start, stop
    cdef int options = 0
    while at < end:
        at = h1_skip_space(data, at)
        start = at
        stop = h1_skip_token(data, at)
        at = h1_skip_space(data, stop)
        if stop > start and (at >= end or data[at] == b','):
            options |= take_option(head, data, data + start, stop - start, nominated)
        while at < end and data[at] != b',':
            at += 1
        at += 1
    return options


cdef int take_connection(Head *head, const char *data, bint repeated) noexcept nogil:
    """What Connection, Upgrade and the version say together about this connection (RFC 9110 7.6.1, 7.8; RFC 9112 9.3)."""
    cdef int options = 0, nominated = 0, i
    if repeated:
        for i in range(head.count):
            if head.fields[i].id == HEADER_CONNECTION:
                options |= take_connection_field(head, data, &head.fields[i], &nominated)
    else:
        options = take_connection_field(head, data, known_field(head, HEADER_CONNECTION), &nominated)
    if nominated > NOMINATED_AT_MOST:
        return ERROR_BAD_HEADER_VALUE
    if options & OPTION_CLOSE:
        head.keep_alive = False
    elif options & OPTION_KEEP_ALIVE:
        head.keep_alive = True
    # A server ignores Upgrade in HTTP/1.0 (RFC 9110 7.8).
    head.upgrade = (options & OPTION_UPGRADE) != 0 and head.known[HEADER_UPGRADE] >= 0 and head.minor_version == 1
    return 0
