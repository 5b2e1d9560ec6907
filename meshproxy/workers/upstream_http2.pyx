"""HTTP/2 to endpoints; see the .pxd. A stream's flow control is joined to back-pressure: its window opens as the client takes the bytes."""

import base64
import hashlib

from meshproxy.balance.cluster cimport Cluster
from meshproxy.codecs.http1 cimport *
from meshproxy.codecs.http2 cimport *
from meshproxy.codecs.nghttp2 cimport NGHTTP2_CANCEL, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM
from meshproxy.proxy.lines cimport lines_add, lines_find, strncasecmp
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.retry cimport retry_refused, retry_stale
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.workers.http2_settings cimport pings_of, take_options
from meshproxy.workers.pool cimport HostPool

cdef enum:
    FREE_STREAMS = 1024
    LAST_STREAM = (1 << 30) - 1          # ids of 31 bits, every other one ours (RFC 9113 5.1.1)
    RESPONSE_HEAD_BYTES = 61440          # as in HTTP/1

cdef bytes WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"      # RFC 6455 4.2.2


cdef class Http2Dialer(Dialer):
    def __init__(self, model, Region region, int slot, int64_t cell):
        """`model` is the cluster's; `cell`: where its CLUSTER_HTTP2 block begins."""
        cdef Http2Options *options = &self.options
        settings = model.http2
        take_options(options, settings, model.buffer_limit_bytes)
        options.head_bytes = RESPONSE_HEAD_BYTES
        options.headers = model.max_response_headers
        self.pings = pings_of(settings)
        self.counts = region.page(slot) + cell
        self.streams = settings.max_concurrent_streams
        self.free = []

    cdef UpstreamConnection dial(self, HostPool pool):
        cdef UpstreamHttp2 connection = UpstreamHttp2(pool)
        connection.dialer = self
        return connection

    cdef Http2UpstreamStream take(self, UpstreamHttp2 connection):
        cdef Http2UpstreamStream stream = <Http2UpstreamStream>self.free.pop() if self.free else Http2UpstreamStream()
        stream.connection = connection
        stream.host = connection.host
        stream.info = connection.info
        stream.paused = stream.spoke = False
        return stream

    cdef void give(self, Http2UpstreamStream stream) except *:
        stream.connection = None
        stream.host = None
        stream.info = None
        if len(self.free) < FREE_STREAMS:
            self.free.append(stream)


