"""HTTP/1 from clients: reads requests, one exchange after the other, and writes their responses.

A connection that rests holds no buffer. While a response is under way, what a pipelining client sends ahead is kept and reading pauses.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove
from meshproxy.codecs.http1 cimport *
from meshproxy.codecs.http1_compose cimport *
from meshproxy.proxy.lines cimport lines_add, lines_find, lines_raw
from meshproxy.proxy.exchange cimport PHASE_LOCAL
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.runtime cimport CLOSE_LOCAL, CLOSE_REMOTE, Protocol
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.telemetry.facts cimport Facts
from meshproxy.workers.connection_log cimport describe_addresses
from meshproxy.workers.http_chain cimport CODEC_AUTO, DELAYED_CLOSE_MS, MAX_FIELDS, count_closed, count_opened, move_gauges
from meshproxy.workers.listener cimport find_local
from meshproxy.workers.net cimport *

cdef enum:
    DISCARD_BYTES = 1 << 20              # of an answered request's body; more, and a close is cheaper

cdef HeaderField request_fields[MAX_FIELDS]
cdef Head request_head
request_head.fields = request_fields
request_head.capacity = MAX_FIELDS


cdef class Http1Starter(HttpStarter):
    def __init__(self, Region region, int slot, int64_t cell):
        """`cell`: where the HTTP1 block begins."""
        self.counts = region.page(slot) + cell

    cdef void start(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *first, size_t length) except *:
        cdef DownstreamHttp1 connection = DownstreamHttp1(chain, transport, info)
        transport.protocol = connection
        connection.open()


cdef class DownstreamHttp1(DownstreamStream):
    def __init__(self, HttpChain chain, Transport transport, ConnectionInfo info):
        self.chain = chain
        self.loop = chain.loop
        self.config = chain.config
        self.transport = transport
        self.info = info
        body_start(&self.decoder, BODY_NONE, 0, 0)

    def __dealloc__(self):
        free(self.partial)
        body_release(&self.decoder)

    # -- the connection

    cdef void open(self) except *:
        cdef int64_t *cells = self.config.cells
        count_opened(self.config, self.info.tls)
        cells[HTTP_DOWNSTREAM_CX_HTTP1_TOTAL] += 1
        cells[HTTP_DOWNSTREAM_CX_HTTP1_ACTIVE] += 1
        if self.config.logs is not None:
            find_local(self.info)
        if self.config.max_connection_duration_ms:
            self.expires_ms = self.loop.now_ms + self.config.max_connection_duration_ms
        self.transport.high_watermark = self.config.buffer_limit
        self.transport.count_by(
            &cells[HTTP_DOWNSTREAM_CX_RX_BYTES_TOTAL], &cells[HTTP_DOWNSTREAM_CX_TX_BYTES_TOTAL], &cells[HTTP_DOWNSTREAM_CX_TX_BYTES_BUFFERED],
        )
        self.rest()

    cdef void on_closed(self, int why, int error) except *:
        cdef Exchange exchange = self.exchange
        if self.transport.grace_over:
            self.config.cells[HTTP_DOWNSTREAM_CX_DELAYED_CLOSE_TIMEOUT] += 1
        self.config.cells[HTTP_DOWNSTREAM_CX_HTTP1_ACTIVE] -= 1
        count_closed(self.config, self.info.tls, why, self.loop.now_us - self.info.opened_us, exchange is not None)
        self.chain.closed(self.transport, self.info, NULL)
        self.loop.count_buffered(-<int64_t>self.partial_capacity)
        free(self.partial)
        self.partial = NULL
        self.partial_length = self.partial_capacity = 0
        if exchange is not None:
            exchange.on_downstream_gone()

    cdef void rest(self) except *:
        """Between exchanges: only the idle timer runs."""
        cdef int64_t at = self.loop.now_ms + self.config.idle_timeout_ms if self.config.idle_timeout_ms else 0
        if self.expires_ms and (at == 0 or self.expires_ms < at):
            at = self.expires_ms
        self.loop.set_timer(self.transport, at)

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        cdef int64_t *cells = self.config.cells
        if self.expires_ms and now_ms >= self.expires_ms:
            cells[HTTP_DOWNSTREAM_CX_MAX_DURATION_REACHED] += 1
            self.expires_ms = 0
            self.drain(True)
        elif self.exchange is not None:
            return                               # it has its own timers; `rest` sets ours again
        elif self.head_started_us and self.config.request_headers_timeout_ms:
            cells[HTTP_DOWNSTREAM_RQ_HEADER_TIMEOUT] += 1
            self.refuse_with(REQUEST_HEAD_TIMEOUT)
        else:
            cells[HTTP_DOWNSTREAM_CX_IDLE_TIMEOUT] += 1
            self.leave()

    cdef void drain(self, bint close_idle) except *:
        if not self.close_after:
            self.close_after = True
            self.config.cells[HTTP_DOWNSTREAM_CX_DRAIN_CLOSE] += 1
        if close_idle and self.exchange is None and self.partial_length == 0:
            self.leave()

    cdef void leave(self) except *:
        """Close in peace: what was sent must not be lost to a reset by bytes that nobody read. Where none can be there, close at once."""
        cdef int64_t grace_ms = self.config.delayed_close_timeout_ms if self.config.delayed_close_timeout_ms else DELAYED_CLOSE_MS
        if not self.body_open and self.partial_length == 0 and not self.transport.readable and self.served:
            self.transport.close_flushed(grace_ms)
        else:
            self.transport.linger(grace_ms)

    # -- requests

    cdef void on_data(self, const char *data, size_t length) except *:
        cdef Exchange exchange = self.exchange
        if exchange is not None and exchange.wants_upgrade:
            exchange.on_request_data(data, length)
        elif self.partial_length:
            self.hold(data, length)
            self.consume_partial()
        else:
            self.consume(data, length)

    cdef void on_protocol_turn(self) except *:
        """An exchange ended while the client had sent more already."""
        if self.partial_length and self.exchange is None:
            self.consume_partial()

    cdef void consume_partial(self) except *:
        """Read from what is held."""
        cdef char *held = self.partial
        cdef size_t length = self.partial_length, capacity = self.partial_capacity
        self.partial = NULL
        self.partial_length = self.partial_capacity = 0
        try:
            self.consume(held, length)
            self.loop.flush()                    # parts of it may be lent
        finally:
            if self.partial == NULL and self.exchange is not None and capacity <= 65536:
                self.partial = held              # likely needed again by a client that pipelines
                self.partial_capacity = capacity
            else:
                self.loop.count_buffered(-<int64_t>capacity)
                free(held)

    cdef void consume(self, const char *data, size_t length) except *:
        cdef Exchange exchange
        cdef size_t used, scanned = self.scanned
        self.scanned = 0
        while self.transport.fd >= 0 and not self.transport.grace_ms:     # while it closes nothing more is served (RFC 9112 9.6)
            if self.body_open:
                used = self.take_body(data, length)
                if self.body_open:
                    return
            elif length == 0:
                return
            elif self.exchange is None and self.transport.is_above():
                self.hold(data, length)          # it asks and does not read: no more answers until it has taken some
                self.transport.pause()
                return
            elif self.exchange is None:
                used = self.take_head(data, length, scanned)
                scanned = 0
                if used == 0:
                    return
            elif self.exchange.wants_upgrade:
                exchange = self.exchange
                exchange.on_request_data(data, length)
                return
            else:
                self.hold(data, length)          # pipelined: its turn comes after this response
                self.transport.pause()
                return
            data += used
            length -= used

    cdef size_t take_head(self, const char *data, size_t length, size_t scanned) except? 0xffffffff:
        """A head, and the start of its exchange; 0 when it is not there in full, or refused."""
        cdef Head *head = &request_head
        cdef Exchange exchange
        cdef size_t head_length
        cdef int verdict = parse_request(head, data, length, scanned, &self.chain.limits)
        if verdict == PARSE_MORE:
            self.hold(data, length)
            self.scanned = length
            if self.head_started_us == 0:
                self.head_started_us = self.loop.now_us
                if self.config.request_headers_timeout_ms:
                    self.loop.set_timer(self.transport, self.loop.now_ms + self.config.request_headers_timeout_ms)
            return 0
        if verdict == ERROR_HTTP2_PREFACE and self.served == 0 and self.chain.codec == CODEC_AUTO and self.chain.http2 is not None:
            self.hand_over(data, length)
            return 0
        if verdict != PARSE_OK:
            self.refuse(verdict)
            return 0
        head_length = head.length
        if head.upgrade and head.known[HEADER_HTTP2_SETTINGS] >= 0 and self.switch_to_http2(data, length, head):
            return 0
        if self.config is not self.chain.config:
            self.renew_config()
        self.config.cells[HTTP_DOWNSTREAM_RQ_HTTP1_TOTAL] += 1
        self.served += 1
        exchange = self.chain.exchanges.take(self.config, self)
        self.exchange = exchange
        exchange.connection_id = self.info.id
        self.info.http_version = head.minor_version
        exchange.load(data, head, self.head_started_us if self.head_started_us else self.loop.now_us)
        self.head_started_us = 0
        self.sent_end = False
        self.body_open = head.body != BODY_NONE
        if self.body_open:
            body_start(&self.decoder, head.body, head.content_length, self.config.max_head_bytes)
        if head.minor_version == 0 and not self.config.accept_http_10:
            self.refuse_version(exchange)
            return head_length
        exchange.begin()
        if not self.body_open and self.exchange is exchange and not exchange.wants_upgrade:
            exchange.on_request_end(NULL, 0)
        return head_length

    cdef bint switch_to_http2(self, const char *data, size_t length, Head *head) except *:
        """`Upgrade: h2c` (RFC 7540 3.2) is ours to grant, and goes to no endpoint. False: the request goes on as HTTP/1."""
        cdef HeaderField *field = &head.fields[head.known[HEADER_UPGRADE]]
        cdef size_t head_length = head.length
        cdef Protocol successor
        if self.chain.codec != CODEC_AUTO or self.chain.http2 is None or self.info.tls or head.body != BODY_NONE:
            return False
        if field.value_length != 3 or (<const char *>(data + field.value_at))[:3].lower() != b"h2c":
            return False
        if not self.chain.http2.upgrade(self.chain, self.transport, self.info, data, head):
            return False
        self.uncount()
        successor = self.transport.protocol
        successor.on_data(data + head_length, length - head_length)
        return True

    cdef void hand_over(self, const char *data, size_t length) except *:
        """The client speaks HTTP/2 by prior knowledge."""
        self.uncount()
        self.chain.http2.start(self.chain, self.transport, self.info, data, length)

    cdef void uncount(self) noexcept:
        """The connection goes on as HTTP/2's, as if it had never been ours."""
        cdef int64_t *cells = self.config.cells
        cells[HTTP_DOWNSTREAM_CX_TOTAL] -= 1
        cells[HTTP_DOWNSTREAM_CX_ACTIVE] -= 1
        if self.info.tls:
            cells[HTTP_DOWNSTREAM_CX_SSL_TOTAL] -= 1
            cells[HTTP_DOWNSTREAM_CX_SSL_ACTIVE] -= 1
        cells[HTTP_DOWNSTREAM_CX_HTTP1_TOTAL] -= 1
        cells[HTTP_DOWNSTREAM_CX_HTTP1_ACTIVE] -= 1

    cdef void refuse_version(self, Exchange exchange) except *:
        self.close_after = True
        exchange.begin_refused()
        exchange.fail(OLD_VERSION)

    cdef void renew_config(self) except *:
        """The listener was changed: from this request on its new settings hold, and its gauges."""
        cdef int64_t *old = self.config.cells
        cdef int64_t *new = self.chain.config.cells
        move_gauges(self.config, self.chain.config, self.info.tls)
        self.config = self.chain.config
        old[HTTP_DOWNSTREAM_CX_HTTP1_ACTIVE] -= 1
        new[HTTP_DOWNSTREAM_CX_HTTP1_ACTIVE] += 1
        old[HTTP_DOWNSTREAM_CX_TX_BYTES_BUFFERED] -= self.transport.queued_bytes
        self.transport.high_watermark = self.config.buffer_limit
        self.transport.count_by(
            &new[HTTP_DOWNSTREAM_CX_RX_BYTES_TOTAL], &new[HTTP_DOWNSTREAM_CX_TX_BYTES_TOTAL], &new[HTTP_DOWNSTREAM_CX_TX_BYTES_BUFFERED],
        )

    cdef size_t take_body(self, const char *data, size_t length) except? 0xffffffff:
        """Body from the bytes that are here, until it ends or more is needed: the decoder is asked also when no bytes are left."""
        cdef Exchange exchange
        cdef size_t used, out_length, taken = 0
        cdef const char *out
        cdef int step
        while self.body_open and self.transport.fd >= 0 and not self.transport.grace_ms:
            exchange = self.exchange
            step = body_step(&self.decoder, data + taken, length - taken, &used, &out, &out_length)
            taken += used
            if step == BODY_DATA:
                if exchange is not None:
                    exchange.on_request_data(out, out_length)
                else:
                    self.discard(out_length)
            elif step == BODY_END:
                self.body_open = False
                if exchange is not None:
                    exchange.on_request_end(self.decoder.trailers, self.decoder.trailers_length)
                else:
                    self.rest()
                if not self.body_open:
                    body_release(&self.decoder)
            elif step == BODY_MORE:
                break
            else:
                self.refuse(step)
                break
        return taken

    cdef void discard(self, size_t length) except *:
        self.discarded += length
        if self.discarded > DISCARD_BYTES:
            self.leave()

    cdef void refuse(self, int error) except *:
        """Bytes that are no request: an answer, a counter, a close."""
        cdef int status = error_status(error)
        self.config.cells[HTTP_DOWNSTREAM_CX_PROTOCOL_ERROR] += 1
        if error == ERROR_BAD_TARGET:
            self.config.cells[HTTP_DOWNSTREAM_RQ_NON_RELATIVE_PATH] += 1
        if self.exchange is None and self.body_open:     # of a request that is answered
            self.leave()
        elif status == 431:
            self.refuse_with(HEAD_TOO_LARGE)
        elif status == 414:
            self.refuse_with(TARGET_TOO_LONG)
        elif status == 501:
            self.refuse_with(BAD_ENCODING)
        else:
            self.refuse_with(BAD_REQUEST)

    cdef void refuse_with(self, int outcome) except *:
        cdef Exchange exchange = self.exchange
        self.close_after = True
        self.partial_length = 0
        if exchange is None:
            exchange = self.chain.exchanges.take(self.config, self)
            self.exchange = exchange
            self.sent_end = False
            exchange.connection_id = self.info.id
            exchange.load_nothing(self.head_started_us if self.head_started_us else self.loop.now_us)
            exchange.begin_refused()
        exchange.fail(outcome)

    cdef void hold(self, const char *data, size_t length) except *:
        cdef size_t need = self.partial_length + length
        cdef char *grown
        if need > self.partial_capacity:
            grown = <char *>realloc(self.partial, need * 2)
            if grown == NULL:
                raise MemoryError(f"no room for {need} bytes of a head")
            self.loop.count_buffered(need * 2 - <int64_t>self.partial_capacity)
            self.partial = grown
            self.partial_capacity = need * 2
        memcpy(self.partial + self.partial_length, data, length)
        self.partial_length = need

    cdef void on_end(self) except *:
        """The client sends no more. In a tunnel that is half the end; else it has gone, as Envoy and nginx see it too."""
        cdef Exchange exchange = self.exchange
        if exchange is not None and exchange.tunnel:
            exchange.on_request_end(NULL, 0)
        else:
            self.transport.close(CLOSE_REMOTE)

    cdef void pause_request(self) except *:
        self.transport.pause()

    cdef void resume_request(self) except *:
        self.transport.resume()

    # -- responses

    cdef bint closes(self, Exchange x) except *:
        """Whether this answer is the connection's last, and says so."""
        cdef HttpConfig config = self.config
        if self.close_after or not x.head.keep_alive or x.head.length == 0:
            return True
        if self.chain.draining and self.chain.is_leaving(self.transport):
            config.cells[HTTP_DOWNSTREAM_CX_DRAIN_CLOSE] += 1
            return True
        if config.max_requests_per_connection and self.served >= config.max_requests_per_connection:
            config.cells[HTTP_DOWNSTREAM_CX_MAX_REQUESTS_REACHED] += 1
            return True
        if self.body_open and x.head.expect_continue and x.bytes_received == 0:
            return True                          # the body may come or not: what follows on this connection is anybody's guess
        if x.wants_upgrade:
            return True                          # refused: what the client may have sent ahead is no HTTP
        return x.phase == PHASE_LOCAL and self.body_open and x.outcome == BODY_TOO_LARGE

    cdef void send_response(self, Exchange x, int status, const char *bytes, Head *head, bint end) except *:
        cdef int framing = FRAME_AS_IS
        cdef char *out
        cdef size_t length
        cdef uint32_t status_line
        self.chunked = self.until_close = False
        if x.tunnel:
            self.close_after = True
            self.add_upgrade(x, bytes, head)
        else:
            self.close_after = self.closes(x)
            if not end and head != NULL and head.body != BODY_LENGTH:
                if x.head.minor_version == 0:
                    self.until_close = self.close_after = True
                else:
                    self.chunked = True
                    framing = FRAME_CHUNKED
            elif end and self.lacks_length(x, status, head):
                lines_raw(&x.response_lines, b"content-length: 0\r\n", 19)     # HTTP/2 says by its framing that there is no body
            if x.head.minor_version == 0 and not self.close_after and x.head.length:
                lines_raw(&x.response_lines, b"connection: keep-alive\r\n", 24)
        out = self.transport.compose((head.length if head != NULL else 0) + x.response_lines.length + COMPOSE_SLACK)
        length = compose_response(
            out, status, bytes, head, x.response_lines.at, x.response_lines.length, framing, self.close_after and not x.tunnel,
        )
        if self.config.logs is not None:
            status_line = 0
            while out[status_line] != b'\n':
                status_line += 1
            x.response_copy.length = 0
            lines_raw(&x.response_copy, out + status_line + 1, length - status_line - 3)
        self.transport.commit(length)

    cdef bint lacks_length(self, Exchange x, int status, Head *head) noexcept:
        """Whether a response without a body has to say so. To HEAD an endpoint's says what it likes, ours what GET would have got."""
        cdef uint32_t length
        if status < 200 or status == 204 or status == 304:
            return False
        if head != NULL:
            return head.content_length < 0 and x.head.method != METHOD_HEAD
        return lines_find(&x.response_lines, b"content-length", 14, &length) == NULL

    cdef void add_upgrade(self, Exchange x, const char *bytes, Head *head) except *:
        cdef int i = head.known[HEADER_UPGRADE]
        if head.status == 101:
            lines_raw(&x.response_lines, b"connection: Upgrade\r\n", 21)
            if i >= 0:
                lines_add(&x.response_lines, b"upgrade", 7, bytes + head.fields[i].value_at, head.fields[i].value_length)

    cdef void send_informational(self, Exchange x, int status, const char *bytes, Head *head) except *:
        cdef char *out
        if x.head.minor_version == 0:
            return                               # RFC 9110 15.2: not to a HTTP/1.0 client
        out = self.transport.compose((head.length if head != NULL else 0) + COMPOSE_SLACK)
        self.transport.commit(compose_response(out, status, bytes, head, NULL, 0, FRAME_AS_IS, False))

    cdef void send_data(self, Exchange x, const char *data, size_t length) except *:
        cdef char *out
        if self.chunked:
            out = self.transport.compose(32)
            self.transport.commit(chunk_line(out, length))
            self.transport.write(data, length)
            self.transport.write(b"\r\n", 2)
        else:
            self.transport.write(data, length)

    cdef void send_end(self, Exchange x, const char *trailers, size_t length) except *:
        cdef char *out
        if self.sent_end:
            return
        self.sent_end = True
        if x.tunnel:
            self.transport.half_close()
        elif self.chunked:
            out = self.transport.compose(length + 16)
            memcpy(out, b"0\r\n", 3)
            if length:
                memcpy(out + 3, trailers, length)
            memcpy(out + 3 + length, b"\r\n", 2)
            self.transport.commit(length + 5)

    cdef bint is_above(self) noexcept:
        return self.transport.is_above()

    cdef void flush(self) except *:
        self.loop.flush()

    cdef void on_drained(self) except *:
        cdef Exchange exchange = self.exchange
        if exchange is not None:
            exchange.on_downstream_drained()
        elif self.transport.paused:
            self.transport.resume()
            self.loop.make_ready(self.transport)

    cdef void abort(self, Exchange x) except *:
        """The client must see that its response is not whole: a close without the end of the framing."""
        self.exchange = None
        self.transport.close(CLOSE_LOCAL)

    cdef void finish(self, Exchange x) except *:
        """Give the exchange back and go on to the next request, or to the end."""
        if self.exchange is x:
            self.exchange = None
        self.chain.exchanges.give(x)
        if self.transport.fd < 0:
            return
        if self.close_after:
            self.leave()
            return
        self.discarded = 0
        self.rest()
        if self.partial_length:
            self.loop.make_ready(self.transport)
        if self.transport.paused:
            self.transport.resume()

    cdef void count_underscores(self, bint rejected) noexcept:
        cdef int64_t *counts = (<Http1Starter>self.chain.http1).counts
        counts[HTTP1_REQUESTS_REJECTED_WITH_UNDERSCORES_IN_HEADERS if rejected else HTTP1_DROPPED_HEADERS_WITH_UNDERSCORES] += 1

    cdef void describe(self, Facts *facts) noexcept:
        describe_addresses(self.info, facts)
