"""Part of http2.pyx: a session as Python sees it, for tests and tools."""

cdef char *exact_copy(bytes data) except NULL:
    """A block of just its size, so that a sanitizer sees a read beyond it."""
    cdef size_t length = len(data)
    cdef char *block = <char *>malloc(length if length else 1)
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *>data, length)
    return block


COUNT_NAMES = (
    "dropped_headers_with_underscores", "goaway_sent", "header_overflow", "inbound_continuation_frames_flood", "inbound_empty_frames_flood",
    "inbound_priority_frames_flood", "inbound_window_update_frames_flood", "inbound_reset_frames_flood", "keepalive_timeout",
    "outbound_control_flood", "outbound_flood", "requests_rejected_with_underscores_in_headers", "rx_messaging_error", "rx_reset",
    "stream_refused_errors", "trailers", "tx_flush_timeout", "tx_reset", "outbound_control_frames_active", "outbound_frames_active",
    "pending_send_bytes", "streams_active",
)


cdef class Connection:
    """One side of a connection. Every stream's owner is this object until `let_go`."""
    cdef Http2Session session
    cdef dict states                     # stream id -> address of its StreamState
    cdef list lent                       # bytes that the session was lent
    cdef public bint eager               # consume what is told at once

    def __init__(self, bint server, bint eager=True, **options):
        cdef Http2Options chosen
        default_options(&chosen)
        for name, value in options.items():
            set_option(&chosen, name, value)
        self.states = {}
        self.lent = []
        self.eager = eager
        self.session = Http2Session(server)
        if not self.session.open(&chosen, NULL):
            raise MemoryError

    cdef StreamState *state(self, int id) except NULL:
        return <StreamState *><size_t>self.states[id]

    cdef void own(self, StreamState *s) except *:
        s.owner = <void *>self
        self.states[s.id] = <size_t>s

    def feed(self, bytes data):
        """What happened, as tuples; the first item names the event, the second is the stream's id."""
        cdef char *block = exact_copy(data)
        cdef size_t at = 0, used
        cdef int event
        cdef list events = []
        try:
            while True:
                event = self.session.step(block + at, len(data) - at, &used)
                at += used
                if event == EVENT_MORE:
                    return events
                events.append(self.told(event))
        finally:
            free(block)

    cdef object told(self, int event):
        cdef Http2Session x = self.session
        cdef StreamState *s = x.stream
        if event == EVENT_HEAD:
            self.own(s)
            if x.refusal:
                return "refused", s.id, x.refusal
            return "head", s.id, x.bytes[:x.head.length], x.head.body, x.head.content_length, bool(x.ends)
        if event == EVENT_DATA:
            if self.eager:
                x.consume(s)
            return "data", s.id, x.data[:x.data_length] if x.data_length else b"", bool(x.ends)
        if event == EVENT_TRAILERS:
            return "trailers", s.id, x.data[:x.data_length]
        if event == EVENT_TOLD:
            return self.told_of(s)
        if event == EVENT_GOAWAY:
            return "goaway", x.last_stream_id, x.error_code
        if event == EVENT_SETTINGS:
            return "settings", x.max_peer_streams
        return ("drain_pong",) if event == EVENT_DRAIN_PONG else ("pong",)

    cdef object told_of(self, StreamState *s):
        if s.closed:
            said = "reset", s.id, s.error_code
            del self.states[s.id]
            self.session.let_go(s)
            return said
        s.drained = False
        return "drained", s.id

    def news(self):
        """What `step` would tell first: who was closed or drained by a `take`."""
        cdef StreamState *s = self.session.take_told()
        cdef list events = []
        while s != NULL:
            events.append(self.told_of(s))
            s = self.session.take_told()
        return events

    def respond(self, int id, int status, bytes lines=b"", bint ends=False, bytes head=None):
        """`head`: a HTTP/1 response head whose fields go out as well."""
        cdef const char *at = NULL if head is None else <const char *>head
        if head is not None:
            parse_response(&event_head, at, len(head), 0, &self.session.limits, self.state(id).method)
        if not self.session.respond(self.state(id), status, at, NULL if head is None else &event_head, lines, len(lines), ends):
            raise MemoryError

    def inform(self, int id, int status, bytes head):
        parse_response(&event_head, head, len(head), 0, &self.session.limits, METHOD_GET)
        self.session.inform(self.state(id), status, head, &event_head)

    def request(self, bytes method, bytes path, bytes authority, bytes lines=b"", bint ends=True, bytes scheme=b"http", bytes protocol=None):
        cdef int known = METHOD_HEAD if method == b"HEAD" else METHOD_CONNECT if method == b"CONNECT" else METHOD_GET
        cdef StreamState *s = self.session.request(
            <void *>self, method, len(method), path, len(path), authority, len(authority), scheme,
            NULL if protocol is None else <const char *>protocol, 0 if protocol is None else len(protocol), known, NULL, NULL, lines, len(lines), ends,
        )
        if s == NULL:
            raise RuntimeError("no stream can be opened")
        self.own(s)
        return s.id

    def lend(self, int id, bytes piece):
        """To go out with the next `take`."""
        self.lent.append(piece)
        if not self.session.lend(self.state(id), piece, len(piece)):
            raise BufferError("too many pieces")

    def send(self, int id, *pieces, bint ends=False, bytes trailers=b""):
        """Lend, pump and settle; the bytes that went out."""
        for piece in pieces:
            self.lend(id, piece)
        if ends or trailers:
            self.end(id, trailers)
        return self.take()

    def end(self, int id, bytes trailers=b""):
        self.session.end(self.state(id), trailers, len(trailers))

    def take(self, bint blocked=False, bint backlog=False):
        """All that can go out."""
        cdef list said = []
        cdef int i, count
        self.session.backlog = backlog
        while True:
            count = self.session.pump(blocked)
            for i in range(count):
                said.append(self.session.out[i].at[:self.session.out[i].length])
            if not self.session.full:
                break
        self.session.settle()
        self.lent.clear()
        return b"".join(said)

    def settle(self):
        """Keep what was lent, without a pump."""
        self.session.settle()
        self.lent.clear()

    def cancel(self, int id, int code):
        self.session.cancel(self.state(id), code)

    def let_go(self, int id):
        self.session.let_go(<StreamState *><size_t>self.states.pop(id))

    def consume(self, int id):
        self.session.consume(self.state(id))

    def hold(self, int id):
        self.session.hold(self.state(id))

    def window(self, int id):
        return self.state(id).window

    def unsent(self, int id):
        return self.session.unsent(self.state(id))

    def is_above(self, int id, size_t limit, bint tight=False):
        return bool(self.session.is_above(self.state(id), limit, tight))

    def upgrade(self, bytes settings, bint head_request=False):
        """True: stream 1 is there."""
        cdef StreamState *s = self.session.upgrade(settings, len(settings), METHOD_HEAD if head_request else METHOD_GET)
        if s != NULL:
            self.own(s)
        return s != NULL

    def ping(self):
        self.session.ping()

    def announce_goaway(self):
        self.session.announce_goaway()

    def finish_goaway(self):
        self.session.finish_goaway()

    def fail(self, int code):
        self.session.fail(code)

    def abandon(self):
        self.states.clear()
        self.session.abandon()

    @property
    def counts(self):
        """Those that are not 0."""
        return {name: self.session.counts[i] for i, name in enumerate(COUNT_NAMES) if self.session.counts[i]}

    @property
    def failure(self):
        """The connection's error code; None = it goes on."""
        return self.session.failure if self.session.failed else None

    @property
    def now_ms(self):
        return self.session.now_ms

    @now_ms.setter
    def now_ms(self, int64_t now_ms):
        self.session.now_ms = now_ms

    @property
    def backlog(self):
        return self.session.backlog

    @backlog.setter
    def backlog(self, bint backlog):
        self.session.backlog = backlog

    @property
    def pieces(self):
        """How many the last pump made."""
        return self.session.out_count

    @property
    def streams(self):
        return self.session.streams


cdef void set_option(Http2Options *options, str name, uint32_t value) except *:
    if name == "max_concurrent_streams": options.max_concurrent_streams = value
    elif name == "stream_window": options.stream_window = value
    elif name == "connection_window": options.connection_window = value
    elif name == "hpack_table": options.hpack_table = value
    elif name == "max_frame": options.max_frame = value
    elif name == "allow_connect": options.allow_connect = value
    elif name == "stream_error_on_invalid_message": options.stream_error_on_invalid_message = value
    elif name == "max_outbound_frames": options.max_outbound_frames = value
    elif name == "max_control_frames": options.max_control_frames = value
    elif name == "max_empty_frames": options.max_empty_frames = value
    elif name == "max_priority_frames": options.max_priority_frames = value
    elif name == "max_window_updates": options.max_window_updates = value
    elif name == "max_resets_per_minute": options.max_resets_per_minute = value
    elif name == "head_bytes": options.head_bytes = value
    elif name == "headers": options.headers = value
    else: raise TypeError(f"no such option: {name}")