cdef class Http2UpstreamStream(UpstreamStream):
    # -- the request

    cdef void send_request(self, Exchange x) except *:
        cdef UpstreamHttp2 connection = self.connection
        cdef const char *authority = x.authority
        cdef const char *protocol = NULL
        cdef const char *path = x.path
        cdef const char *found
        cdef uint32_t authority_length = x.authority_length, protocol_length = 0, length = 0
        cdef bint ends = x.head.body == BODY_NONE and not x.wants_upgrade
        found = lines_find(&x.request_lines, b"host", 4, &length)
        if found != NULL:
            authority, authority_length = found, length
        if x.wants_upgrade and x.head.method != METHOD_CONNECT:
            protocol = x.bytes + x.head.fields[x.head.known[HEADER_UPGRADE]].value_at
            protocol_length = x.head.fields[x.head.known[HEADER_UPGRADE]].value_length
        self.state = connection.session.request(
            <void *>self, x.bytes + x.head.method_at, x.head.method_length, path, x.path_length, authority, authority_length, scheme_of(x),
            protocol, protocol_length, x.head.method, x.bytes, &x.head, x.request_lines.at, x.request_lines.length, ends,
        )
        if self.state == NULL:
            raise MemoryError(f"no room for a request head of {x.head.length} bytes")
        connection.writer.touch()

    cdef void send_data(self, const char *data, size_t length) except *:
        self.connection.writer.lend(self.state, data, length)

    cdef void send_end(self, const char *trailers, size_t length) except *:
        cdef UpstreamHttp2 connection = self.connection
        if self.state.end_given:
            return
        connection.writer.end(self.state, trailers, length)
        if self.exchange.tunnel and self.exchange.response_complete:
            self.finish(NULL, 0)

    cdef bint is_above(self) noexcept:
        cdef UpstreamHttp2 connection = self.connection
        # Near the worker's limit any queue is too much.
        cdef size_t limit = 0 if connection.loop.is_nearly_full() else connection.cluster.buffer_limit
        return connection.session.is_above(self.state, limit, connection.loop.is_pressed()) or connection.transport.is_above()

    cdef void flush(self) except *:
        self.connection.loop.flush()

    cdef void reset(self) except *:
        cdef UpstreamHttp2 connection = self.connection
        self.detach()
        connection.end_stream(self)

    cdef void detach(self) except *:
        """Let go of the exchange and the session's stream; what the peer would still do for it, it need not."""
        cdef UpstreamHttp2 connection = self.connection
        cdef StreamState *state = self.state
        connection.count_end(self.exchange)
        connection.active -= 1
        self.exchange = None
        self.state = NULL
        if state != NULL:
            if not state.received_end:
                connection.session.cancel(state, NGHTTP2_CANCEL)
            elif not state.end_given:
                connection.session.cancel(state, NGHTTP2_NO_ERROR)       # answered before we said all
            connection.session.let_go(state)
            connection.writer.touch()
            if self.paused:
                connection.feed()

    # -- the response

    cdef void pause_response(self) except *:
        self.paused = True
        self.connection.session.hold(self.state)

    cdef void resume_response(self) except *:
        self.paused = False
        self.connection.session.consume(self.state)
        self.connection.writer.touch()
        self.connection.feed()

    cdef void on_head(self, const char *bytes, Head *head, bint ends) except *:
        cdef Exchange exchange = self.exchange
        self.spoke = True
        if head.status < 200:
            exchange.on_informational(bytes, head)
            return
        if exchange.wants_upgrade and exchange.head.method != METHOD_CONNECT and head.status < 300:
            self.grant_upgrade(bytes, head)
        exchange.on_response_head(bytes, head)
        if ends and self.exchange is exchange:
            self.finish(NULL, 0)

    cdef void grant_upgrade(self, const char *bytes, Head *head) except *:
        """RFC 8441 5.1: 2xx is HTTP/1's 101. Who asked in HTTP/1 is owed what proves that its key was read (RFC 6455 4.2.2)."""
        cdef Exchange x = self.exchange
        cdef HeaderField *kind = &x.head.fields[x.head.known[HEADER_UPGRADE]]
        cdef int i
        cdef object proof                        # a parameter hides the type `bytes`
        head.status = 101
        head.reason_length = 0
        lines_add(&x.response_lines, b"upgrade", 7, x.bytes + kind.value_at, kind.value_length)
        if x.downstream.http2 or find_field(bytes, head, b"sec-websocket-accept", 20) >= 0:
            return
        i = find_field(x.bytes, &x.head, b"sec-websocket-key", 17)
        if i >= 0:
            proof = accept_of((<const char *>(x.bytes + x.head.fields[i].value_at))[:x.head.fields[i].value_length])
            lines_add(&x.response_lines, b"sec-websocket-accept", 20, <const char *>proof, len(proof))

    cdef void on_body(self, const char *data, size_t length, bint ends) except *:
        cdef Exchange exchange = self.exchange
        if length:
            exchange.on_response_data(data, length)
            if self.exchange is exchange and not self.paused:
                self.connection.session.consume(self.state)
            elif self.exchange is exchange and self.connection.loop.is_nearly_full():
                self.connection.starved = True
                self.connection.transport.pause()
        if ends and self.exchange is exchange:
            self.finish(NULL, 0)

    cdef void finish(self, const char *trailers, size_t length) except *:
        """The endpoint said all. In a tunnel that is half of the end."""
        cdef Exchange exchange = self.exchange
        cdef UpstreamHttp2 connection = self.connection
        if exchange.tunnel and not exchange.request_complete:
            exchange.response_complete = True
            exchange.downstream.send_end(exchange, NULL, 0)
            return
        self.detach()
        exchange.on_response_end(trailers, length)
        connection.end_stream(self)

    cdef void on_told(self) except *:
        """The session has news of the stream: it is closed, or may take more."""
        cdef StreamState *state = self.state
        if not state.closed:
            state.drained = False
            if not self.connection.transport.is_above():
                self.exchange.on_upstream_drained()
        elif state.error_code == NGHTTP2_REFUSED_STREAM:
            self.lose(UPSTREAM_REFUSED, True)
        else:
            self.lose(UPSTREAM_PROTOCOL_ERROR if state.reset else UPSTREAM_REMOTE_RESET, False)

    cdef void lose(self, int outcome, bint may_repeat) except *:
        cdef Exchange exchange = self.exchange
        cdef UpstreamHttp2 connection = self.connection
        self.detach()
        connection.end_stream(self)
        if may_repeat and not exchange.response_started and (
            retry_refused(exchange) if outcome == UPSTREAM_REFUSED else retry_stale(exchange)
        ):
            return
        exchange.on_upstream_reset(outcome, None)


