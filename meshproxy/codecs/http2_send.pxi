"""Part of http2.pyx: what goes out, and nghttp2's callbacks. A callback only notes; none of them calls anybody."""

# -- heads

cdef inline void put_field(int *count, const char *name, size_t name_length, const char *value, size_t value_length) noexcept:
    cdef nghttp2_nv *field = &sent_fields[count[0]]
    field.name = <uint8_t *>name
    field.namelen = name_length
    field.value = <uint8_t *>value
    field.valuelen = value_length
    field.flags = NGHTTP2_NV_FLAG_NONE           # nghttp2 copies them, and makes names lower case
    count[0] += 1


cdef int put_status(char *digits, int status) noexcept:
    cdef int count = 0
    digits[0] = c'0' + status // 100 % 10
    digits[1] = c'0' + status // 10 % 10
    digits[2] = c'0' + status % 10
    put_field(&count, b":status", 7, digits, 3)
    return count


cdef bint is_of_connection(int id) noexcept:
    """RFC 9113 8.2.2: what HTTP/2 has no use for, should somebody have added it on the way."""
    return id in (HEADER_CONNECTION, HEADER_KEEP_ALIVE, HEADER_PROXY_CONNECTION, HEADER_TRANSFER_ENCODING, HEADER_UPGRADE)


cdef int put_fields(int count, const char *bytes, const Head *head, bint is_request) noexcept:
    """A head's fields that stay; -1: too many."""
    cdef const HeaderField *field
    cdef int i
    if head == NULL:
        return count
    if count + head.count > MAX_SENT_FIELDS:
        return -1
    for i in range(head.count):
        field = &head.fields[i]
        if not field.hop_by_hop and not (is_request and field.id == HEADER_HOST):
            put_field(&count, bytes + field.name_at, field.name_length, bytes + field.value_at, field.value_length)
    return count


cdef int put_lines(int count, const char *lines, size_t length) noexcept:
    """Lines that were added on the way; -1: too many."""
    cdef const char *end = lines + length
    cdef const char *colon
    cdef const char *stop
    cdef int id
    if count < 0:
        return -1
    while lines < end:
        colon = <const char *>memchr(lines, b':', end - lines)
        stop = <const char *>memchr(colon, b'\n', end - colon)
        if count == MAX_SENT_FIELDS:
            return -1
        id = header_id(lines, colon - lines)
        if not is_of_connection(id) and id != HEADER_HOST:
            put_field(&count, lines, colon - lines, colon + 2, stop - colon - 3)
        lines = stop + 1
    return count


# -- data

cdef void note_lent(Http2Session self, StreamState *s) noexcept:
    if not s.in_lent:
        s.in_lent = True
        s.next_lent = self.lent
        self.lent = s


cdef void drop_unsent(Http2Session self, StreamState *s) noexcept:
    """Nothing more of it goes out. The queue's memory may be lent to what is being sent: it is freed with the stream."""
    self.counts[COUNT_PENDING_SEND_BYTES] -= s.lent_bytes + s.queue_end - s.queue_start
    s.lent_count = s.lent_at = 0
    s.lent_bytes = 0
    s.queue_start = s.queue_end = 0
    s.moved_ms = 0


cdef bint keep_unsent(Http2Session self, StreamState *s) noexcept:
    """Copy what is lent and was not sent. False: no memory."""
    cdef size_t waiting = s.queue_end - s.queue_start, need = waiting + s.lent_bytes
    cdef char *grown
    cdef int i
    if waiting == 0:
        s.queue_start = s.queue_end = 0
        if need == 0:
            self.queued_bytes -= s.queue_capacity
            free(s.queue)                        # a stream that keeps up holds nothing
            s.queue = NULL
            s.queue_capacity = 0
            s.lent_count = s.lent_at = 0
            return True
    if s.lent_bytes == 0:
        s.lent_count = s.lent_at = 0
        return True
    if s.queue_start and s.queue_start + need > s.queue_capacity:
        memmove(s.queue, s.queue + s.queue_start, waiting)
        s.queue_start, s.queue_end = 0, waiting
    if s.queue_start + need > s.queue_capacity:
        # Large ones are tight: what slow peers make us hold is mostly these.
        need += need if need < FIRST_QUEUE_BYTES else need // 4
        if need < FIRST_QUEUE_BYTES:
            need = FIRST_QUEUE_BYTES
        grown = <char *>realloc(s.queue, need)
        if grown == NULL:
            return False
        self.queued_bytes += need - s.queue_capacity
        s.queue = grown
        s.queue_capacity = need
    for i in range(s.lent_at, s.lent_count):
        memcpy(s.queue + s.queue_end, s.lent[i].at, s.lent[i].length)
        s.queue_end += s.lent[i].length
    s.lent_count = s.lent_at = 0
    s.lent_bytes = 0
    return True


