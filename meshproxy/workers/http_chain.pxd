"""HTTP on a filter chain: its compiled connection manager, and which version a connection speaks."""

from libc.stdint cimport int64_t
from meshproxy.codecs.http1 cimport Head, Limits
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.exchange cimport DownstreamStream, Exchange, HttpConfig
from meshproxy.proxy.runtime cimport Actor
from meshproxy.workers.listener cimport Chain
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.transport cimport Transport

cdef enum:
    MAX_FIELDS = 1024                    # the most that `max_headers` may say
    DELAYED_CLOSE_MS = 1000              # Envoy's default, and ours where it is turned off: nobody may hold a connection for ever

cdef class ExchangePool:
    cdef Loop loop
    cdef list free
    cdef Exchange take(self, HttpConfig config, DownstreamStream stream)
    cdef void give(self, Exchange exchange) except *

cdef class HttpStarter:
    """Makes the connections of one version of HTTP."""
    # Serve an admitted connection. `first` are bytes that were read already, lent.
    cdef void start(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *first, size_t length) except *
    # HTTP/2's: take over a connection that asks for it by `Upgrade: h2c`, with this request. False: it goes on as it was.
    cdef bint upgrade(self, HttpChain chain, Transport transport, ConnectionInfo info, const char *bytes, Head *head) except *

cdef class Farewell(Actor):
    """Tells the open connections of a chain one after the other that they are to end, so that their clients do not all come back at once.

    While it has any to tell it lives by itself.
    """
    cdef HttpChain chain
    cdef set waiting                     # of Transport: not told yet
    cdef int64_t began_ms, window_ms, total
    cdef void begin(self) except *
    cdef void stop(self) except *

cdef class HttpChain(Chain):
    cdef readonly HttpConfig config
    cdef ExchangePool exchanges
    cdef HttpStarter http1, http2
    cdef Limits limits
    cdef int codec                       # CODEC_*
    cdef Farewell farewell               # None = everybody was told
    # Whether a connection of a chain that drains is to end now: its turn has come, or it came too late to have one.
    cdef bint is_leaving(self, Transport transport) except *

cdef enum:
    CODEC_AUTO = 0
    CODEC_HTTP1
    CODEC_HTTP2

# Counters that both versions have.
cdef void count_opened(HttpConfig config, bint tls) noexcept
cdef void count_closed(HttpConfig config, bint tls, int why, int64_t lived_us, bint active) noexcept
# An open connection goes on with other settings, and is counted with them.
cdef void move_gauges(HttpConfig old, HttpConfig new, bint tls) noexcept
