"""HTTP/2 sessions; see the .pxd for the contract.

nghttp2 keeps the state of streams and windows and does HPACK. In front of it stands `inspect` (http2_guard.pxi), which looks at each frame's
header first: it refuses frames for streams that are long closed, where nghttp2 is silent, and counts what a peer can flood with.
"""

from libc.stdint cimport SIZE_MAX, int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset
from meshproxy.codecs.http1 cimport *
from meshproxy.codecs.nghttp2 cimport *

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *, const char *, size_t)

cdef enum:
    MAX_FIELDS = 1024                    # of a head; as in HTTP/1
    # What a sent head may have: a received one's fields and as many lines that were added on the way.
    MAX_SENT_FIELDS = 2048
    FRAMES_BYTES = 65536                 # of heads and frame headers in one pump
    FRAME_BYTES_AT_MOST = 16384 + 16     # what nghttp2 gives at once
    COPIED_BYTES = 256                   # of a DATA frame: cheaper to copy than to have as a piece of its own
    # Of heads that we send, before HPACK: the largest that HTTP/1 takes, and room for what is added. nghttp2's own bound is 64 KiB.
    SENT_HEAD_BYTES = 1 << 20
    KEPT_TEXT_BYTES = 16384              # a larger text goes back to the allocator
    # A cookie that came in pieces is one line of text; more pieces than this would cost more moving than they are worth.
    CRUMBS_AT_MOST = 256
    # A head that is this many times over the limit is not worth an answer.
    OVERFLOW_FACTOR = 4
    FIRST_QUEUE_BYTES = 4096
    # Ids of streams that we reset. Frames for them come for a round trip; later ones for older streams close the connection.
    RESET_IDS = 1024
    CONTINUATIONS_AT_MOST = 8            # of one head, as nghttp2 has it; with 16 KiB each that is twice our largest head

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
cdef const char *DRAIN_PING = b"goaway\0\0"    # what the PING behind our first GOAWAY says; another one says 0


# For the length of one event or one pump: a process has one data path.
cdef HeaderField head_fields[MAX_FIELDS]
cdef Head event_head
event_head.fields = head_fields
event_head.capacity = MAX_FIELDS
cdef Piece out_pieces[OUT_PIECES]
cdef char frames[FRAMES_BYTES]
cdef nghttp2_nv sent_fields[MAX_SENT_FIELDS]

cdef struct Shared:
    size_t frames_used                   # in the present pump
    HeadText *free_text
    nghttp2_session_callbacks *callbacks # the same for all sessions

cdef Shared shared


include "http2_head.pxi"
include "http2_guard.pxi"
include "http2_send.pxi"
include "http2_upgrade.pxi"


cdef void default_options(Http2Options *options) noexcept:
    memset(options, 0, sizeof(Http2Options))
    options.max_concurrent_streams = 1024
    options.stream_window = 16 << 20
    options.connection_window = 24 << 20
    options.hpack_table = 4096
    options.max_frame = 16384
    options.max_outbound_frames = 10000
    options.max_control_frames = 1000
    options.max_empty_frames = 1
    options.max_priority_frames = 100
    options.max_window_updates = 10
    options.max_resets_per_minute = 1000
    options.head_bytes = 61440
    options.headers = 100


