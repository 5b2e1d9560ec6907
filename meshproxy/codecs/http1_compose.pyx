"""HTTP/1.1 heads and chunk lines on their way out; see the .pxd."""

from libc.string cimport memcpy, strlen
from meshproxy.codecs.http1 cimport HeaderField


cdef const char *HEX = b"0123456789abcdef"


cdef inline size_t put(char *out, const char *text, size_t length) noexcept nogil:
    if length:                                   # of nothing, `text` may be NULL
        memcpy(out, text, length)
    return length


cdef size_t copy_fields(char *out, const char *bytes, const Head *head) noexcept nogil:
    cdef size_t at = 0
    cdef int i = 0, count = head.count
    cdef uint32_t start, end
    cdef const HeaderField *fields = head.fields
    while i < count:
        if fields[i].hop_by_hop:
            i += 1
            continue
        start = fields[i].name_at
        while i < count and not fields[i].hop_by_hop:
            i += 1
        end = fields[i].name_at if i < count else head.length - 2
        memcpy(out + at, bytes + start, end - start)
        at += end - start
    return at


cdef size_t compose_request(
    char *out, const char *method, size_t method_length, const char *path, size_t path_length,
    const char *bytes, const Head *head, const char *added, size_t added_length, int framing,
) noexcept nogil:
    cdef size_t at = put(out, method, method_length)
    out[at] = b' '
    at += 1
    at += put(out + at, path, path_length)
    at += put(out + at, b" HTTP/1.1\r\n", 11)
    at += copy_fields(out + at, bytes, head)
    at += put(out + at, added, added_length)
    if framing == FRAME_CHUNKED:
        at += put(out + at, b"transfer-encoding: chunked\r\n", 28)
    return at + put(out + at, b"\r\n", 2)


cdef size_t compose_response(
    char *out, int status, const char *bytes, const Head *head, const char *added, size_t added_length, int framing, bint close,
) noexcept nogil:
    cdef size_t at
    cdef const char *reason
    if status == 200:
        at = put(out, b"HTTP/1.1 200 OK\r\n", 17)
    else:
        at = put(out, b"HTTP/1.1 ", 9)
        out[at] = c'0' + status // 100 % 10
        out[at + 1] = c'0' + status // 10 % 10
        out[at + 2] = c'0' + status % 10
        out[at + 3] = b' '
        at += 4
        if head != NULL and head.status == status and head.reason_length:
            at += put(out + at, bytes + head.reason_at, head.reason_length)
        else:
            reason = reason_phrase(status)
            at += put(out + at, reason, strlen(reason))
        at += put(out + at, b"\r\n", 2)
    if head != NULL:
        at += copy_fields(out + at, bytes, head)
    at += put(out + at, added, added_length)
    if framing == FRAME_CHUNKED:
        at += put(out + at, b"transfer-encoding: chunked\r\n", 28)
    if close:
        at += put(out + at, b"connection: close\r\n", 19)
    return at + put(out + at, b"\r\n", 2)


cdef size_t chunk_line(char *out, size_t length) noexcept nogil:
    cdef int shift = 60
    cdef size_t at = 0
    while shift and not (length >> shift) & 15:
        shift -= 4
    while shift >= 0:
        out[at] = HEX[(length >> shift) & 15]
        at += 1
        shift -= 4
    out[at] = b'\r'
    out[at + 1] = b'\n'
    return at + 2


cdef const char *reason_phrase(int status) noexcept nogil:
    """RFC 9110's and IANA's phrases; "Unknown" for others, as a phrase may not be missing for old clients."""
    if status == 100: return b"Continue"
    if status == 101: return b"Switching Protocols"
    if status == 102: return b"Processing"
    if status == 103: return b"Early Hints"
    if status == 200: return b"OK"
    if status == 201: return b"Created"
    if status == 202: return b"Accepted"
    if status == 203: return b"Non-Authoritative Information"
    if status == 204: return b"No Content"
    if status == 205: return b"Reset Content"
    if status == 206: return b"Partial Content"
    if status == 300: return b"Multiple Choices"
    if status == 301: return b"Moved Permanently"
    if status == 302: return b"Found"
    if status == 303: return b"See Other"
    if status == 304: return b"Not Modified"
    if status == 307: return b"Temporary Redirect"
    if status == 308: return b"Permanent Redirect"
    if status == 400: return b"Bad Request"
    if status == 401: return b"Unauthorized"
    if status == 403: return b"Forbidden"
    if status == 404: return b"Not Found"
    if status == 405: return b"Method Not Allowed"
    if status == 408: return b"Request Timeout"
    if status == 409: return b"Conflict"
    if status == 410: return b"Gone"
    if status == 411: return b"Length Required"
    if status == 412: return b"Precondition Failed"
    if status == 413: return b"Payload Too Large"
    if status == 414: return b"URI Too Long"
    if status == 415: return b"Unsupported Media Type"
    if status == 416: return b"Range Not Satisfiable"
    if status == 417: return b"Expectation Failed"
    if status == 418: return b"I'm a teapot"
    if status == 421: return b"Misdirected Request"
    if status == 422: return b"Unprocessable Content"
    if status == 425: return b"Too Early"
    if status == 426: return b"Upgrade Required"
    if status == 428: return b"Precondition Required"
    if status == 429: return b"Too Many Requests"
    if status == 431: return b"Request Header Fields Too Large"
    if status == 451: return b"Unavailable For Legal Reasons"
    if status == 500: return b"Internal Server Error"
    if status == 501: return b"Not Implemented"
    if status == 502: return b"Bad Gateway"
    if status == 503: return b"Service Unavailable"
    if status == 504: return b"Gateway Timeout"
    if status == 505: return b"HTTP Version Not Supported"
    if status == 507: return b"Insufficient Storage"
    if status == 508: return b"Loop Detected"
    if status == 511: return b"Network Authentication Required"
    return b"Unknown"
