"""See the .pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp
from meshproxy.codecs.grpc cimport grpc_status_of_http
from meshproxy.codecs.http1 cimport HEADER_CONTENT_TYPE, HeaderField
from meshproxy.proxy.headers cimport decimal
from meshproxy.proxy.lines cimport lines_add, lines_find, strncasecmp
from meshproxy.proxy.outcome cimport MAX_DURATION
from meshproxy.proxy.router cimport (
    RETRY_CANCELLED, RETRY_DEADLINE_EXCEEDED, RETRY_INTERNAL, RETRY_RESOURCE_EXHAUSTED, RETRY_UNAVAILABLE,
)

cdef enum:
    CANCELLED = 1
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    INTERNAL = 13
    UNAVAILABLE = 14
    TIMEOUT_DIGITS = 8                   # at most (PROTOCOL-HTTP2, "TimeoutValue")
    MOST_TIMEOUT = 99999999

cdef const char *HEX = b"0123456789ABCDEF"


cdef bint is_grpc_request(const char *bytes, const Head *head) noexcept:
    cdef int i = head.known[HEADER_CONTENT_TYPE]
    cdef const HeaderField *field
    if i < 0:
        return False
    field = &head.fields[i]
    if field.value_length < 16 or memcmp(bytes + field.value_at, b"application/grpc", 16) != 0:
        return False
    return field.value_length == 16 or bytes[field.value_at + 16] == b'+'


cdef int find_field(const char *bytes, const Head *head, const char *name, size_t length) noexcept:
    cdef int i
    for i in range(head.count):
        if head.fields[i].name_length == length and not head.fields[i].hop_by_hop:
            if strncasecmp(bytes + head.fields[i].name_at, name, length) == 0:
                return i
    return -1


cdef int64_t grpc_timeout_ms(const char *bytes, const Head *head) noexcept:
    cdef int i = find_field(bytes, head, b"grpc-timeout", 12)
    cdef const char *text
    cdef int64_t value
    cdef uint32_t length
    if i < 0:
        return -1
    text = bytes + head.fields[i].value_at
    length = head.fields[i].value_length
    if not 2 <= length <= TIMEOUT_DIGITS + 1:
        return -1
    value = decimal_of(text, length - 1)
    if value < 0:
        return -1
    if text[length - 1] == b'H':
        return value * 3600000
    if text[length - 1] == b'M':
        return value * 60000
    if text[length - 1] == b'S':
        return value * 1000
    if text[length - 1] == b'm':
        return value
    if text[length - 1] == b'u':
        return (value + 999) // 1000
    return (value + 999999) // 1000000 if text[length - 1] == b'n' else -1


cdef size_t put_grpc_timeout(char *out, int64_t ms) noexcept:
    cdef char unit = b'm'
    cdef size_t length
    if ms > MOST_TIMEOUT:
        ms, unit = ms // 1000, b'S'
        if ms > MOST_TIMEOUT:
            ms, unit = min(ms // 60, MOST_TIMEOUT), b'M'
    length = decimal(out, ms)
    out[length] = unit
    return length + 1


cdef int64_t decimal_of(const char *text, uint32_t length) noexcept:
    """-1: no digits only."""
    cdef int64_t value = 0
    cdef uint32_t i
    for i in range(length):
        if not b'0' <= text[i] <= b'9':
            return -1
        value = value * 10 + text[i] - c'0'
    return value


cdef int status_of_text(const char *text, uint32_t length) noexcept:
    return <int>decimal_of(text, length) if 0 < length < 10 else -1


cdef int grpc_status_in(const char *bytes, const Head *head) noexcept:
    cdef int i = find_field(bytes, head, b"grpc-status", 11)
    return -1 if i < 0 else status_of_text(bytes + head.fields[i].value_at, head.fields[i].value_length)


cdef int grpc_status_in_lines(const char *lines, size_t length) noexcept:
    cdef Lines view
    cdef uint32_t value_length = 0
    cdef const char *value
    if length == 0:
        return -1
    view.at, view.length, view.capacity = <char *>lines, <uint32_t>length, 0
    value = lines_find(&view, b"grpc-status", 11, &value_length)
    return -1 if value == NULL else status_of_text(value, value_length)


cdef uint32_t grpc_reasons(const char *bytes, const Head *head) noexcept:
    cdef int status = grpc_status_in(bytes, head)
    if status == CANCELLED:
        return RETRY_CANCELLED
    if status == DEADLINE_EXCEEDED:
        return RETRY_DEADLINE_EXCEEDED
    if status == RESOURCE_EXHAUSTED:
        return RETRY_RESOURCE_EXHAUSTED
    if status == INTERNAL:
        return RETRY_INTERNAL
    return RETRY_UNAVAILABLE if status == UNAVAILABLE else 0


cdef int grpc_status_of(int outcome, int status) noexcept:
    return DEADLINE_EXCEEDED if outcome == MAX_DURATION else grpc_status_of_http(status)


cdef void add_grpc_message(Lines *lines, const char *text, size_t length) except *:
    cdef char *out = <char *>malloc(length * 3)
    cdef size_t i, at = 0
    cdef unsigned char each
    if out == NULL:
        raise MemoryError(f"no room for a grpc-message of {length} bytes")
    for i in range(length):
        each = <unsigned char>text[i]
        if 0x20 <= each <= 0x7e and each != c'%':
            out[at] = text[i]
            at += 1
        else:
            out[at] = b'%'
            out[at + 1] = HEX[each >> 4]
            out[at + 2] = HEX[each & 15]
            at += 3
    try:
        lines_add(lines, b"grpc-message", 12, out, at)
    finally:
        free(out)
