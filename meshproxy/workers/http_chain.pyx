"""See the .pxd."""

from cpython.ref cimport Py_DECREF, Py_INCREF
from meshproxy.proxy.runtime cimport CLOSE_REMOTE, Protocol
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, histogram_record

cdef enum:
    FREE_EXCHANGES = 1024
    # For each connection. A client that comes back costs a handshake, some 0.4 ms: so that takes a fifth of a processor at most.
    FAREWELL_MS = 2
    FAREWELL_STEP_MS = 20                # a few are told together: whoever has no more than ten clients tells them at once
    FAREWELL_SHARE = 4                   # of the drain time, at most: the rest is for the last answers


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


cdef class Farewell(Actor):
    def __init__(self, HttpChain chain):
        self.chain = chain
        self.waiting = set(chain.open)
        self.total = len(self.waiting)
        self.began_ms = chain.loop.now_ms
        self.window_ms = min(self.total * FAREWELL_MS, chain.loop.drain_ms // FAREWELL_SHARE)

    cdef void begin(self) except *:
        Py_INCREF(self)
        self.on_timer(self.began_ms)

    cdef void on_timer(self, int64_t now_ms) except *:
        """Tell those whose time comes before the next step."""
        cdef HttpChain chain = self.chain
        cdef int64_t passed_ms = now_ms - self.began_ms + FAREWELL_STEP_MS, left = 0
        cdef Transport transport
        cdef Protocol protocol
        chain.loop.set_timer(self, now_ms + FAREWELL_STEP_MS)    # also for the rest, should one of them raise
        if passed_ms < self.window_ms:
            left = self.total - self.total * passed_ms // self.window_ms
        while len(self.waiting) > left:
            transport = <Transport>self.waiting.pop()
            if transport in chain.open:
                protocol = transport.protocol        # it may let go of it
                protocol.drain(False)
        if left == 0 and chain.farewell is self:
            self.stop()

    cdef void stop(self) except *:
        self.chain.loop.forget_timer(self)
        self.waiting.clear()
        self.chain.farewell = None
        Py_DECREF(self)


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

    def drain(self, bint close_idle):
        """Those at rest are told by their next answer, so each client comes back at once: it must not be all of them. When nobody is to
        come back (`close_idle`), nobody waits."""
        cdef Farewell farewell = self.farewell
        if farewell is not None:
            farewell.stop()
        if close_idle:
            super().drain(True)
        else:
            self.draining = True
            farewell = self.farewell = Farewell(self)
            farewell.begin()

    cdef bint is_leaving(self, Transport transport) except *:
        return self.draining and (self.farewell is None or transport not in self.farewell.waiting)

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
