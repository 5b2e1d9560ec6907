"""Part of http1.pyx: the codec as Python sees it, for tests and tools.

The input is copied to a block of just its size, so that a sanitizer sees a read beyond it.
"""

cdef char *exact_copy(bytes data) except NULL:
    cdef size_t length = len(data)
    cdef char *block = <char *>malloc(length if length else 1)
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *>data, length)
    return block


cdef dict head_as_dict(const Head *head, bytes data):
    cdef HeaderField *field
    cdef list headers = []
    cdef int i
    for i in range(head.count):
        field = &head.fields[i]
        headers.append((
            data[field.name_at:field.name_at + field.name_length],
            data[field.value_at:field.value_at + field.value_length],
            field.id,
            bool(field.hop_by_hop),
        ))
    return {
        "length": head.length, "minor_version": head.minor_version, "body": head.body, "content_length": head.content_length,
        "keep_alive": bool(head.keep_alive), "upgrade": bool(head.upgrade), "headers": headers,
        "known": {id: head.known[id] for id in range(HEADER_ID_COUNT) if head.known[id] >= 0},
    }


cdef dict request_as_dict(const Head *head, bytes data):
    cdef dict said = head_as_dict(head, data)
    said.update({
        "method": data[head.method_at:head.method_at + head.method_length], "method_id": head.method,
        "target": data[head.target_at:head.target_at + head.target_length],
        "path": data[head.path_at:head.path_at + head.path_length],
        "authority": data[head.authority_at:head.authority_at + head.authority_length],
        "absolute_form": bool(head.absolute_form), "path_is_root": bool(head.path_is_root),
        "expect_continue": bool(head.expect_continue), "expect_other": bool(head.expect_other),
    })
    return said


cdef dict response_as_dict(const Head *head, bytes data):
    cdef dict said = head_as_dict(head, data)
    said.update({"status": head.status, "reason": data[head.reason_at:head.reason_at + head.reason_length]})
    return said


cdef enum:
    PARSE_A_REQUEST
    PARSE_A_RESPONSE
    PARSE_TRAILER_LINES


cdef object parse_bytes(bytes data, size_t scanned, Limits limits, int what, int request_method):
    cdef Head head
    cdef int error
    cdef char *block = exact_copy(data)
    # Field table on the heap and just as long as the limit, for the sanitizer's sake as well.
    head.capacity = <int>min(limits.headers, 32767)
    head.fields = <HeaderField *>malloc(max(head.capacity, 1) * sizeof(HeaderField))
    if head.fields == NULL:
        free(block)
        raise MemoryError
    try:
        if what == PARSE_A_REQUEST:
            error = parse_request(&head, block, len(data), scanned, &limits)
        elif what == PARSE_A_RESPONSE:
            error = parse_response(&head, block, len(data), scanned, &limits, request_method)
        else:
            error = parse_trailers(&head, block, len(data), &limits)
        if error:
            return error, error_text(error).decode()
        if what == PARSE_A_REQUEST:
            return request_as_dict(&head, data)
        return response_as_dict(&head, data) if what == PARSE_A_RESPONSE else head_as_dict(&head, data)
    finally:
        free(head.fields)
        free(block)


def parse_request_bytes(
    data: bytes, *, scanned: int = 0, head_bytes: int = 61440, headers: int = 100, target_bytes: int = 16384,
    allow_http_10: bool = True, allow_absolute_form: bool = True,
) -> dict | tuple[int, str]:
    """The parsed head, or (number, text): 1 = more is needed, negative = an error that `status_of` maps to the answer."""
    cdef Limits limits = Limits(head_bytes, headers, target_bytes, allow_http_10, allow_absolute_form)
    return parse_bytes(data, scanned, limits, PARSE_A_REQUEST, 0)


def parse_response_bytes(
    data: bytes, method: bytes = b"GET", *, scanned: int = 0, head_bytes: int = 61440, headers: int = 100,
) -> dict | tuple[int, str]:
    """As `parse_request_bytes`; `method` is the request's."""
    cdef Limits limits = Limits(head_bytes, headers, 0, True, True)
    return parse_bytes(data, scanned, limits, PARSE_A_RESPONSE, method_id(method, len(method)))


