"""HTTP/1 to endpoints. A connection that rests holds no buffer."""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove
from meshproxy.codecs.http1 cimport *
from meshproxy.codecs.http1_compose cimport COMPOSE_SLACK, FRAME_AS_IS, FRAME_CHUNKED, chunk_line, compose_request
from meshproxy.proxy.lines cimport lines_add, lines_raw
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.retry cimport retry_stale
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport histogram_record
from meshproxy.workers.net cimport *

cdef enum:
    MAX_FIELDS = 1024                    # the most that `max_response_headers` may say
    RESPONSE_HEAD_BYTES = 61440          # as downstream: Envoy's 60 KiB
    TRAILER_BYTES = 61440
    TUNNEL_LINGER_MS = 1000              # for the last bytes of a tunnel to be taken; Envoy's delayed close

cdef enum:
    AT_REST = 0
    AT_HEAD
    AT_BODY
    AT_TUNNEL

cdef HeaderField response_fields[MAX_FIELDS]
cdef Head response_head
cdef Limits response_limits
response_head.fields = response_fields
response_head.capacity = MAX_FIELDS
response_limits.head_bytes = RESPONSE_HEAD_BYTES
response_limits.target_bytes = 0
response_limits.allow_http_10 = True
response_limits.allow_absolute_form = True


cdef class Http1Dialer(Dialer):
    def __init__(self):
        self.streams = 1

    cdef UpstreamConnection dial(self, HostPool pool):
        return UpstreamHttp1(pool)