cdef void put_frame(Http2Session self, const char *frame, size_t length) noexcept:
    """Copy it behind the last one; both are one piece when nothing came between."""
    cdef char *at = frames + shared.frames_used
    memcpy(at, frame, length)
    shared.frames_used += length
    put_piece(self, at, length)


cdef inline void put_data(Http2Session self, const char *at, size_t length) noexcept:
    if length <= COPIED_BYTES:
        put_frame(self, at, length)
    else:
        put_piece(self, at, length)


cdef void put_piece(Http2Session self, const char *at, size_t length) noexcept:
    cdef Piece *last
    if self.out_count:
        last = &out_pieces[self.out_count - 1]
        if last.at + last.length == at:
            last.length += length
            return
    out_pieces[self.out_count].at = at
    out_pieces[self.out_count].length = length
    self.out_count += 1


cdef ssize_t read_data(
    nghttp2_session *ng, int32_t id, uint8_t *buffer, size_t length, uint32_t *flags, nghttp2_data_source *source, void *session,
) noexcept:
    """How much of a stream goes into the next frame, and whether that is its last."""
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s = <StreamState *>source.ptr
    cdef size_t waiting = s.lent_bytes + s.queue_end - s.queue_start
    cdef int count
    if s.reset or s.closed or (waiting == 0 and not s.end_given):
        s.deferred = True
        return NGHTTP2_ERR_DEFERRED
    if waiting and self.blocked:
        s.deferred = True
        note_lent(self, s)
        return NGHTTP2_ERR_DEFERRED
    if waiting <= length and s.end_given:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF
        if s.trailers != NULL:
            count = put_lines(0, s.trailers, s.trailers_length)
            if count > 0 and nghttp2_submit_trailer(ng, id, sent_fields, count) == 0:
                flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
    if waiting:
        flags[0] |= NGHTTP2_DATA_FLAG_NO_COPY
    return waiting if waiting < length else length


cdef int send_data(
    nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *header, size_t length, nghttp2_data_source *source, void *session,
) noexcept:
    """A DATA frame as pieces: its header, and the bytes where they lie; few of them go behind the header, so that many frames are one piece."""
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s = <StreamState *>source.ptr
    cdef Piece *piece
    cdef size_t part, waiting
    if self.out_count + LENT_PIECES + 2 > OUT_PIECES or shared.frames_used + FRAME_BYTES_AT_MOST > FRAMES_BYTES:
        self.full = True
        return NGHTTP2_ERR_WOULDBLOCK
    put_frame(self, <const char *>header, 9)
    self.counts[COUNT_PENDING_SEND_BYTES] -= length
    if s.queue_end > s.queue_start and length:
        part = s.queue_end - s.queue_start
        part = part if part < length else length
        put_data(self, s.queue + s.queue_start, part)
        s.queue_start += part
        length -= part
        note_lent(self, s)                       # so that `settle` gives an empty queue back
    while length:
        piece = &s.lent[s.lent_at]
        part = piece.length if piece.length < length else length
        put_data(self, piece.at, part)
        piece.at += part
        piece.length -= part
        s.lent_bytes -= part
        length -= part
        if piece.length == 0:
            s.lent_at += 1
    s.moved_ms = self.now_ms
    waiting = s.lent_bytes + s.queue_end - s.queue_start
    if s.above and waiting * 2 <= s.limit:
        s.above = False
        if s.owner != NULL:
            s.drained = True
            self.tell(s)
    if s.above_ms and waiting == 0:
        if self.now_ms - s.above_ms <= ROOM_GROWS_MS and s.room < SIZE_MAX // 2:
            s.room *= 2
        s.above_ms = 0
    return 0


# -- what nghttp2 tells