def parse_trailers_bytes(data: bytes, *, headers: int = 100) -> dict | tuple[int, str]:
    """Trailer lines with their CR LF, without the last empty line."""
    cdef Limits limits = Limits(61440, headers, 0, True, True)
    return parse_bytes(data, 0, limits, PARSE_TRAILER_LINES, 0)


def repeat_request(data: bytes, times: int) -> int:
    """Parse a request head so many times, for measuring: what is timed has no Python in it. The sum of the heads' lengths."""
    cdef Limits limits = Limits(61440, 100, 16384, True, True)
    cdef HeaderField fields[100]
    cdef Head head
    cdef int64_t left = times, total = 0
    cdef const char *bytes_at = data
    cdef size_t length = len(data)
    head.fields = fields
    head.capacity = 100
    with nogil:
        while left > 0:
            if parse_request(&head, bytes_at, length, 0, &limits) == PARSE_OK:
                total += head.length
            left -= 1
    return total


def repeat_response(data: bytes, times: int) -> int:
    """The same for a response head."""
    cdef Limits limits = Limits(61440, 100, 16384, True, True)
    cdef HeaderField fields[100]
    cdef Head head
    cdef int64_t left = times, total = 0
    cdef const char *bytes_at = data
    cdef size_t length = len(data)
    head.fields = fields
    head.capacity = 100
    with nogil:
        while left > 0:
            if parse_response(&head, bytes_at, length, 0, &limits, METHOD_GET) == PARSE_OK:
                total += head.length
            left -= 1
    return total


def repeat_chunked(data: bytes, times: int) -> int:
    """The same for a chunked body: the bytes of content in all."""
    cdef BodyDecoder decoder
    cdef int64_t left = times, total = 0
    cdef const char *bytes_at = data
    cdef const char *out
    cdef size_t length = len(data), at, consumed, out_length = 0
    cdef int said
    with nogil:
        while left > 0:
            body_start(&decoder, BODY_CHUNKED, -1, 8192)
            at = 0
            said = BODY_DATA
            while said == BODY_DATA:
                said = body_step(&decoder, bytes_at + at, length - at, &consumed, &out, &out_length)
                at += consumed
                if said == BODY_DATA:
                    total += <int64_t>out_length
            body_release(&decoder)
            left -= 1
    return total


def status_of(error: int) -> int:
    """The HTTP status that answers an error number."""
    return error_status(error)


def text_of(error: int) -> str:
    """What went wrong, for a log."""
    return error_text(error).decode()


def header_id_of(name: bytes) -> int:
    """HEADER_* of a name in any case; 0 = none that the proxy acts on."""
    return header_id(name, len(name))


cdef class Decoder:
    """A body, fed piece by piece. `body` is BODY_* (1 by length, 2 chunked, 3 until close)."""

    cdef BodyDecoder decoder

    def __cinit__(self, int body, int64_t content_length=-1, uint32_t trailer_limit=8192):
        body_start(&self.decoder, body, content_length, trailer_limit)

    def __dealloc__(self):
        body_release(&self.decoder)

    def release(self) -> None:
        """Give back what is held; the decoder is then as it was before its first trailer."""
        body_release(&self.decoder)

    def feed(self, data: bytes) -> tuple[list[bytes], int, int, bytes | None]:
        """(slices of body, what the last step said, bytes consumed, trailers once the body is over)."""
        cdef char *block = exact_copy(data)
        cdef size_t at = 0, consumed = 0, out_length = 0
        cdef const char *out = NULL
        cdef int said = BODY_DATA
        cdef list slices = []
        trailers = None
        try:
            while said == BODY_DATA:
                said = body_step(&self.decoder, block + at, len(data) - at, &consumed, &out, &out_length)
                at += consumed
                if said == BODY_DATA:
                    slices.append(out[:out_length])
            if said == BODY_END and self.decoder.trailers != NULL:
                trailers = self.decoder.trailers[:self.decoder.trailers_length]
        finally:
            free(block)
        return slices, said, at, trailers