cdef class UpstreamHttp1(UpstreamConnection):
    def __cinit__(self):
        body_start(&self.decoder, BODY_NONE, 0, 0)

    def __dealloc__(self):
        free(self.partial)
        body_release(&self.decoder)

    # -- the connection

    cdef void established(self) except *:
        self.cluster.cells[CLUSTER_UPSTREAM_CX_HTTP1_TOTAL] += 1
        self.info.http_version = 1
        self.room = 1
        self.pool.on_connected(self)

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        if self.transport.connecting:
            self.transport.shut(CLOSE_CONNECT_FAILED, 0)
        elif self.exchange is None:
            if not self.is_expired():
                self.cluster.cells[CLUSTER_UPSTREAM_CX_IDLE_TIMEOUT] += 1
            self.part()

    cdef void rest(self) except *:
        cdef int64_t at = self.loop.now_ms + self.cluster.idle_timeout_ms if self.cluster.idle_timeout_ms else 0
        if self.expires_ms and (at == 0 or self.expires_ms < at):
            at = self.expires_ms
        self.loop.set_timer(self.transport, at)

    cdef bint is_busy(self) noexcept:
        return self.exchange is not None

    cdef void lost(self, int why, int error) except *:
        cdef Exchange exchange = self.exchange
        cdef HostPool pool = self.pool
        pool.on_gone(self)
        if why == CLOSE_CONNECT_FAILED:
            pool.on_connect_failed(self, error)
        elif exchange is not None:
            self.lose(exchange, UPSTREAM_RESET)
        pool.refill()

    cdef void lose(self, Exchange exchange, int outcome) except *:
        """The connection went away under an exchange."""
        cdef bint stale = not self.spoke and self.served > 1 and outcome == UPSTREAM_RESET
        self.detach()
        if stale and retry_stale(exchange):
            return
        exchange.on_upstream_reset(outcome, None)

    # -- an exchange

    cdef void attach(self, Exchange exchange) except *:
        self.count_begin(exchange)
        self.loop.set_timer(self.transport, 0)
        self.exchange = exchange
        self.phase = AT_HEAD
        self.spoke = self.request_ended = False
        self.keep = True
        exchange.on_upstream_ready(self)

    cdef void detach(self) except *:
        self.count_end(self.exchange)
        self.exchange = None
        self.phase = AT_REST

    cdef void send_request(self, Exchange x) except *:
        cdef size_t need = x.head.length + x.path_length + x.request_lines.length + COMPOSE_SLACK
        cdef char *out = self.transport.compose(need)
        cdef int framing = FRAME_AS_IS
        self.chunked = x.head.body == BODY_CHUNKED
        if self.chunked:
            framing = FRAME_CHUNKED
        if x.wants_upgrade:
            self.add_upgrade(x)
            out = self.transport.compose(need + x.request_lines.length)
        self.transport.commit(compose_request(
            out, x.bytes + x.head.method_at, x.head.method_length, self.target(x), self.target_length(x),
            x.bytes, &x.head, x.request_lines.at, x.request_lines.length, framing,
        ))

    cdef const char *target(self, Exchange x) noexcept:
        return x.bytes + x.head.target_at if x.head.method == METHOD_CONNECT else x.path

    cdef size_t target_length(self, Exchange x) noexcept:
        return x.head.target_length if x.head.method == METHOD_CONNECT else x.path_length

    cdef void add_upgrade(self, Exchange x) except *:
        """Upgrade is hop by hop: said anew on this side."""
        cdef int i = x.head.known[HEADER_UPGRADE]
        if x.head.method != METHOD_CONNECT:
            lines_raw(&x.request_lines, b"connection: Upgrade\r\n", 21)
            lines_add(&x.request_lines, b"upgrade", 7, x.bytes + x.head.fields[i].value_at, x.head.fields[i].value_length)

    cdef void send_data(self, const char *data, size_t length) except *:
        cdef char *out
        if not self.chunked or self.exchange.wants_upgrade:
            self.transport.write(data, length)
            return
        out = self.transport.compose(32)
        self.transport.commit(chunk_line(out, length))
        self.transport.write(data, length)
        self.transport.write(b"\r\n", 2)

    cdef void send_end(self, const char *trailers, size_t length) except *:
        cdef char *out
        self.request_ended = True
        if self.exchange.tunnel:
            self.transport.half_close()
            if self.exchange.response_complete:
                self.finish_response(NULL, 0)
        elif self.chunked and not self.exchange.wants_upgrade:
            out = self.transport.compose(length + 16)
            memcpy(out, b"0\r\n", 3)
            if length:
                memcpy(out + 3, trailers, length)
            memcpy(out + 3 + length, b"\r\n", 2)
            self.transport.commit(length + 5)

    cdef void pause_response(self) except *:
        self.transport.pause()

    cdef void resume_response(self) except *:
        self.transport.resume()

    cdef bint is_above(self) noexcept:
        return self.transport.is_above()

    cdef void flush(self) except *:
        self.loop.flush()

    cdef void reset(self) except *:
        self.detach()
        self.transport.close(CLOSE_LOCAL)

    cdef void on_drained(self) except *:
        cdef Exchange exchange = self.exchange
        if exchange is not None:
            exchange.on_upstream_drained()

    # -- the response

    cdef void on_data(self, const char *data, size_t length) except *:
        cdef Exchange exchange = self.exchange
        if exchange is None:                # an endpoint that speaks without being asked
            self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
            self.transport.close(CLOSE_LOCAL)
            return
        self.spoke = True
        if self.phase == AT_HEAD:
            self.read_head(data, length)
        elif self.phase == AT_BODY:
            self.read_body(data, length)
        else:
            exchange.on_response_data(data, length)

    cdef void read_head(self, const char *data, size_t length) except *:
        cdef Exchange exchange
        cdef size_t scanned = self.partial_length, used
        if scanned:
            self.hold(data, length)
            data = self.partial
            length = self.partial_length
        used = self.parse_heads(data, length, scanned)
        if self.phase == AT_HEAD and self.exchange is not None:
            if data == self.partial:             # keep what is not used yet
                memmove(self.partial, self.partial + used, length - used)
                self.partial_length = length - used
            else:
                self.hold(data + used, length - used)
            return
        self.partial_length = 0
        if self.exchange is None or self.transport.fd < 0:
            return
        if self.phase == AT_TUNNEL:
            exchange = self.exchange
            if length > used:
                exchange.on_response_data(data + used, length - used)
        else:
            self.read_body(data + used, length - used)

    cdef size_t parse_heads(self, const char *data, size_t length, size_t scanned) except? 0xffffffff:
        """Read 1xx heads and the final one; how many bytes they took. The phase tells whether the final one was there."""
        cdef Exchange exchange = self.exchange
        cdef Head *head = &response_head
        cdef size_t at = 0
        cdef int verdict
        response_limits.headers = self.cluster.max_response_headers
        while True:
            verdict = parse_response(head, data + at, length - at, scanned, &response_limits, exchange.head.method)
            if verdict == PARSE_MORE:
                return at
            if verdict != PARSE_OK:
                self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
                self.break_off(UPSTREAM_PROTOCOL_ERROR)
                return at
            scanned = 0
            if head.status < 200 and not (head.status == 101 and exchange.wants_upgrade):
                if head.status == 101:           # nobody asked for it
                    self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
                    self.break_off(UPSTREAM_PROTOCOL_ERROR)
                    return at
                exchange.on_informational(data + at, head)
                at += head.length
                if self.exchange is not exchange:
                    return at
                continue
            break
        self.until_close = head.body == BODY_UNTIL_CLOSE
        self.keep = head.keep_alive and not self.until_close
        self.phase = AT_BODY
        body_release(&self.decoder)
        body_start(&self.decoder, head.body, head.content_length, TRAILER_BYTES)
        verdict = head.length
        exchange.on_response_head(data + at, head)
        if self.exchange is exchange and exchange.tunnel:
            self.phase = AT_TUNNEL
            self.keep = False
        return at + verdict

    cdef void read_body(self, const char *data, size_t length) except *:
        cdef Exchange exchange = self.exchange
        cdef size_t used
        cdef const char *out
        cdef size_t out_length
        cdef int step
        while self.exchange is exchange:
            step = body_step(&self.decoder, data, length, &used, &out, &out_length)
            data += used
            length -= used
            if step == BODY_DATA:
                exchange.on_response_data(out, out_length)
                if length == 0 and self.decoder.remaining > 0:
                    return
            elif step == BODY_END:
                if length:                       # more than one response to one request: nothing here can be trusted
                    self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
                    self.keep = False
                self.finish_response(self.decoder.trailers, self.decoder.trailers_length)
                return
            elif step == BODY_MORE:
                return
            else:
                self.cluster.cells[CLUSTER_UPSTREAM_CX_PROTOCOL_ERROR] += 1
                self.break_off(UPSTREAM_PROTOCOL_ERROR)
                return

    cdef void finish_response(self, const char *trailers, size_t length) except *:
        """The exchange is served; the connection rests if both sides are at a message's end."""
        cdef Exchange exchange = self.exchange
        cdef bint tunnel = exchange.tunnel
        cdef bint reusable = self.keep and self.request_ended and not self.transport.read_ended and self.transport.queue == NULL
        reusable = reusable and not self.transport.readable      # more behind the end would be read as the next answer
        if not self.keep:
            self.cluster.cells[CLUSTER_UPSTREAM_CX_CLOSE_NOTIFY] += 1
        self.detach()
        self.transport.paused = False
        exchange.on_response_end(trailers, length)
        body_release(&self.decoder)
        if self.transport.fd < 0:
            return
        if reusable:
            self.room = 1
            self.pool.offer(self)
        elif tunnel:
            self.transport.linger(TUNNEL_LINGER_MS)
        else:
            self.transport.close(CLOSE_LOCAL)

    cdef void on_end(self) except *:
        """The endpoint closed. That ends a body of unknown length, half of a tunnel, or else breaks the exchange."""
        cdef Exchange exchange = self.exchange
        cdef size_t used, out_length
        cdef const char *out
        if exchange is None:
            self.transport.close(CLOSE_REMOTE)
        elif self.phase == AT_TUNNEL:
            exchange.response_complete = True
            exchange.downstream.send_end(exchange, NULL, 0)
            if exchange.request_complete and self.exchange is exchange:
                self.finish_response(NULL, 0)
        elif self.phase == AT_BODY and self.until_close:
            self.finish_response(NULL, 0)
        else:
            self.transport.close(CLOSE_REMOTE)

    cdef void break_off(self, int outcome) except *:
        cdef Exchange exchange = self.exchange
        self.detach()
        self.transport.close(CLOSE_LOCAL)
        exchange.on_upstream_reset(outcome, None)

    cdef void hold(self, const char *data, size_t length) except *:
        """Keep the beginning of a head; the codec bounds it."""
        cdef size_t need = self.partial_length + length
        cdef char *grown
        if need > self.partial_capacity:
            grown = <char *>realloc(self.partial, need * 2)
            if grown == NULL:
                raise MemoryError(f"no room for {need} bytes of a head")
            self.partial = grown
            self.partial_capacity = need * 2
        memcpy(self.partial + self.partial_length, data, length)
        self.partial_length = need