cdef int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *session) noexcept:
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
    cdef nghttp2_extpri fair
    if frame.hd.type != NGHTTP2_HEADERS:
        return 0
    if s == NULL and self.server and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        s = self.new_stream(frame.hd.stream_id, NULL)
        nghttp2_session_set_stream_user_data(ng, frame.hd.stream_id, s)
        # Streams take turns unless the client's priority says otherwise: RFC 9218's default would have one wait for the other.
        fair.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY
        fair.inc = 1
        nghttp2_session_change_extpri_stream_priority(ng, frame.hd.stream_id, &fair, 0)
    if self.text != NULL:
        give_text(self.text)
    self.text = take_text() if s != NULL else NULL
    self.text_open = self.text != NULL
    if self.text != NULL:
        self.text.is_trailers = self.server and frame.headers.cat == NGHTTP2_HCAT_HEADERS
    return 0


cdef int on_header(
    nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name, size_t name_length, const uint8_t *value, size_t value_length,
    uint8_t flags, void *session,
) noexcept:
    cdef Http2Session self = <Http2Session>session
    # A server's second block may be its final head, or trailers: the first field tells.
    if frame.headers.cat == NGHTTP2_HCAT_HEADERS and not self.server and self.text != NULL and self.text.decoded == 0:
        self.text.is_trailers = name[0] != b':'
    take_field(self, <const char *>name, name_length, <const char *>value, value_length)
    return 0


cdef int on_invalid_header(
    nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name, size_t name_length, const uint8_t *value, size_t value_length,
    uint8_t flags, void *session,
) noexcept:
    """nghttp2 would pass over it; a malformed message is an error (RFC 9113 8.1.1)."""
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE


cdef int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *session) noexcept:
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s
    self.text_open = False
    if error == NGHTTP2_ERR_REFUSED_STREAM:
        self.remember_reset(frame.hd.stream_id)
    elif error == NGHTTP2_ERR_HTTP_HEADER or error == NGHTTP2_ERR_HTTP_MESSAGING:
        self.remember_reset(frame.hd.stream_id)
        s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
        if s != NULL:
            s.reset = True
        self.counts[COUNT_RX_MESSAGING_ERROR] += 1
        if not self.count_reset() and not self.options.stream_error_on_invalid_message:
            self.fail(NGHTTP2_PROTOCOL_ERROR)
    elif frame.hd.stream_id:
        self.count_reset()                       # by a window that overflows, say: it costs us what a reset by the peer costs
    return 0


cdef int on_frame(nghttp2_session *ng, const nghttp2_frame *frame, void *session) noexcept:
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s
    cdef bint ends = frame.hd.flags & NGHTTP2_FLAG_END_STREAM
    self.frame_told = True
    if frame.hd.type == NGHTTP2_DATA or frame.hd.type == NGHTTP2_HEADERS:
        s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
        if s == NULL:
            if self.text_open or frame.hd.type == NGHTTP2_HEADERS:
                self.fail(NGHTTP2_INTERNAL_ERROR)        # there was no memory for it
        elif frame.hd.type == NGHTTP2_HEADERS:
            finish_head(self, s, ends)
        elif ends:
            s.received_end = True
            if s.owner != NULL:
                take_data(self, s, NULL, 0)
                self.ends = True
    elif frame.hd.type == NGHTTP2_SETTINGS:
        if not frame.hd.flags & NGHTTP2_FLAG_ACK:
            self.max_peer_streams = nghttp2_session_get_remote_settings(ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)
            self.event = EVENT_SETTINGS
    elif frame.hd.type == NGHTTP2_PING:
        if frame.hd.flags & NGHTTP2_FLAG_ACK:
            self.event = EVENT_DRAIN_PONG if memcmp(frame.ping.opaque_data, DRAIN_PING, 8) == 0 else EVENT_PONG
    elif frame.hd.type == NGHTTP2_GOAWAY:
        self.last_stream_id = frame.goaway.last_stream_id
        self.error_code = frame.goaway.error_code
        self.event = EVENT_GOAWAY
    elif frame.hd.type == NGHTTP2_RST_STREAM:
        self.counts[COUNT_RX_RESET] += 1
        if frame.rst_stream.error_code == NGHTTP2_REFUSED_STREAM:
            self.counts[COUNT_STREAM_REFUSED] += 1
        s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
        if s != NULL and self.server and not s.begun:
            self.count_reset()
    return 0


