"""See the .pxd."""

from meshproxy.proxy.runtime cimport CLOSE_REMOTE
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, histogram_record

cdef enum:
    FREE_EXCHANGES = 1024


cdef class ExchangePool:
    def __init__(self, Loop loop):
        self.loop = loop
        self.free = []

    cdef Exchange take(self, HttpConfig config, DownstreamStream stream):
        cdef Exchange exchange = <Exchange>self.free.pop() if self.free else Exchange()
        exchange.runtime = self.loop
        exchange.config = config
        exchange.downstream = stream
        return exchange

    cdef void give(self, Exchange exchange) except *:
        exchange.clear()
        if len(self.free) < FREE_EXCHANGES:
            self.free.append(exchange)
        else:
            self.loop.forget_timer(exchange)


cdef class HttpStarter:
    cdef void start(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *first, size_t length) except *:
        pass

    cdef bint upgrade(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *bytes, Head *head) except *:
        return False


cdef class HttpChain(Chain):
    def __init__(self, Loop loop, model, Region region, int slot, int64_t listener_cell, tls, list filters,
                 HttpConfig config, ExchangePool exchanges, HttpStarter http1, HttpStarter http2):
        super().__init__(loop, model, region, slot, listener_cell, tls, filters)
        self.exchanges = exchanges
        self.http1 = http1
        self.http2 = http2
        self.renew(model, config)

    def renew(self, model, HttpConfig config):
        """Open connections take the new settings with their next request."""
        self.model = model
        self.config = config
        self.codec = ("auto", "http1", "http2").index(model.terminal.codec)
        self.limits.head_bytes = config.max_head_bytes
        self.limits.headers = min(config.max_headers, MAX_FIELDS)
        self.limits.target_bytes = config.max_head_bytes
        self.limits.allow_http_10 = True         # read, to be refused in words
        self.limits.allow_absolute_form = config.allow_absolute_url

    cdef void serve(self, Transport transport, ConnectionInfo info) except *:
        """By ALPN where there is one; the HTTP/1 side hands over what turns out to begin with HTTP/2's preface."""
        if self.codec == CODEC_HTTP2 or (self.codec == CODEC_AUTO and info.tls_facts is not None and info.alpn == b"h2"):
            self.http2.start(self, transport, info, NULL, 0)
        else:
            self.http1.start(self, transport, info, NULL, 0)


cdef void count_opened(HttpConfig config, bint tls) noexcept:
    config.cells[HTTP_DOWNSTREAM_CX_TOTAL] += 1
    config.cells[HTTP_DOWNSTREAM_CX_ACTIVE] += 1
    if tls:
        config.cells[HTTP_DOWNSTREAM_CX_SSL_TOTAL] += 1
        config.cells[HTTP_DOWNSTREAM_CX_SSL_ACTIVE] += 1


cdef void move_gauges(HttpConfig old, HttpConfig new, bint tls) noexcept:
    old.cells[HTTP_DOWNSTREAM_CX_ACTIVE] -= 1
    new.cells[HTTP_DOWNSTREAM_CX_ACTIVE] += 1
    if tls:
        old.cells[HTTP_DOWNSTREAM_CX_SSL_ACTIVE] -= 1
        new.cells[HTTP_DOWNSTREAM_CX_SSL_ACTIVE] += 1


cdef void count_closed(HttpConfig config, bint tls, int why, int64_t lived_us, bint active) noexcept:
    """`active`: a request was under way."""
    cdef int64_t *cells = config.cells
    cdef bint remote = why == CLOSE_REMOTE
    cells[HTTP_DOWNSTREAM_CX_ACTIVE] -= 1
    if tls:
        cells[HTTP_DOWNSTREAM_CX_SSL_ACTIVE] -= 1
    cells[HTTP_DOWNSTREAM_CX_DESTROY] += 1
    cells[HTTP_DOWNSTREAM_CX_DESTROY_REMOTE if remote else HTTP_DOWNSTREAM_CX_DESTROY_LOCAL] += 1
    histogram_record(&cells[HTTP_DOWNSTREAM_CX_LENGTH_MS], lived_us)
    if active:
        cells[HTTP_DOWNSTREAM_CX_DESTROY_ACTIVE_RQ] += 1
        cells[HTTP_DOWNSTREAM_CX_DESTROY_REMOTE_ACTIVE_RQ if remote else HTTP_DOWNSTREAM_CX_DESTROY_LOCAL_ACTIVE_RQ] += 1
