"""Part of http2.pyx: fields as HPACK gives them become the text of a HTTP/1 head.

The pseudo-header fields are kept as they come, at the front of the text; with the first other field the request or status line is made of them
behind it, and from there on the text grows line by line.
"""

cdef HeadText *take_text() noexcept:
    cdef HeadText *text = shared.free_text
    cdef char *bytes
    cdef size_t capacity
    if text != NULL:
        shared.free_text = text.next_free
        bytes = text.bytes
        capacity = text.capacity
    else:
        text = <HeadText *>malloc(sizeof(HeadText))
        capacity = 4096
        bytes = <char *>malloc(capacity)
        if text == NULL or bytes == NULL:
            free(text)
            free(bytes)
            return NULL
    memset(text, 0, sizeof(HeadText))
    text.bytes = bytes
    text.capacity = capacity
    return text


cdef void give_text(HeadText *text) noexcept:
    """One is kept: heads mostly come whole, so there is seldom a second."""
    if shared.free_text == NULL and text.capacity <= KEPT_TEXT_BYTES:
        text.next_free = NULL
        shared.free_text = text
    else:
        free(text.bytes)
        free(text)


cdef bint text_reserve(HeadText *text, size_t more) noexcept:
    cdef size_t need = text.length + more
    cdef char *grown
    if need > text.capacity:
        grown = <char *>realloc(text.bytes, need * 2)
        if grown == NULL:
            text.refusal = ERROR_HEAD_TOO_LARGE
            return False
        text.bytes = grown
        text.capacity = need * 2
    return True


cdef inline void text_put(HeadText *text, const char *at, size_t length) noexcept:
    memcpy(text.bytes + text.length, at, length)
    text.length += length


cdef void text_line(HeadText *text, const char *name, size_t name_length, const char *value, size_t value_length) noexcept:
    if text_reserve(text, name_length + value_length + 4):
        text_put(text, name, name_length)
        text_put(text, b": ", 2)
        text_put(text, value, value_length)
        text_put(text, b"\r\n", 2)


cdef void add_crumb(HeadText *text, const char *value, size_t length) noexcept:
    """RFC 9113 8.2.3: the pieces of a cookie are joined again for who does not speak HTTP/2."""
    cdef size_t at = text.cookie_end
    text.crumbs += 1
    if text.crumbs > CRUMBS_AT_MOST:
        text.refusal = ERROR_TOO_MANY_HEADERS
    elif text_reserve(text, length + 2):
        memmove(text.bytes + at + length + 2, text.bytes + at, text.length - at)
        memcpy(text.bytes + at, b"; ", 2)
        memcpy(text.bytes + at + 2, value, length)
        text.length += length + 2
        text.cookie_end += <uint32_t>length + 2


cdef bint line_from_request(HeadText *text) noexcept:
    """The first line, and Host from :authority. False: the target is none that HTTP/1 has."""
    cdef const char *bytes
    cdef const char *path
    cdef size_t path_length = text.path_length
    cdef bint connect
    if not text_reserve(text, text.length + text.authority_length + 64):
        return True
    bytes = text.bytes
    connect = text.method_length == 7 and memcmp(bytes + text.method_at, b"CONNECT", 7) == 0
    if connect and text.protocol_length:
        text_put(text, b"GET ", 4)               # RFC 8441 5: what HTTP/1.1 asks for with Upgrade
    else:
        text_put(text, bytes + text.method_at, text.method_length)
        text_put(text, b" ", 1)
    path = bytes + text.path_at
    if connect and not text.protocol_length:
        path, path_length = bytes + text.authority_at, text.authority_length
    elif path_length == 0 or (path[0] != b'/' and not (path_length == 1 and path[0] == b'*')):
        return False                             # an absolute form would let :path say another host than :authority
    text_put(text, path, path_length)
    text_put(text, b" HTTP/1.1\r\n", 11)
    if text.authority_length:
        text_put(text, b"host: ", 6)
        text_put(text, bytes + text.authority_at, text.authority_length)
        text_put(text, b"\r\n", 2)
    if connect and text.protocol_length:
        text_line(text, b"connection", 10, b"upgrade", 7)
        if text_reserve(text, text.protocol_length + 16):
            text_line(text, b"upgrade", 7, text.bytes + text.protocol_at, text.protocol_length)
    return True


cdef bint begin_lines(Http2Session self) noexcept:
    """All pseudo-header fields are here: nghttp2 refuses one that comes later."""
    cdef HeadText *text = self.text
    cdef uint32_t pseudo = <uint32_t>text.length
    text.lines_begun = True
    if text.is_trailers:
        return True
    if self.server:
        if not line_from_request(text):
            text.refusal = ERROR_BAD_TARGET
            return False
    elif text_reserve(text, 32):
        text_put(text, b"HTTP/1.1 ", 9)
        text_put(text, text.bytes + text.status_at, 3)
        text_put(text, b" \r\n", 3)
    text.start = pseudo
    return True