cdef void take_data(Http2Session self, StreamState *s, const uint8_t *data, size_t length) noexcept:
    if self.event != EVENT_DATA:                 # the end comes after the data, in the same event
        self.event = EVENT_DATA
        self.stream = s
        self.ends = False
        self.data = <const char *>data
        self.data_length = length


cdef int on_data_chunk(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data, size_t length, void *session) noexcept:
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s = <StreamState *>nghttp2_session_get_stream_user_data(ng, id)
    if s == NULL or s.owner == NULL:             # nobody wants it any more
        nghttp2_session_consume(ng, id, length)
    else:
        s.unconsumed += <uint32_t>length
        take_data(self, s, data, length)
    return 0


cdef int on_frame_sent(nghttp2_session *ng, const nghttp2_frame *frame, void *session) noexcept:
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s
    note_frames(self, &self.outbound_frames, COUNT_OUTBOUND_FRAMES_ACTIVE)
    if self.outbound_frames > self.options.max_outbound_frames and not self.failed:
        flooded(self, COUNT_OUTBOUND_FLOOD)
    if frame.hd.type == NGHTTP2_DATA:
        self.data_frames_sent += 1
    if frame.hd.type == NGHTTP2_DATA or frame.hd.type == NGHTTP2_HEADERS:
        if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
            if s != NULL:
                s.sent_end = True
                if self.server and not s.received_end and not s.reset and (s.method != METHOD_CONNECT or s.owner == NULL):
                    # RFC 9113 8.1: answered in full, the rest of the request is of no interest; a tunnel's other half is
                    self.cancel(s, NGHTTP2_NO_ERROR)
    elif frame.hd.type == NGHTTP2_RST_STREAM:
        self.counts[COUNT_TX_RESET] += 1
        s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
        if s == NULL or not s.reset:
            self.remember_reset(frame.hd.stream_id)
    elif frame.hd.type == NGHTTP2_GOAWAY:
        self.counts[COUNT_GOAWAY_SENT] += 1
        if self.announcing:                      # only now: nghttp2 sends PING before all else, and the answer tells that the GOAWAY was read
            self.announcing = False
            nghttp2_submit_ping(ng, NGHTTP2_FLAG_NONE, <const uint8_t *>DRAIN_PING)
        if frame.goaway.error_code != NGHTTP2_NO_ERROR and not self.failed:
            self.failed = True
            self.failure = frame.goaway.error_code
    return 0


cdef int on_frame_not_sent(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *session) noexcept:
    """A head that HPACK or the size limit refuses: its stream cannot go on."""
    cdef Http2Session self = <Http2Session>session
    cdef StreamState *s
    if frame.hd.type == NGHTTP2_HEADERS:
        s = <StreamState *>nghttp2_session_get_stream_user_data(ng, frame.hd.stream_id)
        if s != NULL:
            # Queued when the peer's GOAWAY came, it was never sent, and may go elsewhere.
            self.cancel(s, NGHTTP2_REFUSED_STREAM if error == NGHTTP2_ERR_START_STREAM_NOT_ALLOWED else NGHTTP2_INTERNAL_ERROR)
    return 0


cdef int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *session) noexcept:
    cdef StreamState *s = <StreamState *>nghttp2_session_get_stream_user_data(ng, id)
    if s != NULL:
        (<Http2Session>session).on_closed(s, code)
    return 0


cdef void make_callbacks() except *:
    if nghttp2_session_callbacks_new(&shared.callbacks) != 0:
        raise MemoryError("no room for HTTP/2's callbacks")
    nghttp2_session_callbacks_set_on_begin_headers_callback(shared.callbacks, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(shared.callbacks, on_header)
    nghttp2_session_callbacks_set_on_invalid_header_callback(shared.callbacks, on_invalid_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(shared.callbacks, on_frame)
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(shared.callbacks, on_invalid_frame)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(shared.callbacks, on_data_chunk)
    nghttp2_session_callbacks_set_on_frame_send_callback(shared.callbacks, on_frame_sent)
    nghttp2_session_callbacks_set_on_frame_not_send_callback(shared.callbacks, on_frame_not_sent)
    nghttp2_session_callbacks_set_on_stream_close_callback(shared.callbacks, on_stream_close)
    nghttp2_session_callbacks_set_send_data_callback(shared.callbacks, send_data)


make_callbacks()
