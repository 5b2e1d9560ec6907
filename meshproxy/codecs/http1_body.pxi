"""Part of http1.pyx: bodies by length, chunked and until close, and trailers (RFC 9112 6.3, 7.1)."""

# BodyDecoder.state
cdef enum:
    STATE_DONE = 0
    STATE_LENGTH
    STATE_UNTIL_CLOSE
    STATE_SIZE                           # before the first digit of a chunk's size
    STATE_DIGITS
    STATE_EXTENSION                      # after ";"
    STATE_EXTENSION_NAME
    STATE_EXTENSION_EQUALS               # after "="
    STATE_EXTENSION_VALUE
    STATE_SIZE_LF
    STATE_DATA
    STATE_DATA_CR
    STATE_DATA_LF
    STATE_TRAILER                        # at the start of a line
    STATE_TRAILER_LINE
    STATE_TRAILER_LF
    STATE_END_LF
    STATE_FAILED


cdef void body_start(BodyDecoder *decoder, int body, int64_t content_length, uint32_t trailer_limit) noexcept nogil:
    memset(decoder, 0, sizeof(BodyDecoder))
    decoder.trailer_limit = trailer_limit
    if body == BODY_CHUNKED:
        decoder.state = STATE_SIZE
    elif body == BODY_UNTIL_CLOSE:
        decoder.state = STATE_UNTIL_CLOSE
    elif body == BODY_LENGTH and content_length > 0:
        decoder.state = STATE_LENGTH
        decoder.remaining = content_length


cdef void body_release(BodyDecoder *decoder) noexcept nogil:
    free(decoder.held)
    decoder.held = NULL
    decoder.held_length = decoder.held_capacity = 0
    decoder.trailers = NULL
    decoder.trailers_length = 0


cdef int body_step(
    BodyDecoder *decoder, const char *data, size_t length, size_t *consumed, const char **out, size_t *out_length,
) noexcept nogil:
    cdef size_t at = 0
    cdef int said = BODY_MORE
    consumed[0] = 0
    while said == BODY_MORE:
        if decoder.state == STATE_DONE:
            return BODY_END
        if decoder.state == STATE_FAILED:
            return ERROR_BAD_CHUNK
        if at == length:
            break
        if decoder.state == STATE_DATA or decoder.state == STATE_LENGTH or decoder.state == STATE_UNTIL_CLOSE:
            said = take_data(decoder, data, length, &at, out, out_length)
        elif decoder.state < STATE_TRAILER:
            said = take_chunk_lines(decoder, data, length, &at)
        else:
            said = take_trailers(decoder, data, length, &at)
        consumed[0] = at
    if said < 0:
        decoder.state = STATE_FAILED
    return said


cdef inline int take_data(
    BodyDecoder *decoder, const char *data, size_t length, size_t *at, const char **out, size_t *out_length,
) noexcept nogil:
    """A slice of the body, up to the end of what is there or of the chunk."""
    cdef size_t there = length - at[0]
    out[0] = data + at[0]
    if decoder.state != STATE_UNTIL_CLOSE:
        if <uint64_t>there >= <uint64_t>decoder.remaining:
            there = <size_t>decoder.remaining
            decoder.state = STATE_DATA_CR if decoder.state == STATE_DATA else STATE_DONE
        decoder.remaining -= <int64_t>there
    out_length[0] = there
    at[0] += there
    return BODY_DATA


cdef int take_chunk_lines(BodyDecoder *decoder, const char *data, size_t length, size_t *at) noexcept nogil:
    """The bytes between two chunks' data: the CR LF after the one and the size line of the other (RFC 9112 7.1)."""
    cdef size_t i = at[0]
    cdef int state = decoder.state
    while i < length and state != STATE_DATA and state < STATE_TRAILER:
        if state == STATE_DIGITS and h1_is(data[i], H1_HEX):
            state = add_digit(decoder, data[i])
        else:
            state = next_state(decoder, state, data[i])
        if state == STATE_FAILED:
            return ERROR_BAD_CHUNK
        i += 1
    at[0] = i
    decoder.state = state
    return BODY_MORE


cdef inline int add_digit(BodyDecoder *decoder, char digit) noexcept nogil:
    """At most 16 digits (a longer size is an overflow for somebody) and at most 2**62, as for Content-Length."""
    decoder.line_bytes += 1
    if decoder.line_bytes > 16 or decoder.remaining > <int64_t>1 << 58:
        return STATE_FAILED
    decoder.remaining = decoder.remaining * 16 + h1_hex_value(digit)
    return STATE_DIGITS if decoder.remaining <= <int64_t>1 << 62 else STATE_FAILED


cdef int next_state(BodyDecoder *decoder, int state, char byte) noexcept nogil:
    """The state after one byte of a size line or of the line end after data.

    Extensions are legal and have to be ignored (RFC 9112 7.1.1), so `;name` and `;name=token` are; they never go on. Quoted values and
    white space are refused: that is where readers disagree about the line's end ("TERM.EXT", "EXT.TERM"), and nobody sends them.
    """
    if state == STATE_DATA_CR: return STATE_DATA_LF if byte == b'\r' else STATE_FAILED
    if state == STATE_DATA_LF:
        return start_size(decoder) if byte == b'\n' else STATE_FAILED
    if state == STATE_SIZE:
        return add_digit(decoder, byte) if h1_is(byte, H1_HEX) else STATE_FAILED
    if state == STATE_SIZE_LF:
        if byte != b'\n': return STATE_FAILED
        return STATE_DATA if decoder.remaining else STATE_TRAILER
    if byte == b'\r' and state != STATE_EXTENSION and state != STATE_EXTENSION_EQUALS: return STATE_SIZE_LF
    decoder.line_bytes += 1
    decoder.extension_bytes += 1
    if decoder.line_bytes > CHUNK_LINE_BYTES_AT_MOST or decoder.extension_bytes > EXTENSION_BYTES_AT_MOST: return STATE_FAILED
    if state == STATE_EXTENSION or state == STATE_EXTENSION_EQUALS:
        return state + 1 if h1_is(byte, H1_TOKEN) else STATE_FAILED
    if byte == b';': return STATE_EXTENSION
    if state == STATE_EXTENSION_NAME and byte == b'=': return STATE_EXTENSION_EQUALS
    return state if state != STATE_DIGITS and h1_is(byte, H1_TOKEN) else STATE_FAILED


