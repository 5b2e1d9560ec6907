"""HTTP/2 from clients; see the .pxd.

A stream's window opens again as its bytes are taken: a request that is paused is one whose bytes are not acknowledged. What a stream was given
and its client's windows do not let out is the stream's own queue, which has the connection manager's limit.
"""

from libc.string cimport memcpy
from cpython.ref cimport Py_DECREF, Py_INCREF
from meshproxy.codecs.http1 cimport *
from meshproxy.codecs.http1_compose cimport copy_fields
from meshproxy.codecs.http2 cimport *
from meshproxy.codecs.nghttp2 cimport NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR
from meshproxy.proxy.lines cimport lines_add, lines_raw, lines_reserve
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.runtime cimport CLOSE_LOCAL, CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.telemetry.facts cimport Facts
from meshproxy.workers.connection_log cimport describe_addresses
from meshproxy.workers.http_chain cimport DELAYED_CLOSE_MS, MAX_FIELDS, count_closed, count_opened, move_gauges
from meshproxy.workers.http2_settings cimport pings_of, take_options
from meshproxy.workers.listener cimport find_local
from meshproxy.workers.net cimport *

from meshproxy.proxy.exchange import milliseconds

cdef enum:
    FREE_STREAMS = 1024

cdef const char *BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef const char *SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"


cdef class Http2Starter(HttpStarter):
    """One for each chain: what its connections have in common."""

    def __init__(self, Region region, int slot, int64_t cell):
        self.counts = region.page(slot) + cell
        self.free = []

    cdef void start(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *first, size_t length) except *:
        cdef DownstreamHttp2 connection
        if self.config is not chain.config:
            self.take_settings(chain.config)
        connection = DownstreamHttp2(self, chain, transport, info)
        transport.protocol = connection
        connection.open()
        if length:
            connection.on_data(first, length)

    cdef bint upgrade(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *bytes, Head *head) except *:
        cdef DownstreamHttp2 connection
        cdef HeaderField *field = &head.fields[head.known[HEADER_HTTP2_SETTINGS]]
        if not is_settings(bytes + field.value_at, field.value_length):
            return False
        if self.config is not chain.config:
            self.take_settings(chain.config)
        transport.write(SWITCHING, len(SWITCHING))
        connection = DownstreamHttp2(self, chain, transport, info)
        transport.protocol = connection
        connection.open()
        if not connection.take_over(bytes, head):
            transport.close(CLOSE_LOCAL)
        return True

    cdef void take_settings(self, HttpConfig config) except *:
        cdef Http2Options *options = &self.options
        model = config.model.http2
        self.config = config
        take_options(options, model, config.buffer_limit)
        options.allow_connect = model.allow_connect
        options.head_bytes = config.max_head_bytes
        options.headers = min(<int64_t>config.max_headers, MAX_FIELDS)
        self.drain_ms = milliseconds(config.model.drain_timeout_s)
        self.pings = pings_of(model)


