"""Part of http2.pyx: each frame's header is looked at before nghttp2 sees the frame."""

cdef bint inspect(Http2Session self, const uint8_t *header) noexcept:
    """Note the frame. False: the connection has failed for it."""
    cdef uint32_t length = <uint32_t>header[0] << 16 | <uint32_t>header[1] << 8 | header[2]
    cdef int type = header[3], flags = header[4]
    cdef int32_t id = <int32_t>((<uint32_t>header[5] & 127) << 24 | <uint32_t>header[6] << 16 | <uint32_t>header[7] << 8 | header[8])
    self.frame_left = self.frame_length = length
    self.front_got = self.front_wanted = 0
    self.frame_type = type
    self.frame_flags = flags
    self.frame_stream = id
    self.frame_told = False
    if type == NGHTTP2_DATA or type == NGHTTP2_HEADERS:
        self.continuations = 0
        if id and not is_expected(self, id, type, flags):
            return False
        self.front_wanted = 1 if flags & NGHTTP2_FLAG_PADDED else 0
        if length == 0 and not flags & NGHTTP2_FLAG_END_STREAM:
            return not emptied(self)
        self.empty_frames = 0
    elif type == NGHTTP2_CONTINUATION:
        self.continuations += 1
        if self.continuations > CONTINUATIONS_AT_MOST:
            return not flooded(self, COUNT_CONTINUATION_FLOOD)
        if length == 0 and not flags & NGHTTP2_FLAG_END_HEADERS:
            return not emptied(self)
    elif type == NGHTTP2_WINDOW_UPDATE:
        # Envoy's bound: a few for each stream, and for each DATA frame that we sent.
        self.window_updates += 1
        if self.window_updates > 5 + 2 * (self.streams_opened + self.options.max_window_updates * self.data_frames_sent):
            return not flooded(self, COUNT_WINDOW_UPDATE_FRAMES_FLOOD)
        self.front_wanted = 4 if length == 4 else 0
    elif type == NGHTTP2_PRIORITY:
        self.priority_frames += 1
        if self.priority_frames > self.options.max_priority_frames * (1 + self.streams_opened):
            return not flooded(self, COUNT_PRIORITY_FRAMES_FLOOD)
        if id == 0:
            self.fail(NGHTTP2_PROTOCOL_ERROR)    # nghttp2 does not look at them once we have done without priorities
            return False
        self.front_wanted = 4 if length == 5 else 0
    elif type == NGHTTP2_RST_STREAM:
        forget_reset(self, id)
    elif type == NGHTTP2_PING or type == NGHTTP2_SETTINGS:
        # Each makes us answer. A peer that does not read the answers makes us hold them.
        note_frames(self, &self.control_frames, COUNT_OUTBOUND_CONTROL_FRAMES_ACTIVE)
        if self.control_frames > self.options.max_control_frames:
            return not flooded(self, COUNT_OUTBOUND_CONTROL_FLOOD)
    return True


cdef void note_frames(Http2Session self, uint32_t *frames, int count) noexcept:
    """One more frame of ours that the peer has not read; none, if it has read all that we sent before."""
    cdef uint32_t now = frames[0] + 1 if self.backlog else 0
    self.counts[count] += <int64_t>now - frames[0]
    frames[0] = now


cdef bint flooded(Http2Session self, int count) noexcept:
    self.counts[count] += 1
    self.flood = count
    self.fail(NGHTTP2_ENHANCE_YOUR_CALM)
    return True


cdef bint emptied(Http2Session self) noexcept:
    self.empty_frames += 1
    return self.empty_frames > self.options.max_empty_frames and flooded(self, COUNT_EMPTY_FRAMES_FLOOD)


cdef bint look(Http2Session self, const uint8_t *data, size_t length) noexcept:
    """The front of a payload, where nghttp2 does not judge: it passes over frames of streams that it knows no more. False: the connection has failed."""
    cdef size_t i
    cdef uint32_t value
    for i in range(length):
        if self.front_got == self.front_wanted:
            break
        self.front[self.front_got] = data[i]
        self.front_got += 1
    if self.front_got < self.front_wanted:
        return True
    value = (<uint32_t>self.front[0] & 127) << 24 | <uint32_t>self.front[1] << 16 | <uint32_t>self.front[2] << 8 | self.front[3]
    if self.frame_type == NGHTTP2_PRIORITY:
        if value != <uint32_t>self.frame_stream:
            return True                          # RFC 7540 5.3.1: not on itself
    elif self.frame_type == NGHTTP2_WINDOW_UPDATE:
        if value != 0 or nghttp2_session_get_stream_user_data(self.ng, self.frame_stream) != NULL:
            return True                          # RFC 9113 6.9: not by nothing
    elif self.front[0] < self.frame_length:
        return True                              # RFC 9113 6.1: padding that leaves no room for its own length
    self.fail(NGHTTP2_PROTOCOL_ERROR)
    return False


cdef bint is_expected(Http2Session self, int32_t id, int type, int flags) noexcept:
    """Whether DATA or HEADERS may come for that stream. Idle ones are nghttp2's business, and those above our GOAWAY are ignored by it."""
    cdef int32_t behind
    if self.goaway_id and id > self.goaway_id:
        return True
    if self.server and id & 1 and id > self.highest_id:
        if type == NGHTTP2_HEADERS:
            behind = (id - self.highest_id) >> 1
            self.opened = (self.opened << behind if behind < 64 else 0) | 1
            self.highest_id = id
        return True
    if nghttp2_session_get_stream_user_data(self.ng, id) != NULL:
        return True
    if (id & 1) != self.server and <uint32_t>id >= nghttp2_session_get_next_stream_id(self.ng):
        return True
    if was_reset(self, id):
        if flags & NGHTTP2_FLAG_END_STREAM:
            forget_reset(self, id)
        return True                              # it was under way when we reset the stream (RFC 9113 5.4.2)
    behind = (self.highest_id - id) >> 1
    if self.server and type == NGHTTP2_HEADERS and id & 1 and behind < 64 and not self.opened >> behind & 1:
        self.fail(NGHTTP2_PROTOCOL_ERROR)        # RFC 9113 5.1.1: ids only grow
    else:
        self.fail(NGHTTP2_STREAM_CLOSED)         # RFC 9113 5.1
    return False


cdef bint was_reset(Http2Session self, int32_t id) noexcept:
    cdef int i
    for i in range(self.reset_count):
        if self.reset_ids[i] == id:
            return True
    return False


cdef void forget_reset(Http2Session self, int32_t id) noexcept:
    """The peer has closed the stream itself: nothing of it is under way any more."""
    cdef int i
    for i in range(self.reset_count):
        if self.reset_ids[i] == id:
            self.reset_ids[i] = 0