cdef class UpstreamHttp2(UpstreamConnection):
    cdef void established(self) except *:
        cdef Http2Options *options = &self.dialer.options
        self.cluster.cells[CLUSTER_UPSTREAM_CX_HTTP2_TOTAL] += 1
        self.info.http_version = 2
        self.session = Http2Session(False)
        self.writer = Http2Writer(self.loop, self.transport, self.session)
        if not self.session.open(options, self.dialer.counts):
            raise MemoryError("no room for a HTTP/2 session")
        # Until the peer's SETTINGS say otherwise it takes what we allow ourselves, or what it took last time.
        self.limit = self.room = min(<int64_t>options.max_concurrent_streams, self.pool.streams)
        self.ping_at_ms = self.next_ping_ms()
        self.writer.touch()
        self.pool.on_connected(self)
        if self.transport.fd >= 0:
            self.arm()

    cdef int64_t next_ping_ms(self) noexcept:
        """With jitter, so that the connections of a fleet do not ping as one."""
        cdef Http2Dialer dialer = self.dialer
        if not dialer.pings.interval_ms:
            return 0
        return self.loop.now_ms + dialer.pings.interval_ms + (<int64_t>(self.loop.random() >> 1) % dialer.pings.jitter_ms if dialer.pings.jitter_ms else 0)

    cdef bint is_busy(self) noexcept:
        return self.active > 0

    cdef void lost(self, int why, int error) except *:
        cdef HostPool pool = self.pool
        cdef StreamState *state
        cdef list streams = []
        cdef Http2UpstreamStream stream
        cdef bint repeat
        pool.on_gone(self)
        if why == CLOSE_CONNECT_FAILED:
            pool.on_connect_failed(self, error)
        if self.session is not None:
            if self.session.failed and not self.broken:      # it has read why, and was the first to close
                self.broken = True
                self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
            state = self.session.first
            while state != NULL:
                if state.owner != NULL:
                    stream = <Http2UpstreamStream>state.owner
                    stream.state = NULL
                    streams.append(stream)
                state = state.next
            self.writer.abandon()
            for stream in streams:
                # The peer may have closed before it saw the request (as in RFC 9112 9.3.1).
                repeat = not stream.spoke and self.served > 1 and not self.broken
                self.lose_stream(stream, UPSTREAM_PROTOCOL_ERROR if self.broken else UPSTREAM_RESET, repeat)
        pool.refill()

    cdef void lose_stream(self, Http2UpstreamStream stream, int outcome, bint may_repeat) except *:
        """One of many that are lost at once: an exception ends its exchange, not the others. It may be gone by what another's loss led to."""
        cdef Exchange exchange = stream.exchange
        if exchange is None or stream.connection is not self:
            return
        try:
            stream.lose(outcome, may_repeat)
        except Exception:
            self.loop.crash(exchange)

    cdef void feed(self) except *:
        """A paused stream goes on, or is over: read again."""
        if self.starved:
            self.starved = False
            self.transport.resume()

    # -- exchanges

    cdef void attach(self, Exchange exchange) except *:
        cdef Http2UpstreamStream stream = self.dialer.take(self)
        if self.active == 0 and self.dialer.pings.idle_ms and self.loop.now_ms - self.idle_since_ms >= self.dialer.pings.idle_ms:
            self.ping()
        self.count_begin(exchange)
        self.active += 1
        if self.served >= LAST_STREAM:
            self.leaving = True
            self.pool.unlist(self)
        stream.exchange = exchange
        exchange.on_upstream_ready(stream)

    cdef void end_stream(self, Http2UpstreamStream stream) except *:
        self.dialer.give(stream)
        self.room += 1
        if self.transport.fd >= 0:
            self.pool.offer(self)

    cdef void rest(self) except *:
        self.idle_since_ms = self.loop.now_ms
        self.arm()

    cdef void part(self) except *:
        if self.session is not None and not self.session.failed:
            self.session.finish_goaway()
            self.writer.flush()
        self.transport.close(CLOSE_LOCAL)

    # -- reading

    cdef void on_data(self, const char *data, size_t length) except *:
        cdef Http2Session session = self.session
        cdef size_t used
        cdef int event
        session.now_ms = self.loop.now_ms
        session.backlog = self.transport.queue != NULL
        while self.transport.fd >= 0:
            event = session.step(data, length, &used)
            if event == EVENT_MORE:
                break
            data += used
            length -= used
            self.handle(event)
        self.after_reading()

    cdef void handle(self, int event) except *:
        cdef Http2Session session = self.session
        cdef Http2UpstreamStream stream
        if event == EVENT_SETTINGS:
            self.on_settings()
        elif event == EVENT_GOAWAY:
            self.on_goaway(session.last_stream_id)
        elif event == EVENT_PONG:
            self.pong_by_ms = 0
            self.ping_at_ms = self.next_ping_ms()
            self.arm()
        elif session.stream.owner != NULL:
            stream = <Http2UpstreamStream>session.stream.owner
            if event == EVENT_HEAD:
                stream.on_head(session.bytes, session.head, session.ends)
            elif event == EVENT_DATA:
                stream.on_body(session.data, session.data_length, session.ends)
            elif event == EVENT_TRAILERS:
                stream.finish(session.data, session.data_length)
            elif event == EVENT_TOLD:
                stream.on_told()

    cdef void after_reading(self) except *:
        if self.transport.fd < 0:
            return
        if self.session.failed:
            self.fail()
        elif self.session.wants_write():
            self.writer.touch()

    cdef void on_protocol_turn(self) except *:
        """A pump left something to tell, or failed."""
        cdef StreamState *state
        if self.session is None:
            return
        while self.transport.fd >= 0:
            state = self.session.take_told()
            if state == NULL:
                break
            if state.owner != NULL:
                (<Http2UpstreamStream>state.owner).on_told()
        self.after_reading()

    cdef void fail(self) except *:
        """The peer broke the protocol, or a bound: say so and go."""
        self.broken = True
        self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
        self.writer.flush()
        self.transport.close(CLOSE_LOCAL)

    cdef void on_settings(self) except *:
        cdef int64_t limit = min(<int64_t>self.dialer.options.max_concurrent_streams, <int64_t>self.session.max_peer_streams)
        self.room += limit - self.limit
        self.limit = limit
        self.pool.streams = max(limit, 1)
        if self.room <= 0:
            self.pool.unlist(self)
            self.pool.refill()
        elif not self.leaving:
            self.pool.offer(self)

    cdef void on_goaway(self, int last_stream_id) except *:
        """No new streams here. What the peer did not begin is asked for elsewhere."""
        cdef StreamState *state = self.session.first
        cdef Http2UpstreamStream stream
        cdef list refused = []
        if not self.going:
            self.going = True
            self.cluster.cells[CLUSTER_UPSTREAM_CX_CLOSE_NOTIFY] += 1
        while state != NULL:
            if state.owner != NULL and not state.closed and state.id > last_stream_id:
                refused.append(<Http2UpstreamStream>state.owner)
            state = state.next
        self.leaving = True
        self.pool.unlist(self)
        for stream in refused:
            self.lose_stream(stream, UPSTREAM_REFUSED, True)
        if not self.is_busy() and self.transport.fd >= 0:
            self.part()

    cdef void on_end(self) except *:
        self.transport.close(CLOSE_REMOTE)

    cdef void on_drained(self) except *:
        """The transport has room again: for all streams that have room as well."""
        cdef StreamState *state
        cdef Http2UpstreamStream stream
        cdef list waiting = []
        if self.session is None:
            return
        self.writer.on_drained()
        state = self.session.first
        while state != NULL:
            if state.owner != NULL and not state.above:
                waiting.append(<Http2UpstreamStream>state.owner)
            state = state.next
        for stream in waiting:
            if stream.exchange is not None and stream.connection is self:
                stream.exchange.on_upstream_drained()

    # -- time

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        cdef Cluster cluster = self.cluster
        if self.transport.connecting:
            self.transport.shut(CLOSE_CONNECT_FAILED, 0)
            return
        if self.pong_by_ms and now_ms >= self.pong_by_ms:
            self.dialer.counts[COUNT_KEEPALIVE_TIMEOUT] += 1
            self.transport.close(CLOSE_LOCAL)
            return
        if self.ping_at_ms and now_ms >= self.ping_at_ms:
            self.ping()
        if not self.leaving and self.is_expired():
            self.retire()
        elif self.active == 0 and cluster.idle_timeout_ms and now_ms >= self.idle_since_ms + cluster.idle_timeout_ms:
            cluster.cells[CLUSTER_UPSTREAM_CX_IDLE_TIMEOUT] += 1
            self.retire()
        if self.transport.fd >= 0:
            self.arm()

    cdef void ping(self) except *:
        self.ping_at_ms = 0
        self.session.ping()
        self.writer.touch()
        if not self.pong_by_ms:
            self.pong_by_ms = self.loop.now_ms + self.dialer.pings.timeout_ms
            self.arm()

    cdef void arm(self) noexcept:
        """The timer stands at what comes first, or earlier: it looks at all when it fires."""
        cdef int64_t at = 0
        if self.active == 0 and self.cluster.idle_timeout_ms:
            at = self.idle_since_ms + self.cluster.idle_timeout_ms
        if not self.leaving:
            at = earlier(at, self.expires_ms)
        at = earlier(at, self.ping_at_ms)
        at = earlier(at, self.pong_by_ms)
        self.loop.set_timer(self.transport, at)