cdef inline int start_size(BodyDecoder *decoder) noexcept nogil:
    decoder.remaining = 0
    decoder.line_bytes = 0
    return STATE_SIZE


cdef int hold(BodyDecoder *decoder, const char *bytes, size_t length) noexcept nogil:
    """Keep a piece of the trailers; there is never more than `trailer_limit` of it."""
    cdef size_t wanted = decoder.held_length + length
    cdef char *grown
    if length == 0:
        return 0
    if wanted > decoder.held_capacity:
        wanted = min(<size_t>max(wanted * 2, <size_t>256), <size_t>decoder.trailer_limit)
        grown = <char *>realloc(decoder.held, wanted)
        if grown == NULL:
            return ERROR_TRAILERS_TOO_LARGE
        decoder.held = grown
        decoder.held_capacity = <uint32_t>wanted
    memcpy(decoder.held + decoder.held_length, bytes, length)
    decoder.held_length += <uint32_t>length
    return 0


cdef int take_trailers(BodyDecoder *decoder, const char *data, size_t length, size_t *at) noexcept nogil:
    """Trailer lines (RFC 9112 7.1.2): what separates them byte by byte, and their names when all are there."""
    cdef size_t i = at[0], line_end = at[0]
    cdef int state = decoder.state, error
    cdef char byte
    while i < length:
        byte = data[i]
        i += 1
        if state == STATE_END_LF or (state == STATE_TRAILER and byte == b'\r'):
            if state == STATE_TRAILER:
                state = STATE_END_LF
                continue
            if byte != b'\n': return ERROR_BAD_TRAILER
            state = STATE_DONE
            break
        if decoder.held_length + (i - at[0]) > decoder.trailer_limit: return ERROR_TRAILERS_TOO_LARGE
        line_end = i
        if state == STATE_TRAILER_LF:
            if byte != b'\n': return ERROR_BAD_TRAILER
            state = STATE_TRAILER
        elif byte == b'\r':
            state = STATE_TRAILER_LF
        elif not h1_is(byte, H1_VALUE):
            return ERROR_BAD_TRAILER
        else:
            state = STATE_TRAILER_LINE
    decoder.state = state
    if state != STATE_DONE or decoder.held_length:
        error = hold(decoder, data + at[0], line_end - at[0])
        if error:
            return error
    if state == STATE_DONE:
        give_trailers(decoder, data + at[0], line_end - at[0])
    at[0] = i
    return trailer_lines_error(decoder.trailers, decoder.trailers_length) if state == STATE_DONE else BODY_MORE


cdef inline void give_trailers(BodyDecoder *decoder, const char *bytes, size_t length) noexcept nogil:
    if decoder.held_length:
        decoder.trailers = decoder.held
        decoder.trailers_length = decoder.held_length
    elif length:
        decoder.trailers = <char *>bytes
        decoder.trailers_length = <uint32_t>length


cdef bint is_forbidden_trailer(const char *name, uint32_t length) noexcept nogil:
    """Fields that frame, route, authenticate or say how to read the content are no trailers (RFC 9110 6.5.1): a receiver that merges them
    into the head would let a body change what the head has promised. All names that the proxy acts on are among them."""
    if header_id(name, length) != HEADER_OTHER or is_end_to_end(name, length): return True
    if h1_underscored_framing(name, length): return True
    if length >= 3 and h1_same(name, b"if-", 3): return True
    if length == 5: return h1_same(name, b"range", 5)
    if length == 6: return h1_same(name, b"pragma", 6)
    if length == 8: return h1_same(name, b"location", 8)
    if length == 12: return h1_same(name, b"max-forwards", 12)
    return False


cdef int trailer_lines_error(const char *lines, uint32_t length) noexcept nogil:
    """BODY_MORE when each line (all end in CR LF, and no other control is among them) is a field that may be a trailer. The raw lines are
    good to be passed on then, even by a caller that never parses them."""
    cdef uint32_t at = 0, colon
    while at < length:
        colon = h1_skip_token(lines, at)
        if lines[colon] != b':' or colon == at or colon - at > NAME_BYTES_AT_MOST or is_forbidden_trailer(lines + at, colon - at):
            return ERROR_BAD_TRAILER
        at = h1_skip_value(lines, colon, length) + 2
    return BODY_MORE


cdef int parse_trailers(Head *head, const char *data, size_t length, const Limits *limits) noexcept nogil:
    """`head.length` becomes `length` + 2: it counts the empty line that `data` leaves out, as a head's does."""
    cdef uint32_t at = 0, line
    cdef uint64_t repeated = 0
    cdef int i, error
    clear(head)
    head.length = 2
    if length == 0:
        return 0
    if length < 2 or data[length - 2] != b'\r' or data[length - 1] != b'\n':
        return ERROR_BAD_TRAILER
    error = take_fields(head, data, 0, <uint32_t>length, limits, &repeated)
    if error:
        return error if error == ERROR_TOO_MANY_HEADERS else ERROR_BAD_TRAILER
    for i in range(head.count):
        if is_forbidden_trailer(data + head.fields[i].name_at, head.fields[i].name_length):
            return ERROR_BAD_TRAILER
    return 0