cdef void take_field(Http2Session self, const char *name, size_t name_length, const char *value, size_t value_length) noexcept:
    cdef HeadText *text = self.text
    if text == NULL or self.failed:
        return
    text.decoded += name_length + value_length + 4
    if text.decoded > self.options.head_bytes:
        text.refusal = ERROR_HEAD_TOO_LARGE
        if text.decoded > <size_t>self.options.head_bytes * OVERFLOW_FACTOR:
            self.counts[COUNT_HEADER_OVERFLOW] += 1
            self.fail(NGHTTP2_ENHANCE_YOUR_CALM)
    if text.refusal:
        return
    if name[0] == b':':
        take_pseudo(text, name, name_length, value, value_length)
        return
    if not text.lines_begun and not begin_lines(self):
        return
    if name_length == 6 and self.server and memcmp(name, b"cookie", 6) == 0 and not text.is_trailers:
        if text.cookie_end:
            add_crumb(text, value, value_length)
            return
        text_line(text, name, name_length, value, value_length)
        text.cookie_end = <uint32_t>text.length - 2
    elif name_length == 4 and text.authority_length and memcmp(name, b"host", 4) == 0:
        # RFC 9113 8.3.1: one that differs would be another host to the next hop
        if value_length != text.authority_length or strncasecmp(value, text.bytes + text.authority_at, value_length) != 0:
            text.refusal = ERROR_BAD_HOST
        return
    else:
        text_line(text, name, name_length, value, value_length)
    text.count += 1
    if text.count > <int>self.options.headers:
        text.refusal = ERROR_TOO_MANY_HEADERS


cdef void take_pseudo(HeadText *text, const char *name, size_t name_length, const char *value, size_t value_length) noexcept:
    """nghttp2 has checked that it is one of RFC 9113 8.3 or RFC 8441, the only one of its name, and not empty."""
    cdef uint32_t at = <uint32_t>text.length, length = <uint32_t>value_length
    if not text_reserve(text, value_length):
        return
    text_put(text, value, value_length)
    if name[1] == b'm': text.method_at, text.method_length = at, length
    elif name_length == 5: text.path_at, text.path_length = at, length
    elif name[1] == b'a': text.authority_at, text.authority_length = at, length
    elif name[1] == b'p': text.protocol_at, text.protocol_length = at, length
    elif name_length == 7 and name[2] == b't': text.status_at, text.status_length = at, length


cdef void finish_head(Http2Session self, StreamState *s, bint ends) noexcept:
    """The whole block was read: the event of it."""
    cdef HeadText *text = self.text
    cdef Head *head = &event_head
    self.text_open = False
    if text == NULL:
        self.fail(NGHTTP2_INTERNAL_ERROR)        # no memory for it
        return
    if not text.lines_begun and not text.refusal:
        begin_lines(self)
    if text.refusal == ERROR_HEAD_TOO_LARGE or text.refusal == ERROR_TOO_MANY_HEADERS:
        self.counts[COUNT_HEADER_OVERFLOW] += 1
    self.stream = s
    self.ends = ends
    self.bytes = text.bytes + text.start
    if text.is_trailers:
        finish_trailers(self, s)
        return
    if not text.refusal and text_reserve(text, 2):
        text_put(text, b"\r\n", 2)
        self.bytes = text.bytes + text.start
        if self.server:
            text.refusal = min(parse_request(head, self.bytes, text.length - text.start, 0, &self.limits), 0)
        else:
            text.refusal = min(parse_response(head, self.bytes, text.length - text.start, 0, &self.limits, s.method), 0)
    self.refusal = text.refusal
    if text.refusal == 0:
        settle_head(self, s, text, ends)
    elif not self.server:
        self.messaging_failed(s)
        return
    s.received_end = ends
    self.event = EVENT_HEAD


cdef void settle_head(Http2Session self, StreamState *s, HeadText *text, bint ends) noexcept:
    """What HTTP/1 says by framing fields and HTTP/2 by END_STREAM."""
    cdef Head *head = &event_head
    head.keep_alive = True
    if self.server:
        s.method = METHOD_CONNECT if head.upgrade else head.method       # as it was asked for (RFC 8441 4)
        if head.method == METHOD_CONNECT or head.upgrade:
            head.body = BODY_NONE
        elif not ends:
            head.body = BODY_CHUNKED if head.content_length < 0 else BODY_LENGTH
    elif ends:
        head.body = BODY_NONE
    elif head.body == BODY_UNTIL_CLOSE:
        head.body = BODY_CHUNKED


cdef void finish_trailers(Http2Session self, StreamState *s) noexcept:
    cdef HeadText *text = self.text
    self.counts[COUNT_TRAILERS] += 1
    s.received_end = True
    if text.refusal or parse_trailers(&event_head, self.bytes, text.length, &self.limits) < 0:
        self.messaging_failed(s)
        return
    if s.owner != NULL:
        self.data = self.bytes
        self.data_length = text.length
        self.event = EVENT_TRAILERS