cdef inline int64_t earlier(int64_t a, int64_t b) noexcept:
    return b if a == 0 or (b and b < a) else a


cdef bytes accept_of(bytes key):
    return base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())


cdef const char *scheme_of(Exchange x) noexcept:
    """Envoy's rule: what X-Forwarded-Proto says when we pass the request on, else how the client came."""
    cdef uint32_t length = 0
    cdef const char *value = lines_find(&x.request_lines, b"x-forwarded-proto", 17, &length)
    cdef int i = x.head.known[HEADER_X_FORWARDED_PROTO]
    if value == NULL and i >= 0 and not x.head.fields[i].hop_by_hop:
        value, length = x.bytes + x.head.fields[i].value_at, x.head.fields[i].value_length
    if value != NULL and length == 5 and strncasecmp(value, b"https", 5) == 0:
        return b"https"
    if value != NULL and length == 4 and strncasecmp(value, b"http", 4) == 0:
        return b"http"
    return b"https" if x.downstream.info.tls else b"http"


cdef int find_field(const char *bytes, const Head *head, const char *name, size_t length) noexcept:
    """Index of a field of that name that goes on; -1 = none."""
    cdef int i
    for i in range(head.count):
        if head.fields[i].name_length == length and not head.fields[i].hop_by_hop:
            if strncasecmp(bytes + head.fields[i].name_at, name, length) == 0:
                return i
    return -1