cdef class Http2Session:
    def __cinit__(self, bint server):
        self.server = server
        self.counts = self.own_counts
        self.out = out_pieces
        self.head = &event_head
        self.flood = -1
        self.max_peer_streams = 100      # until the peer's SETTINGS say more (RFC 9113 6.5.2 recommends no less)

    def __dealloc__(self):
        self.abandon()

    cdef void abandon(self) noexcept:
        """The connection is gone: gauges fall back, memory is given back. Owners let go first, or never touch their states again."""
        if self.ng != NULL:
            nghttp2_session_del(self.ng)
            self.ng = NULL
        while self.first != NULL:
            self.first.owner = NULL
            if not self.first.closed:
                self.on_closed(self.first, NGHTTP2_CANCEL)
            else:
                self.unlist(self.first)
        self.free_closed()
        self.counts[COUNT_OUTBOUND_CONTROL_FRAMES_ACTIVE] -= self.control_frames
        self.counts[COUNT_OUTBOUND_FRAMES_ACTIVE] -= self.outbound_frames
        self.control_frames = self.outbound_frames = 0
        if self.text != NULL:
            give_text(self.text)
            self.text = NULL
        free(self.reset_ids)
        self.reset_ids = NULL
        self.reset_count = 0

    cdef bint open(self, const Http2Options *options, int64_t *counts) noexcept:
        cdef nghttp2_settings_entry settings[8]
        cdef nghttp2_option *option
        cdef int count = 0, made
        self.options = options[0]
        if counts != NULL:
            self.counts = counts
        self.limits.head_bytes = options.head_bytes + 4096       # request line, and a joined cookie's separators
        self.limits.headers = MAX_FIELDS
        self.limits.target_bytes = options.head_bytes
        self.limits.allow_http_10 = False
        self.limits.allow_absolute_form = False
        if nghttp2_option_new(&option) != 0:
            return False
        nghttp2_option_set_no_auto_window_update(option, 1)
        nghttp2_option_set_max_send_header_block_length(option, SENT_HEAD_BYTES)
        nghttp2_option_set_max_outbound_ack(option, options.max_control_frames)
        if self.server:
            made = nghttp2_session_server_new2(&self.ng, shared.callbacks, <void *>self, option)
        else:
            made = nghttp2_session_client_new2(&self.ng, shared.callbacks, <void *>self, option)
        nghttp2_option_del(option)
        if made != 0:
            self.ng = NULL
            return False
        if self.server:
            add_setting(settings, &count, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams)
            # RFC 9218 2.1: no dependency tree that a client could make us work on.
            add_setting(settings, &count, NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1)
            if options.allow_connect:
                add_setting(settings, &count, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1)
        else:
            add_setting(settings, &count, NGHTTP2_SETTINGS_ENABLE_PUSH, 0)
        if options.hpack_table != 4096:
            add_setting(settings, &count, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, options.hpack_table)
        if options.max_frame != 16384:
            add_setting(settings, &count, NGHTTP2_SETTINGS_MAX_FRAME_SIZE, options.max_frame)
        add_setting(settings, &count, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, self.first_window())
        add_setting(settings, &count, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, options.head_bytes)
        return nghttp2_submit_settings(self.ng, NGHTTP2_FLAG_NONE, settings, count) == 0 and (
            options.connection_window <= 65535
            or nghttp2_session_set_local_window_size(self.ng, NGHTTP2_FLAG_NONE, 0, options.connection_window) == 0
        )

    cdef uint32_t first_window(self) noexcept:
        return self.options.stream_window if self.options.stream_window < FIRST_WINDOW else FIRST_WINDOW

    cdef StreamState *upgrade(self, const char *settings, size_t length, int method) noexcept:
        cdef uint8_t payload[1024]
        cdef int64_t decoded = base64url(payload, sizeof(payload), settings, length)
        cdef StreamState *s
        if decoded < 0 or nghttp2_session_upgrade2(self.ng, payload, decoded, method == METHOD_HEAD, NULL) != 0:
            return NULL
        s = self.new_stream(1, NULL)
        if s != NULL:
            nghttp2_session_set_stream_user_data(self.ng, 1, s)
            s.method = method
            s.received_end = True
            self.highest_id = 1
            self.opened = 1
        return s

    # -- reading

    cdef int step(self, const char *data, size_t length, size_t *consumed) noexcept:
        cdef size_t at = 0, part
        consumed[0] = 0
        if self.text != NULL and not self.text_open:
            give_text(self.text)
            self.text = NULL
        if self.told != NULL:
            return self.tell_next()
        while at < length and not self.failed and self.ng != NULL:
            if self.server and self.preface_got < 24:
                at += self.take_preface(data + at, length - at)
                continue
            if self.frame_left == 0:
                part = length - at if length - at < <size_t>(9 - self.header_got) else 9 - self.header_got
                memcpy(self.header + self.header_got, data + at, part)
                self.header_got += <int>part
                at += part
                if self.header_got < 9:
                    break
                self.header_got = 0
                self.event = EVENT_MORE
                if not inspect(self, self.header) or not self.feed(self.header, 9):
                    break
                if self.frame_left and at < length:
                    continue             # its payload follows at once
            else:
                part = length - at if length - at < self.frame_left else self.frame_left
                self.frame_left -= <uint32_t>part
                at += part
                if self.front_got < self.front_wanted and not look(self, <const uint8_t *>data + at - part, part):
                    break
                self.event = EVENT_MORE
                if not self.feed(<const uint8_t *>data + at - part, part):
                    break
            consumed[0] = at
            if self.after_feed() != EVENT_MORE:
                return self.event
        consumed[0] = length
        return EVENT_MORE

    cdef size_t take_preface(self, const char *data, size_t length) noexcept:
        cdef size_t part = length if length < 24 - self.preface_got else 24 - self.preface_got
        if memcmp(data, PREFACE + self.preface_got, part) != 0:
            self.fail(NGHTTP2_PROTOCOL_ERROR)
            return length
        self.preface_got += <uint32_t>part
        self.feed(<const uint8_t *>data, part)
        return part

    cdef bint feed(self, const uint8_t *data, size_t length) noexcept:
        cdef ssize_t taken = nghttp2_session_mem_recv(self.ng, data, length)
        if taken >= 0:
            return True
        if taken == NGHTTP2_ERR_FLOODED:
            self.counts[COUNT_OUTBOUND_CONTROL_FLOOD] += 1
        if not self.failed:
            self.failed = True
            self.failure = NGHTTP2_ENHANCE_YOUR_CALM if taken == NGHTTP2_ERR_FLOODED else NGHTTP2_PROTOCOL_ERROR
            nghttp2_session_terminate_session(self.ng, self.failure)
        return False

    cdef int after_feed(self) noexcept:
        """What the bytes amounted to. A frame that nghttp2 read to its end and did not tell of was ignored, or its stream was reset for it."""
        cdef StreamState *s
        if self.frame_left == 0 and not self.frame_told and self.frame_type == NGHTTP2_DATA and self.frame_stream and not self.failed:
            s = <StreamState *>nghttp2_session_get_stream_user_data(self.ng, self.frame_stream)
            if s != NULL and not s.reset and not s.closed:
                self.messaging_failed(s)         # more or less data than content-length says
        if self.event == EVENT_MORE and self.told != NULL:
            return self.tell_next()
        return self.event

    cdef int tell_next(self) noexcept:
        self.stream = self.take_told()
        self.error_code = self.stream.error_code
        self.event = EVENT_TOLD
        return EVENT_TOLD

    cdef void tell(self, StreamState *s) noexcept:
        if not s.in_told:
            s.in_told = True
            s.next_told = self.told
            self.told = s

    cdef StreamState *take_told(self) noexcept:
        cdef StreamState *s = self.told
        if s != NULL:
            self.told = s.next_told
            s.in_told = False
        return s

    cdef void messaging_failed(self, StreamState *s) noexcept:
        """A message that breaks HTTP's rules (RFC 9113 8.1.1)."""
        self.counts[COUNT_RX_MESSAGING_ERROR] += 1
        if self.count_reset():
            return
        if self.options.stream_error_on_invalid_message:
            self.cancel(s, NGHTTP2_PROTOCOL_ERROR)
        else:
            self.fail(NGHTTP2_PROTOCOL_ERROR)

    cdef bint count_reset(self) noexcept:
        """One more stream that the peer had us throw away; True when these were too many."""
        if self.now_ms - self.resets_since_ms >= 60000:
            self.resets_since_ms = self.now_ms
            self.resets = 0
        self.resets += 1
        return self.options.max_resets_per_minute and self.resets > self.options.max_resets_per_minute and flooded(self, COUNT_RESET_FRAMES_FLOOD)

    cdef void remember_reset(self, int32_t id) noexcept:
        if self.reset_ids == NULL:
            self.reset_ids = <int32_t *>malloc(RESET_IDS * sizeof(int32_t))
            if self.reset_ids == NULL:
                return
        self.reset_ids[self.reset_at] = id
        self.reset_at = (self.reset_at + 1) % RESET_IDS
        if self.reset_count < RESET_IDS:
            self.reset_count += 1

    cdef void consume(self, StreamState *s) noexcept:
        if s.unconsumed and self.ng != NULL:
            if s.closed:
                nghttp2_session_consume_connection(self.ng, s.unconsumed)
            else:
                nghttp2_session_consume(self.ng, s.id, s.unconsumed)
                s.taken += s.unconsumed
                if not s.held and s.taken >= s.window and s.window < self.options.stream_window:
                    self.set_window(s, 2 * s.window if 2 * s.window < self.options.stream_window else self.options.stream_window)
            s.unconsumed = 0
        s.held = False

    cdef void hold(self, StreamState *s) noexcept:
        cdef uint32_t least = self.first_window()
        if s.held or s.closed or self.ng == NULL:
            return
        s.held = True
        s.taken = 0
        if s.window > least:
            self.set_window(s, s.window // 2 if s.window // 2 > least else least)

    cdef void set_window(self, StreamState *s, uint32_t window) noexcept:
        s.taken = 0
        s.window = window
        nghttp2_session_set_local_window_size(self.ng, NGHTTP2_FLAG_NONE, s.id, <int32_t>window)

    # -- streams

    cdef StreamState *new_stream(self, int32_t id, void *owner) noexcept:
        cdef StreamState *s = <StreamState *>malloc(sizeof(StreamState))
        if s == NULL:
            return NULL
        memset(s, 0, sizeof(StreamState))
        s.id = id
        s.owner = owner
        s.room = FIRST_ROOM
        s.window = self.first_window()
        s.next = self.first
        if self.first != NULL:
            self.first.previous = s
        self.first = s
        self.streams += 1
        self.streams_opened += 1
        self.counts[COUNT_STREAMS_ACTIVE] += 1
        return s

    cdef void on_closed(self, StreamState *s, uint32_t code) noexcept:
        """nghttp2 knows the stream no more."""
        s.closed = True
        s.error_code = code
        s.end_given = True
        self.streams -= 1
        self.counts[COUNT_STREAMS_ACTIVE] -= 1
        drop_unsent(self, s)
        if s.unconsumed and self.ng != NULL:
            nghttp2_session_consume_connection(self.ng, s.unconsumed)
            s.unconsumed = 0
        if s.owner == NULL:
            self.unlist(s)
        elif not (s.received_end and s.sent_end):
            self.tell(s)
        elif s.in_told:
            self.untell(s)                       # both ends were said: its owner knows

    cdef void let_go(self, StreamState *s) noexcept:
        """Its owner is through with it. What was lent and ended still goes out."""
        s.owner = NULL
        if s.in_told:
            self.untell(s)
        if s.closed:
            self.unlist(s)
        else:
            self.consume(s)

    cdef void untell(self, StreamState *s) noexcept:
        cdef StreamState **link = &self.told
        while link[0] != s:
            link = &link[0].next_told
        link[0] = s.next_told
        s.in_told = False

    cdef void unlist(self, StreamState *s) noexcept:
        """Off all lists; its memory may still be lent to what is being sent, so `settle` frees it."""
        cdef StreamState **link
        if s.in_told:
            self.untell(s)
        if s.in_lent:
            link = &self.lent
            while link[0] != s:
                link = &link[0].next_lent
            link[0] = s.next_lent
            s.in_lent = False
        if s.previous != NULL:
            s.previous.next = s.next
        else:
            self.first = s.next
        if s.next != NULL:
            s.next.previous = s.previous
        s.next_told = self.closed
        self.closed = s

    cdef void free_closed(self) noexcept:
        cdef StreamState *s
        while self.closed != NULL:
            s = self.closed
            self.closed = s.next_told
            self.queued_bytes -= s.queue_capacity
            free(s.queue)
            free(s.trailers)
            free(s)

    # -- writing

    cdef bint respond(self, StreamState *s, int status, const char *bytes, const Head *head, const char *lines, size_t length, bint ends) noexcept:
        cdef nghttp2_data_provider provider
        cdef char digits[3]
        cdef int count
        if s.closed or s.reset:
            return True
        provider.source.ptr = s
        provider.read_callback = read_data
        count = put_status(digits, status)
        count = put_lines(put_fields(count, bytes, head, False), lines, length)
        if count < 0:
            return False
        s.begun = True
        s.end_given = ends
        return nghttp2_submit_response(self.ng, s.id, sent_fields, count, NULL if ends else &provider) == 0

    cdef bint inform(self, StreamState *s, int status, const char *bytes, const Head *head) noexcept:
        cdef char digits[3]
        cdef int count
        if s.closed or s.reset:
            return True
        count = put_fields(put_status(digits, status), bytes, head, False)
        return count >= 0 and nghttp2_submit_headers(self.ng, NGHTTP2_FLAG_NONE, s.id, NULL, sent_fields, count, NULL) == 0

    cdef StreamState *request(
        self, void *owner, const char *method, size_t method_length, const char *path, size_t path_length,
        const char *authority, size_t authority_length, const char *scheme, const char *protocol, size_t protocol_length, int method_id,
        const char *bytes, const Head *head, const char *lines, size_t length, bint ends,
    ) noexcept:
        cdef nghttp2_data_provider provider
        cdef StreamState *s
        cdef int count = 0
        if protocol != NULL:
            method, method_length, method_id = b"CONNECT", 7, METHOD_CONNECT
        put_field(&count, b":method", 7, method, method_length)
        if method_id != METHOD_CONNECT or protocol != NULL:
            put_field(&count, b":scheme", 7, scheme, 5 if scheme[4] == b's' else 4)
            put_field(&count, b":path", 5, path, path_length)
        put_field(&count, b":authority", 10, authority, authority_length)
        if protocol != NULL:
            put_field(&count, b":protocol", 9, protocol, protocol_length)
        count = put_lines(put_fields(count, bytes, head, True), lines, length)
        if count < 0:
            return NULL
        s = self.new_stream(0, owner)
        if s == NULL:
            return NULL
        provider.source.ptr = s
        provider.read_callback = read_data
        s.method = method_id
        s.begun = True
        s.end_given = ends
        s.id = nghttp2_submit_request(self.ng, NULL, sent_fields, count, NULL if ends else &provider, s)
        if s.id < 0:
            s.owner = NULL
            self.on_closed(s, NGHTTP2_REFUSED_STREAM)
            return NULL
        return s

    cdef bint lend(self, StreamState *s, const char *data, size_t length) noexcept:
        if s.closed or s.reset or s.end_given or length == 0:
            return True
        if s.lent_count == LENT_PIECES:
            return False
        s.lent[s.lent_count].at = data
        s.lent[s.lent_count].length = length
        s.lent_count += 1
        s.lent_bytes += length
        self.counts[COUNT_PENDING_SEND_BYTES] += length
        note_lent(self, s)
        return True

    cdef void end(self, StreamState *s, const char *trailers, size_t length) noexcept:
        if s.closed or s.reset or s.end_given:
            return
        s.end_given = True
        if length:
            s.trailers = <char *>malloc(length)
            if s.trailers == NULL:
                self.cancel(s, NGHTTP2_INTERNAL_ERROR)
                return
            memcpy(s.trailers, trailers, length)
            s.trailers_length = length
        note_lent(self, s)

    cdef void cancel(self, StreamState *s, uint32_t code) noexcept:
        if s.closed or s.reset:
            return
        s.reset = True
        drop_unsent(self, s)
        self.remember_reset(s.id)
        nghttp2_submit_rst_stream(self.ng, NGHTTP2_FLAG_NONE, s.id, code)

    cdef size_t unsent(self, const StreamState *s) noexcept:
        return s.lent_bytes + s.queue_end - s.queue_start

    cdef bint is_above(self, StreamState *s, size_t limit, bint tight) noexcept:
        if tight and s.room < limit:
            limit = s.room
        if not s.above and self.unsent(s) > limit:
            s.above = True
            s.limit = limit
            s.above_ms = self.now_ms
        return s.above

    cdef void fail(self, uint32_t code) noexcept:
        if not self.failed:
            self.failed = True
            self.failure = code
            nghttp2_session_terminate_session(self.ng, code)

    cdef void announce_goaway(self) noexcept:
        self.announcing = nghttp2_submit_shutdown_notice(self.ng) == 0

    cdef void finish_goaway(self) noexcept:
        if self.goaway_id == 0:
            self.goaway_id = nghttp2_session_get_last_proc_stream_id(self.ng)
            nghttp2_submit_goaway(self.ng, NGHTTP2_FLAG_NONE, self.goaway_id, NGHTTP2_NO_ERROR, NULL, 0)
            if self.goaway_id == 0:
                self.goaway_id = -1              # 0 stands for none

    cdef void ping(self) noexcept:
        nghttp2_submit_ping(self.ng, NGHTTP2_FLAG_NONE, NULL)

    cdef bint wants_write(self) noexcept:
        return self.ng != NULL and (self.lent != NULL or nghttp2_session_want_write(self.ng))

    cdef void forget_lent(self) noexcept:
        cdef StreamState *s = self.lent
        while s != NULL:
            if s.lent_bytes:
                self.cancel(s, NGHTTP2_INTERNAL_ERROR)
            s = s.next_lent

    cdef int pump(self, bint blocked) noexcept:
        cdef StreamState *s = self.lent
        cdef const uint8_t *frame
        cdef ssize_t length
        shared.frames_used = 0
        self.out_count = 0
        self.full = False
        self.blocked = blocked
        if self.ng == NULL:
            return 0
        while s != NULL and not blocked:
            self.resume(s)
            s = s.next_lent
        while True:
            if shared.frames_used + FRAME_BYTES_AT_MOST > FRAMES_BYTES or self.out_count == OUT_PIECES:
                self.full = True
                break
            length = nghttp2_session_mem_send(self.ng, &frame)
            if length <= 0:
                break
            put_frame(self, <const char *>frame, length)
        if length < 0 and not self.failed:
            self.failed = True
            self.failure = NGHTTP2_INTERNAL_ERROR
        return self.out_count

    cdef void resume(self, StreamState *s) noexcept:
        if s.deferred and not s.closed and (self.unsent(s) or s.end_given):
            s.deferred = False
            nghttp2_session_resume_data(self.ng, s.id)

    cdef void settle(self) noexcept:
        cdef StreamState *s
        cdef StreamState **link = &self.lent
        while link[0] != NULL:
            s = link[0]
            if not keep_unsent(self, s):
                self.cancel(s, NGHTTP2_INTERNAL_ERROR)
            if s.deferred and not (s.reset or s.closed) and (s.end_given or self.unsent(s)):
                link = &s.next_lent              # for the next pump: nobody else tells nghttp2 of it
            else:
                link[0] = s.next_lent
                s.in_lent = False
        self.free_closed()


cdef void add_setting(nghttp2_settings_entry *settings, int *count, int id, uint32_t value) noexcept:
    settings[count[0]].settings_id = id
    settings[count[0]].value = value
    count[0] += 1


include "http2_python.pxi"
