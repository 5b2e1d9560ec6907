"""HTTP/1.1 heads and bodies; see the .pxd for the contract.

Strict where leniency lets two readers disagree about where a message ends or whom it is for, because this reader stands in front of others:
what is refused here is refused even where RFC 9112 only allows it. Errors are final: the connection they came on is to be closed.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

cdef extern from "http1_scan.h" nogil:
    enum: H1_TOKEN, H1_VALUE, H1_HEX
    bint h1_is(char byte, int classes)
    bint h1_same(const char *name, const char *lower, size_t length)
    bint h1_same_name(const char *one, const char *other, size_t length)
    bint h1_underscored_framing(const char *name, size_t length)
    int64_t h1_head_end(const char *data, size_t start, size_t at, size_t length)
    uint32_t h1_skip_token(const char *data, uint32_t at)
    uint32_t h1_skip_space(const char *data, uint32_t at)
    uint32_t h1_skip_target(const char *data, uint32_t at, uint32_t end)
    uint32_t h1_skip_value(const char *data, uint32_t at, uint32_t end)
    int64_t h1_decimal(const char *text, size_t length)
    size_t h1_host_length(const char *text, size_t length)
    bint h1_authority_ok(const char *text, size_t length, bint port_wanted)
    int h1_digit(char byte)
    int h1_hex_value(char byte)

cdef enum:
    # The longest registered method has 17 letters (UPDATEREDIRECTREF); more than this is not a method but noise.
    METHOD_BYTES_AT_MOST = 64
    # Field names are 16 bits in the table; Apache, nginx and Tomcat stop at 8 KiB or less.
    NAME_BYTES_AT_MOST = 65535
    # Each nominated name is compared with every field. Real messages nominate one or two.
    NOMINATED_AT_MOST = 32
    # 16 digits and a short extension. Tomcat, Jetty and llhttp bound it likewise.
    CHUNK_LINE_BYTES_AT_MOST = 256
    # Of one body. Without it a sender spends most of its bytes on what nobody reads (CVE-2023-39326); Go allows 16 KiB as well.
    EXTENSION_BYTES_AT_MOST = 16384

# What the Connection header's options say.
cdef enum:
    OPTION_CLOSE = 1
    OPTION_KEEP_ALIVE = 2
    OPTION_UPGRADE = 4

cdef enum:
    # Ids of fields for one connection only (RFC 9110 7.6.1), whether or not Connection names them. All ids here are below 31.
    HOP_BY_HOP = (
        1 << HEADER_CONNECTION | 1 << HEADER_KEEP_ALIVE | 1 << HEADER_PROXY_CONNECTION | 1 << HEADER_TE
        | 1 << HEADER_TRANSFER_ENCODING | 1 << HEADER_UPGRADE | 1 << HEADER_HTTP2_SETTINGS
    )


include "http1_names.pxi"


# First lines

cdef inline int version_error(const char *text) noexcept nogil:
    """0 for "HTTP/1.0" and "HTTP/1.1" at `text` (8 readable bytes); a well-formed other version is told from noise (RFC 9112 2.3)."""
    if memcmp(text, b"HTTP/", 5) != 0 or text[6] != b'.' or not (b'0' <= text[5] <= b'9') or not (b'0' <= text[7] <= b'9'):
        return ERROR_BAD_REQUEST_LINE
    if text[5] != b'1' or text[7] > b'1':
        return ERROR_BAD_VERSION
    return 0


cdef int take_target(Head *head, const char *data, const Limits *limits) noexcept nogil:
    """Sort the target into its form (RFC 9112 3.2)."""
    cdef const char *target = data + head.target_at
    cdef uint32_t length = head.target_length
    head.path_at = head.target_at
    head.path_length = length
    if head.method == METHOD_CONNECT:
        # authority-form, and only here (RFC 9112 3.2.3)
        head.authority_at = head.target_at
        head.authority_length = length
        head.path_length = 0
        return 0 if h1_authority_ok(target, length, True) else ERROR_BAD_TARGET
    if target[0] == b'/':
        return 0
    if length == 1 and target[0] == b'*':
        return 0 if head.method == METHOD_OPTIONS else ERROR_BAD_TARGET
    return take_absolute_form(head, data, limits)


cdef int take_absolute_form(Head *head, const char *data, const Limits *limits) noexcept nogil:
    cdef const char *target = data + head.target_at
    cdef uint32_t length = head.target_length, at, start
    if not limits.allow_absolute_form:
        return ERROR_BAD_TARGET
    if length > 7 and h1_same(target, b"http", 4) and memcmp(target + 4, b"://", 3) == 0:
        start = 7
    elif length > 8 and h1_same(target, b"https", 5) and memcmp(target + 5, b"://", 3) == 0:
        start = 8
    else:
        return ERROR_BAD_TARGET
    at = start
    while at < length and target[at] != b'/' and target[at] != b'?':
        at += 1
    if not h1_authority_ok(target + start, at - start, False):
        return ERROR_BAD_TARGET
    # "http://host?query" would have to go on as "/?query", which is not among the bytes; nobody sends it.
    if at < length and target[at] == b'?':
        return ERROR_BAD_TARGET
    head.absolute_form = True
    head.authority_at = head.target_at + start
    head.authority_length = at - start
    head.path_at = head.target_at + at
    head.path_length = length - at
    head.path_is_root = at == length
    return 0


cdef int take_request_line(Head *head, const char *data, uint32_t at, uint32_t end, const Limits *limits) noexcept nogil:
    """The line that starts at `at`; a CR LF lies before `end`. The offset after it goes to `head.length`."""
    cdef uint32_t stop = h1_skip_token(data, at)
    cdef int error
    head.method_at = at
    head.method_length = stop - at
    if data[stop] != b' ' or stop == at or stop - at > METHOD_BYTES_AT_MOST:
        return ERROR_BAD_REQUEST_LINE if data[stop] == b'\r' and stop > at else ERROR_BAD_METHOD
    head.method = method_id(data + at, stop - at)
    at = stop + 1
    stop = h1_skip_target(data, at, end)
    head.target_at = at
    head.target_length = stop - at
    if head.target_length > limits.target_bytes:
        return ERROR_TARGET_TOO_LONG
    if data[stop] != b' ':
        # HTTP/0.9 has no version; anything else that stops the scan is no part of a target.
        return ERROR_BAD_REQUEST_LINE if data[stop] == b'\r' else ERROR_BAD_TARGET
    if stop == at:
        return ERROR_BAD_REQUEST_LINE
    at = stop + 1
    if end - at < 10:
        return ERROR_BAD_REQUEST_LINE
    error = version_error(data + at)
    if error == 0 and data[at + 7] == b'0' and not limits.allow_http_10:
        error = ERROR_BAD_VERSION
    if error:
        return error
    if data[at + 8] != b'\r' or data[at + 9] != b'\n':
        return ERROR_BAD_REQUEST_LINE
    head.minor_version = h1_digit(data[at + 7])
    head.length = at + 10
    return take_target(head, data, limits)


cdef int take_status_line(Head *head, const char *data, uint32_t end) noexcept nogil:
    cdef uint32_t at = 8, stop
    cdef int error
    if end < 14:
        return ERROR_BAD_STATUS_LINE
    error = version_error(data)
    if error:
        return ERROR_BAD_STATUS_LINE if error == ERROR_BAD_REQUEST_LINE else error
    head.minor_version = h1_digit(data[7])
    if data[8] != b' ' or not (b'1' <= data[9] <= b'5') or not (b'0' <= data[10] <= b'9') or not (b'0' <= data[11] <= b'9'):
        return ERROR_BAD_STATUS_LINE
    head.status = h1_digit(data[9]) * 100 + h1_digit(data[10]) * 10 + h1_digit(data[11])
    at = 12
    # RFC 9112 4 wants the space even before an empty reason; many servers leave it out, and nothing hangs on it.
    if data[at] == b' ':
        at += 1
    elif data[at] != b'\r':
        return ERROR_BAD_STATUS_LINE
    stop = h1_skip_value(data, at, end)
    if data[stop] != b'\r':
        return ERROR_BAD_STATUS_LINE
    if data[stop + 1] != b'\n':
        return ERROR_BARE_CR
    head.reason_at = at
    head.reason_length = stop - at
    head.length = stop + 2
    return 0


# Header lines

cdef inline int name_error(const char *data, uint32_t start, uint32_t at) noexcept nogil:
    """Why the line at `start`, whose name scan stopped at `at`, is no header line."""
    if at == start and (data[at] == b' ' or data[at] == b'\t'):
        return ERROR_OBS_FOLD
    if data[at] == b'\r' and data[at + 1] != b'\n':
        return ERROR_BARE_CR
    return ERROR_BAD_HEADER_NAME


cdef int take_fields(Head *head, const char *data, uint32_t at, uint32_t end, const Limits *limits, uint64_t *repeated) noexcept nogil:
    """The header lines from `at` to `end`, right before which stands a CR LF. `repeated` gets a bit for each id that came again."""
    cdef HeaderField *field
    cdef uint32_t name_at, value_at, stop, colon
    cdef int id, count = 0
    cdef int most = head.capacity if <uint32_t>head.capacity < limits.headers else <int>limits.headers
    while at < end:
        name_at = at
        colon = h1_skip_token(data, at)
        if data[colon] != b':' or colon == name_at:
            return name_error(data, name_at, colon)
        if count >= most:
            return ERROR_TOO_MANY_HEADERS
        if colon - name_at > NAME_BYTES_AT_MOST:
            return ERROR_HEAD_TOO_LARGE
        value_at = h1_skip_space(data, colon + 1)
        stop = h1_skip_value(data, value_at, end)
        if data[stop] != b'\r':
            return ERROR_BAD_HEADER_VALUE
        if data[stop + 1] != b'\n':
            return ERROR_BARE_CR
        at = stop + 2
        while stop > value_at and (data[stop - 1] == b' ' or data[stop - 1] == b'\t'):
            stop -= 1
        id = header_id(data + name_at, colon - name_at)
        if id == HEADER_OTHER and h1_underscored_framing(data + name_at, colon - name_at):
            return ERROR_BAD_HEADER_NAME
        field = &head.fields[count]
        field.name_at = name_at
        field.name_length = <uint16_t>(colon - name_at)
        field.value_at = value_at
        field.value_length = stop - value_at
        field.id = <uint8_t>id
        field.hop_by_hop = <uint64_t>HOP_BY_HOP >> id & 1
        if head.known[id] < 0:
            head.known[id] = <int16_t>count
        else:
            repeated[0] |= <uint64_t>1 << id
        count += 1
    head.count = count
    head.length = end + 2
    return 0


cdef inline HeaderField *known_field(Head *head, int id) noexcept nogil:
    return &head.fields[head.known[id]] if head.known[id] >= 0 else NULL


cdef bint has_tab(const char *data, const HeaderField *field) noexcept nogil:
    """Whether white space around the value is more than spaces. Legal (RFC 9110 5.5), but in fields that frame or route a message it
    only serves to hide them from one of two readers."""
    cdef uint32_t at = field.name_at + field.name_length + 1
    while data[at] != b'\r':
        if data[at] == b'\t':
            return True
        at += 1
    return False


include "http1_connection.pxi"


# Framing

cdef int encoding_error(const char *text, uint32_t length) noexcept nogil:
    """Why a Transfer-Encoding that is not plain "chunked" is refused: 501 for codings before a last "chunked" that we do not know
    (RFC 9112 6.1), else 400, because the message has no end that all readers agree on (RFC 9112 6.3)."""
    cdef uint32_t at = 0, start
    cdef int chunked = 0
    cdef bint last = False
    while True:
        while at < length and (text[at] == b' ' or text[at] == b'\t'):
            at += 1
        start = at
        while at < length and h1_is(text[at], H1_TOKEN):
            at += 1
        if at == start:
            return ERROR_BAD_TRANSFER_ENCODING
        last = at - start == 7 and h1_same(text + start, b"chunked", 7)
        chunked += last
        while at < length and (text[at] == b' ' or text[at] == b'\t'):
            at += 1
        if at == length:
            return ERROR_NOT_IMPLEMENTED_ENCODING if last and chunked == 1 else ERROR_BAD_TRANSFER_ENCODING
        if text[at] != b',':
            return ERROR_BAD_TRANSFER_ENCODING
        at += 1


cdef int take_framing(Head *head, const char *data, uint64_t repeated) noexcept nogil:
    """Content-Length and Transfer-Encoding into body and content_length (RFC 9112 6.3)."""
    cdef HeaderField *encoding = known_field(head, HEADER_TRANSFER_ENCODING)
    cdef HeaderField *size = known_field(head, HEADER_CONTENT_LENGTH)
    if encoding != NULL:
        if size != NULL:
            return ERROR_LENGTH_AND_ENCODING
        # RFC 9112 6.1: in HTTP/1.0 its framing is faulty by definition.
        if repeated >> HEADER_TRANSFER_ENCODING & 1 or head.minor_version == 0 or has_tab(data, encoding):
            return ERROR_BAD_TRANSFER_ENCODING
        if encoding.value_length != 7 or not h1_same(data + encoding.value_at, b"chunked", 7):
            return encoding_error(data + encoding.value_at, encoding.value_length)
        head.body = BODY_CHUNKED
    elif size != NULL:
        if has_tab(data, size):
            return ERROR_BAD_CONTENT_LENGTH
        head.content_length = h1_decimal(data + size.value_at, size.value_length)
        if head.content_length < 0:
            return ERROR_BAD_CONTENT_LENGTH
        head.body = BODY_LENGTH
    return 0


cdef int take_host(Head *head, const char *data, uint64_t repeated) noexcept nogil:
    """RFC 9112 3.2: one valid Host in HTTP/1.1, at most one in HTTP/1.0."""
    cdef HeaderField *host = known_field(head, HEADER_HOST)
    if host == NULL:
        return ERROR_MISSING_HOST if head.minor_version == 1 else 0
    if repeated >> HEADER_HOST & 1 or has_tab(data, host):
        return ERROR_BAD_HOST
    # With absolute-form the authority takes its place, and then it may be empty.
    if host.value_length or not head.absolute_form:
        if not h1_authority_ok(data + host.value_at, host.value_length, False):
            return ERROR_BAD_HOST
    if not head.absolute_form and head.method != METHOD_CONNECT:
        head.authority_at = host.value_at
        head.authority_length = host.value_length
    return 0


cdef void take_expect(Head *head, const char *data, bint repeated) noexcept nogil:
    """RFC 9110 10.1.1: one expectation is defined; a HTTP/1.0 client cannot have it."""
    cdef HeaderField *field = known_field(head, HEADER_EXPECT)
    if repeated or field.value_length != 12 or not h1_same(data + field.value_at, b"100-continue", 12):
        head.expect_other = True
    else:
        head.expect_continue = head.minor_version == 1


cdef void clear(Head *head) noexcept nogil:
    cdef HeaderField *fields = head.fields
    cdef int capacity = head.capacity
    memset(head, 0, sizeof(Head))
    memset(head.known, 0xff, sizeof(head.known))
    head.fields = fields
    head.capacity = capacity
    head.content_length = -1


# Heads

cdef int first_byte_error(const char *data, size_t start, size_t length) noexcept nogil:
    """What the first bytes alone tell of a request; PARSE_MORE when they do not yet."""
    cdef char first = data[start]
    if h1_is(first, H1_TOKEN):
        # RFC 9113 3.4; the method PRI is reserved for it.
        if length >= 16 and first == b'P' and memcmp(data, b"PRI * HTTP/2.0\r\n", 16) == 0:
            return ERROR_HTTP2_PREFACE
        return 0
    if first == 0x16 and start == 0:
        if length == 1: return PARSE_MORE
        return ERROR_TLS_HELLO if data[1] == 0x03 else ERROR_BAD_METHOD
    if first == b'\n': return ERROR_BARE_LF
    return ERROR_BAD_REQUEST_LINE if first == b'\r' else ERROR_BAD_METHOD


cdef int unfinished_request_line(const char *data, uint32_t at, uint32_t length, const Limits *limits) noexcept nogil:
    """An error when nothing can mend the line at `at`, whose LF is not there; else PARSE_MORE."""
    cdef uint32_t start = at
    cdef const char *space
    while at < length and at - start <= METHOD_BYTES_AT_MOST and h1_is(data[at], H1_TOKEN):
        at += 1
    if at == length:
        return PARSE_MORE
    if data[at] != b' ':
        return ERROR_BAD_REQUEST_LINE if data[at] == b'\r' else ERROR_BAD_METHOD
    at += 1
    space = <const char *>memchr(data + at, b' ', length - at)
    if (space - (data + at) if space != NULL else length - at) > limits.target_bytes:
        return ERROR_TARGET_TOO_LONG
    # After the second space stand at most "HTTP/1.1" and a CR.
    return ERROR_BAD_REQUEST_LINE if space != NULL and data + length - space > 10 else PARSE_MORE


cdef int unfinished_request(
    Head *head, const char *data, uint32_t start, uint32_t length, size_t scanned, const Limits *limits,
) noexcept nogil:
    """A head whose end is not there: refused when it can no longer become good. Cheap, for a slow sender has it called byte by byte."""
    cdef uint32_t most = length if length < limits.head_bytes else limits.head_bytes
    cdef const char *feed = NULL
    cdef int error = PARSE_MORE
    if most > start:
        feed = <const char *>memchr(data + start, b'\n', most - start)
        if feed == NULL:
            error = unfinished_request_line(data, start, most, limits)
        elif <size_t>(feed - data) >= scanned:
            error = take_request_line(head, data, start, <uint32_t>(feed - data) + 1, limits)
    if error < 0:
        return error
    return ERROR_HEAD_TOO_LARGE if length >= limits.head_bytes else PARSE_MORE


cdef int leading_line(const char *data, size_t length, size_t *start) noexcept nogil:
    """One empty line before a request is passed over (RFC 9112 2.2)."""
    if length == 0: return PARSE_MORE
    if data[0] != b'\r': return 0
    if length == 1: return PARSE_MORE
    if data[1] != b'\n': return ERROR_BARE_CR
    start[0] = 2
    return PARSE_MORE if length == 2 else 0


cdef int parse_request(Head *head, const char *data, size_t length, size_t scanned, const Limits *limits) noexcept nogil:
    cdef size_t start = 0, most = length if length < limits.head_bytes else limits.head_bytes
    cdef uint64_t repeated = 0
    cdef int64_t end
    cdef int error
    clear(head)
    error = leading_line(data, length, &start)
    if error == 0:
        error = first_byte_error(data, start, length)
    if error:
        return error
    end = h1_head_end(data, start, min(scanned, most), most) if most > start else 0
    if end < 0:
        return ERROR_BARE_LF
    if end == 0:
        return unfinished_request(head, data, <uint32_t>start, <uint32_t>length, scanned, limits)
    error = take_request_line(head, data, <uint32_t>start, <uint32_t>end, limits)
    if error == 0:
        error = take_fields(head, data, head.length, <uint32_t>end - 2, limits, &repeated)
    if error == 0:
        error = settle_request(head, data, repeated)
    return error


cdef int settle_request(Head *head, const char *data, uint64_t repeated) noexcept nogil:
    """What the header lines mean for a request."""
    cdef int error = take_host(head, data, repeated)
    head.keep_alive = head.minor_version == 1
    if error == 0:
        # Two of the same length are refused as well: one of two readers may take the other (RFC 9112 6.3).
        error = ERROR_BAD_CONTENT_LENGTH if repeated >> HEADER_CONTENT_LENGTH & 1 else take_framing(head, data, repeated)
    # What follows a CONNECT is the tunnel; a body would be read as such by one side only (RFC 9110 9.3.6).
    if error == 0 and head.method == METHOD_CONNECT and head.body != BODY_NONE:
        if head.body == BODY_CHUNKED: error = ERROR_BAD_TRANSFER_ENCODING
        elif head.content_length > 0: error = ERROR_BAD_CONTENT_LENGTH
    if error == 0 and head.known[HEADER_CONNECTION] >= 0:
        error = take_connection(head, data, repeated >> HEADER_CONNECTION & 1)
    if error == 0 and head.known[HEADER_EXPECT] >= 0:
        take_expect(head, data, repeated >> HEADER_EXPECT & 1)
    return error


cdef int unfinished_response(const char *data, uint32_t length, const Limits *limits) noexcept nogil:
    if memcmp(data, b"HTTP/1.", 7 if length > 7 else length) != 0:
        # A well-formed other version is named as soon as it is there.
        if length < 8 and memcmp(data, b"HTTP/", 5 if length > 5 else length) == 0:
            return PARSE_MORE
        return ERROR_BAD_VERSION if length >= 8 and version_error(data) == ERROR_BAD_VERSION else ERROR_BAD_STATUS_LINE
    return ERROR_HEAD_TOO_LARGE if length >= limits.head_bytes else PARSE_MORE


cdef int parse_response(
    Head *head, const char *data, size_t length, size_t scanned, const Limits *limits, int request_method,
) noexcept nogil:
    cdef size_t most = length if length < limits.head_bytes else limits.head_bytes
    cdef uint64_t repeated = 0
    cdef int64_t end
    cdef int error
    clear(head)
    if length == 0:
        return PARSE_MORE
    end = h1_head_end(data, 0, min(scanned, most), most)
    if end < 0:
        return ERROR_BARE_LF
    if end == 0:
        return unfinished_response(data, <uint32_t>length, limits)
    error = take_status_line(head, data, <uint32_t>end)
    if error == 0:
        error = take_fields(head, data, head.length, <uint32_t>end - 2, limits, &repeated)
    if error == 0:
        error = settle_response(head, data, repeated, request_method)
    return error


cdef int drop_same_lengths(Head *head, const char *data) noexcept nogil:
    """Content-Length lines with one and the same value count as one (RFC 9110 8.6): the first goes on, the others do not."""
    cdef HeaderField *first = known_field(head, HEADER_CONTENT_LENGTH)
    cdef HeaderField *field
    cdef int i
    for i in range(head.known[HEADER_CONTENT_LENGTH] + 1, head.count):
        field = &head.fields[i]
        if field.id != HEADER_CONTENT_LENGTH:
            continue
        if field.value_length != first.value_length or memcmp(data + field.value_at, data + first.value_at, first.value_length) != 0:
            return ERROR_BAD_CONTENT_LENGTH
        field.hop_by_hop = 1
    return 0


cdef void forbid_body(Head *head, int request_method) noexcept nogil:
    """1xx, 204, 304, to HEAD, and 2xx to CONNECT: no body, whatever the fields say (RFC 9112 6.3)."""
    cdef bint announced = head.body == BODY_CHUNKED or (head.body == BODY_LENGTH and head.content_length > 0)
    cdef int i
    head.body = BODY_NONE
    if head.status == 304 or request_method == METHOD_HEAD:
        return
    # Here Content-Length is forbidden (RFC 9110 8.6): it does not go on, and what may come after it is not taken for the next response.
    for i in range(head.count):
        if head.fields[i].id == HEADER_CONTENT_LENGTH:
            head.fields[i].hop_by_hop = 1
    if announced:
        head.keep_alive = False


cdef int settle_response(Head *head, const char *data, uint64_t repeated, int request_method) noexcept nogil:
    """What the header lines mean for a response."""
    cdef int error = 0
    head.keep_alive = head.minor_version == 1
    if repeated >> HEADER_CONTENT_LENGTH & 1:
        error = drop_same_lengths(head, data)
    if error == 0:
        error = take_framing(head, data, repeated)
    if error == 0 and head.known[HEADER_CONNECTION] >= 0:
        error = take_connection(head, data, repeated >> HEADER_CONNECTION & 1)
    if error:
        return error
    if head.status < 200 or head.status == 204 or head.status == 304 or request_method == METHOD_HEAD or (
        request_method == METHOD_CONNECT and head.status < 300
    ):
        forbid_body(head, request_method)
    elif head.body == BODY_NONE:
        head.body = BODY_UNTIL_CLOSE
        head.keep_alive = False
    return 0


include "http1_body.pxi"
include "http1_python.pxi"