cdef class DownstreamHttp2(Protocol):
    def __init__(self, Http2Starter starter, HttpChain chain, Transport transport, ConnectionInfo info):
        self.starter = starter
        self.chain = chain
        self.loop = chain.loop
        self.config = chain.config
        self.transport = transport
        self.info = info
        self.session = Http2Session(True)
        self.writer = Http2Writer(chain.loop, transport, self.session)

    # -- the connection

    cdef void open(self) except *:
        cdef int64_t *cells = self.config.cells
        count_opened(self.config, self.info.tls)
        self.info.http_version = 2
        cells[HTTP_DOWNSTREAM_CX_HTTP2_TOTAL] += 1
        cells[HTTP_DOWNSTREAM_CX_HTTP2_ACTIVE] += 1
        if self.config.logs is not None:
            find_local(self.info)
        self.transport.high_watermark = self.config.buffer_limit
        self.transport.count_by(
            &cells[HTTP_DOWNSTREAM_CX_RX_BYTES_TOTAL], &cells[HTTP_DOWNSTREAM_CX_TX_BYTES_TOTAL], &cells[HTTP_DOWNSTREAM_CX_TX_BYTES_BUFFERED],
        )
        if self.config.max_connection_duration_ms:
            self.expires_at = self.loop.now_ms + self.config.max_connection_duration_ms
        self.next_ping()
        if not self.session.open(&self.starter.options, self.starter.counts):
            raise MemoryError("no room for a HTTP/2 session")
        self.writer.touch()                      # our SETTINGS need not wait for the client's (RFC 9113 3.4)
        self.rest()

    cdef bint take_over(self, const char *bytes, Head *head) except *:
        """The request that asked for h2c becomes stream 1 (RFC 7540 3.2). False: its HTTP2-Settings are none."""
        cdef HeaderField *field = &head.fields[head.known[HEADER_HTTP2_SETTINGS]]
        cdef StreamState *s = self.session.upgrade(bytes + field.value_at, field.value_length, head.method)
        cdef Http2Stream stream
        cdef Exchange exchange
        if s == NULL:
            return False
        stream = self.new_stream(s)
        exchange = stream.exchange
        exchange.load(bytes, head, self.loop.now_us)
        exchange.begin()
        if stream.exchange is exchange:
            exchange.on_request_end(NULL, 0)
        return True

    cdef void on_closed(self, int why, int error) except *:
        cdef bint active = self.active > 0
        if self.transport.grace_over:
            self.config.cells[HTTP_DOWNSTREAM_CX_DELAYED_CLOSE_TIMEOUT] += 1
        self.config.cells[HTTP_DOWNSTREAM_CX_HTTP2_ACTIVE] -= 1
        count_closed(self.config, self.info.tls, why, self.loop.now_us - self.info.opened_us, active)
        self.chain.closed(self.transport, self.info, NULL)
        self.end_exchanges()
        self.writer.abandon()

    cdef void end_exchanges(self) except *:
        """The client is out of reach for all of them."""
        cdef StreamState *s
        cdef Http2Stream stream
        cdef Exchange exchange
        while True:
            s = self.session.first
            while s != NULL and s.owner == NULL:
                s = s.next
            if s == NULL:
                return
            stream = <Http2Stream>s.owner
            exchange = stream.exchange
            try:
                exchange.on_downstream_gone()
            except Exception:
                self.loop.crash(exchange)
            if stream.state == s:
                stream.release()

    cdef void on_end(self) except *:
        self.transport.close(CLOSE_REMOTE)

    cdef void leave(self) except *:
        """Close in peace, with all that was said delivered."""
        cdef int64_t grace_ms = self.config.delayed_close_timeout_ms if self.config.delayed_close_timeout_ms else DELAYED_CLOSE_MS
        self.leaving = True
        self.writer.flush()
        self.transport.linger(grace_ms)

    cdef void fail(self) except *:
        """What the client sent was no HTTP/2, or too much of it: the session has said so."""
        self.config.cells[HTTP_DOWNSTREAM_CX_PROTOCOL_ERROR] += 1
        if self.session.flood == COUNT_RESET_FRAMES_FLOOD:
            self.config.cells[HTTP_DOWNSTREAM_RQ_TOO_MANY_PREMATURE_RESETS] += 1
        self.end_exchanges()
        if self.transport.fd >= 0:
            self.leave()

    # -- reading

    cdef void on_data(self, const char *data, size_t length) except *:
        cdef Http2Session session = self.session
        cdef size_t used
        cdef int event
        session.now_ms = self.loop.now_ms
        session.backlog = self.transport.queue != NULL
        while not self.leaving:
            event = session.step(data, length, &used)
            data += used
            length -= used
            if event == EVENT_MORE:
                break
            self.handle(event)
            if self.transport.fd < 0:
                return
        if session.text_open != (self.head_at != 0):
            self.head_at = self.loop.now_ms + self.config.request_headers_timeout_ms if session.text_open and self.config.request_headers_timeout_ms else 0
            self.arm()
        if session.wants_write():
            self.writer.touch()
        if (self.gone_away or self.client_leaves) and self.active == 0:
            self.loop.make_ready(self.transport)     # it may have been the last window that an answer waited for

    cdef void handle(self, int event) except *:
        cdef Http2Session session = self.session
        cdef Exchange exchange
        if event == EVENT_HEAD:
            self.take_head()
        elif event == EVENT_DATA:
            self.take_data()
        elif event == EVENT_TRAILERS:
            exchange = (<Http2Stream>session.stream.owner).exchange
            exchange.on_request_end(session.data, session.data_length)
        elif event == EVENT_TOLD:
            self.tell(session.stream)
        elif event == EVENT_PONG or event == EVENT_DRAIN_PONG:
            self.on_pong(event == EVENT_DRAIN_PONG)
        elif event == EVENT_GOAWAY:
            self.client_leaves = True

    cdef void take_head(self) except *:
        cdef Http2Session session = self.session
        cdef bint ends = session.ends
        cdef int refusal = session.refusal
        cdef Http2Stream stream
        cdef Exchange exchange
        if self.config is not self.chain.config:
            self.renew_config()
        stream = self.new_stream(session.stream)
        exchange = stream.exchange
        if refusal:
            if refusal == ERROR_BAD_TARGET:
                self.config.cells[HTTP_DOWNSTREAM_RQ_NON_RELATIVE_PATH] += 1
            exchange.load_nothing(self.loop.now_us)
            exchange.begin_refused()
            exchange.fail(HEAD_TOO_LARGE if error_status(refusal) == 431 else BAD_REQUEST)
            return
        stream.extended = session.head.upgrade
        exchange.load(session.bytes, session.head, self.loop.now_us)
        if stream.extended:
            if not exchange.wants_upgrade:       # h2c: without a tunnel what follows would be an endpoint's next request
                exchange.begin_refused()
                exchange.fail(UPGRADE_REFUSED)
                return
            self.add_websocket_key(exchange)
        exchange.begin()
        if ends and stream.exchange is exchange:
            exchange.on_request_end(NULL, 0)

    cdef Http2Stream new_stream(self, StreamState *s):
        cdef list free = self.starter.free
        cdef Http2Stream stream = <Http2Stream>free.pop() if free else Http2Stream()
        cdef HttpConfig config = self.config
        Py_INCREF(stream)                        # for `owner`
        s.owner = <void *>stream
        stream.connection = self
        stream.info = self.info
        stream.state = s
        stream.exchange = self.chain.exchanges.take(config, stream)
        stream.exchange.connection_id = self.info.id
        config.cells[HTTP_DOWNSTREAM_RQ_HTTP2_TOTAL] += 1
        self.served += 1
        if self.active == 0:
            self.idle_at = 0
        self.active += 1
        if not self.draining:
            if self.chain.draining and self.chain.is_leaving(self.transport):
                config.cells[HTTP_DOWNSTREAM_CX_DRAIN_CLOSE] += 1
                self.start_drain()
            elif config.max_requests_per_connection and self.served >= config.max_requests_per_connection:
                config.cells[HTTP_DOWNSTREAM_CX_MAX_REQUESTS_REACHED] += 1
                self.start_drain()
        return stream

    cdef void renew_config(self) except *:
        """The listener was changed: from this request on its new settings of HTTP hold, and its gauges. HTTP/2's own stay as they were announced."""
        cdef int64_t *old = self.config.cells
        cdef int64_t *new = self.chain.config.cells
        move_gauges(self.config, self.chain.config, self.info.tls)
        self.config = self.chain.config
        old[HTTP_DOWNSTREAM_CX_HTTP2_ACTIVE] -= 1
        new[HTTP_DOWNSTREAM_CX_HTTP2_ACTIVE] += 1
        old[HTTP_DOWNSTREAM_CX_TX_BYTES_BUFFERED] -= self.transport.queued_bytes
        self.transport.high_watermark = self.config.buffer_limit
        self.transport.count_by(
            &new[HTTP_DOWNSTREAM_CX_RX_BYTES_TOTAL], &new[HTTP_DOWNSTREAM_CX_TX_BYTES_TOTAL], &new[HTTP_DOWNSTREAM_CX_TX_BYTES_BUFFERED],
        )

    cdef void add_websocket_key(self, Exchange exchange) except *:
        """RFC 8441 5 leaves the key out; a HTTP/1 server wants one (RFC 6455 4.1)."""
        cdef HeaderField *field = &exchange.head.fields[exchange.head.known[HEADER_UPGRADE]]
        cdef char key[24]
        cdef int i
        if field.value_length != 9 or (<const char *>(exchange.bytes + field.value_at))[:9].lower() != b"websocket":
            return
        for i in range(21):
            key[i] = BASE64[self.loop.random() & 63]
        key[21] = BASE64[self.loop.random() & 48]        # 16 bytes are 21 letters and 2 bits
        key[22] = key[23] = b'='
        lines_add(&exchange.request_lines, b"sec-websocket-key", 17, key, 24)

    cdef void take_data(self) except *:
        cdef Http2Session session = self.session
        cdef Http2Stream stream = <Http2Stream>session.stream.owner
        cdef Exchange exchange = stream.exchange
        cdef bint ends = session.ends
        if session.data_length:
            exchange.on_request_data(session.data, session.data_length)
            if stream.exchange is not exchange:
                return
            if not stream.paused:
                session.consume(stream.state)
            elif self.loop.is_nearly_full() and not self.transport.paused:
                self.starved = True              # its window is open for more than the worker has room for
                self.transport.pause()
        if ends:
            exchange.on_request_end(NULL, 0)

    cdef void tell(self, StreamState *s) except *:
        """A stream is over, or takes data again."""
        cdef Http2Stream stream = <Http2Stream>s.owner
        cdef Exchange exchange = stream.exchange
        if s.closed:
            exchange.on_downstream_gone()
            if stream.exchange is exchange:
                stream.release()
        elif s.drained:
            s.drained = False
            if not self.transport.is_above():
                exchange.on_downstream_drained()

    cdef void on_protocol_turn(self) except *:
        """What a write found out."""
        cdef StreamState *s = self.session.take_told()
        while s != NULL:
            self.tell(s)
            if self.transport.fd < 0:
                return
            s = self.session.take_told()
        if self.session.failed and not self.leaving:
            self.fail()
        elif (self.gone_away or self.client_leaves) and self.active == 0 and not self.leaving:
            self.leave_when_sent()

    cdef void on_drained(self) except *:
        """The transport has room again: for all streams that have room as well."""
        cdef StreamState *s = self.session.first
        cdef Exchange exchange
        cdef list waiting = []
        self.writer.on_drained()
        while s != NULL:
            if s.owner != NULL and not s.above:
                waiting.append(<Http2Stream>s.owner)
            s = s.next
        for stream in waiting:
            exchange = (<Http2Stream>stream).exchange
            if exchange is not None and (<Http2Stream>stream).connection is self:
                exchange.on_downstream_drained()

    # -- time

    cdef void arm(self) noexcept:
        cdef int64_t at = earlier(earlier(self.idle_at, self.expires_at), earlier(self.head_at, self.drain_at))
        self.loop.set_timer(self.transport, earlier(earlier(at, self.unsent_at), earlier(self.ping_at, self.pong_at)))

    cdef void rest(self) except *:
        """No exchange is left."""
        if self.config.idle_timeout_ms:
            self.idle_at = self.loop.now_ms + self.config.idle_timeout_ms
        self.arm()

    cdef void next_ping(self) noexcept:
        cdef Http2Starter starter = self.starter
        if starter.pings.interval_ms:
            self.ping_at = self.loop.now_ms + starter.pings.interval_ms
            if starter.pings.jitter_ms:
                self.ping_at += self.loop.random() % <uint64_t>(starter.pings.jitter_ms + 1)

    cdef void on_pong(self, bint read_goaway) except *:
        if read_goaway:
            if self.draining:
                self.finish_drain()
        elif self.pong_at:
            self.pong_at = 0
            self.next_ping()
            self.arm()

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        cdef int64_t *cells = self.config.cells
        if self.expires_at and now_ms >= self.expires_at:
            cells[HTTP_DOWNSTREAM_CX_MAX_DURATION_REACHED] += 1
            self.expires_at = 0
            self.drain(True)
        elif self.pong_at and now_ms >= self.pong_at:
            self.session.counts[COUNT_KEEPALIVE_TIMEOUT] += 1
            self.transport.close(CLOSE_LOCAL)
        elif self.drain_at and now_ms >= self.drain_at:
            self.finish_drain()
        elif self.head_at and now_ms >= self.head_at:
            cells[HTTP_DOWNSTREAM_RQ_HEADER_TIMEOUT] += 1
            self.session.fail(NGHTTP2_CANCEL)
            self.writer.touch()
            self.fail()
        elif self.idle_at and now_ms >= self.idle_at:
            cells[HTTP_DOWNSTREAM_CX_IDLE_TIMEOUT] += 1
            self.idle_at = 0
            self.finish_drain()
        elif self.unsent_at and now_ms >= self.unsent_at:
            self.check_unsent(now_ms)
        elif self.ping_at and now_ms >= self.ping_at:
            self.ping_at = 0
            self.pong_at = now_ms + self.starter.pings.timeout_ms
            self.session.ping()
            self.writer.touch()
        if self.transport.fd >= 0 and not self.leaving:
            self.arm()

    cdef void check_unsent(self, int64_t now_ms) except *:
        """Answers that are through with us, and whose client has given no window for them for too long."""
        cdef int64_t limit_ms = self.config.stream_idle_timeout_ms
        cdef StreamState *s = self.session.first
        self.unsent_at = 0
        while s != NULL:
            if s.owner == NULL and not s.closed and not s.reset and self.session.unsent(s):
                if now_ms - s.moved_ms >= limit_ms:
                    self.session.counts[COUNT_TX_FLUSH_TIMEOUT] += 1
                    self.session.cancel(s, NGHTTP2_INTERNAL_ERROR)
                    self.writer.touch()
                else:
                    self.unsent_at = earlier(self.unsent_at, s.moved_ms + limit_ms)
            s = s.next

    # -- the end

    cdef void drain(self, bint close_idle) except *:
        if self.leaving:
            return
        if not self.draining:
            self.config.cells[HTTP_DOWNSTREAM_CX_DRAIN_CLOSE] += 1
        if close_idle and self.active == 0:
            self.finish_drain()
        elif not self.draining:
            self.start_drain()

    cdef void start_drain(self) except *:
        """RFC 9113 6.8: streams may still be under way to us. The answer to a PING tells that the client knows."""
        self.draining = True
        self.session.announce_goaway()           # with a PING behind it
        self.drain_at = self.loop.now_ms + max(self.starter.drain_ms, 1)
        self.arm()
        self.writer.touch()

    cdef void finish_drain(self) except *:
        self.draining = True
        self.drain_at = 0
        if not self.gone_away:
            self.gone_away = True
            self.session.finish_goaway()
            self.writer.touch()
        if self.active == 0:
            self.leave_when_sent()

    cdef void leave_when_sent(self) except *:
        """The last answers may still wait for the client's windows."""
        self.writer.flush()
        if self.session.streams == 0:
            self.leave()


cdef class Http2Stream(DownstreamStream):
    def __cinit__(self):
        self.http2 = True

    cdef void release(self) except *:
        """The session's stream and we part."""
        cdef StreamState *s = self.state
        if s != NULL:
            self.state = NULL
            self.connection.session.let_go(s)
            Py_DECREF(self)

    cdef void send_response(self, Exchange x, int status, const char *bytes, Head *head, bint end) except *:
        cdef DownstreamHttp2 connection = self.connection
        if x.tunnel and self.extended:
            status = 200                         # RFC 8441 5.1, where HTTP/1.1 says 101
        connection.writer.touch()
        if not connection.session.respond(self.state, status, bytes, head, x.response_lines.at, x.response_lines.length, end):
            connection.session.cancel(self.state, NGHTTP2_INTERNAL_ERROR)
        if x.config.logs is not None:
            self.note_head(x, bytes, head)

    cdef void note_head(self, Exchange x, const char *bytes, Head *head) except *:
        """The head as it was sent, for a log that may ask."""
        x.response_copy.length = 0
        if head != NULL:
            lines_reserve(&x.response_copy, head.length)
            x.response_copy.length = copy_fields(x.response_copy.at, bytes, head)
        lines_raw(&x.response_copy, x.response_lines.at, x.response_lines.length)

    cdef void send_informational(self, Exchange x, int status, const char *bytes, Head *head) except *:
        if status != 101:                        # RFC 9113 8.6
            self.connection.writer.touch()
            self.connection.session.inform(self.state, status, bytes, head)

    cdef void send_data(self, Exchange x, const char *data, size_t length) except *:
        self.connection.writer.lend(self.state, data, length)

    cdef void send_end(self, Exchange x, const char *trailers, size_t length) except *:
        self.connection.writer.end(self.state, trailers, length)

    cdef void flush(self) except *:
        self.connection.loop.flush()

    cdef void pause_request(self) except *:
        self.paused = True
        if self.state != NULL:
            self.connection.session.hold(self.state)

    cdef void resume_request(self) except *:
        cdef DownstreamHttp2 connection = self.connection
        self.paused = False
        if self.state != NULL and self.state.unconsumed:
            connection.session.consume(self.state)
            connection.writer.touch()
        if connection.starved:
            connection.starved = False
            connection.transport.resume()

    cdef bint is_above(self) noexcept:
        cdef DownstreamHttp2 connection = self.connection
        # Near the worker's limit any queue is too much.
        cdef size_t limit = 0 if connection.loop.is_nearly_full() else self.exchange.config.buffer_limit
        return connection.session.is_above(self.state, limit, connection.loop.is_pressed()) or connection.transport.is_above()

    cdef void abort(self, Exchange x) except *:
        self.connection.writer.touch()
        self.connection.session.cancel(self.state, NGHTTP2_INTERNAL_ERROR)

    cdef void finish(self, Exchange x) except *:
        cdef DownstreamHttp2 connection = self.connection
        cdef Exchange kept = x                   # ours may be the last reference
        cdef StreamState *s = self.state
        if s != NULL and not (s.end_given or s.reset or s.closed):
            connection.writer.touch()
            connection.session.cancel(s, NGHTTP2_CANCEL)
        if self.paused:
            self.resume_request()
        if s != NULL and x.config.stream_idle_timeout_ms and connection.session.unsent(s):
            s.moved_ms = connection.loop.now_ms
            if connection.unsent_at == 0:
                connection.unsent_at = s.moved_ms + x.config.stream_idle_timeout_ms
                connection.arm()
        self.exchange = None
        self.release()
        self.connection = None
        self.info = None
        self.extended = False
        if len(connection.starter.free) < FREE_STREAMS:
            connection.starter.free.append(self)
        connection.chain.exchanges.give(kept)
        connection.active -= 1
        if connection.active == 0 and connection.transport.fd >= 0 and not connection.leaving:
            connection.rest()
            if connection.gone_away or connection.client_leaves:
                connection.loop.make_ready(connection.transport)

    cdef void count_underscores(self, bint rejected) noexcept:
        self.connection.session.counts[COUNT_REJECTED_WITH_UNDERSCORES if rejected else COUNT_DROPPED_HEADERS_WITH_UNDERSCORES] += 1

    cdef void describe(self, Facts *facts) noexcept:
        describe_addresses(self.info, facts)
        facts.minor_version = 2


cdef inline int64_t earlier(int64_t a, int64_t b) noexcept:
    return b if a == 0 or (b and b < a) else a
