"""HTTP/2 from clients: one connection, many streams, an exchange each."""

from libc.stdint cimport int64_t
from meshproxy.codecs.http1 cimport Head
from meshproxy.codecs.http2 cimport Http2Options, Http2Session, StreamState
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.exchange cimport DownstreamStream, Exchange, HttpConfig
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.workers.http2_settings cimport Pings
from meshproxy.workers.http2_writer cimport Http2Writer
from meshproxy.workers.http_chain cimport HttpChain, HttpStarter
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.transport cimport Transport

cdef class Http2Starter(HttpStarter):
    cdef int64_t *counts                 # the HTTP2 block
    cdef list free                       # of Http2Stream
    cdef HttpConfig config               # the one that `options` was made of
    cdef Http2Options options
    cdef Pings pings
    cdef int64_t drain_ms
    cdef void take_settings(self, HttpConfig config) except *

cdef class DownstreamHttp2(Protocol):
    cdef Loop loop
    cdef HttpChain chain
    cdef Http2Starter starter
    cdef HttpConfig config
    cdef Transport transport
    cdef ConnectionInfo info
    cdef Http2Session session
    cdef Http2Writer writer
    cdef int64_t active, served          # exchanges
    cdef bint starved                    # reading paused near the worker's limit, because of a paused request
    # All in ms; 0 = off.
    cdef int64_t idle_at, expires_at, head_at, ping_at, pong_at, drain_at
    cdef int64_t unsent_at               # when to look for answers that nobody takes
    cdef bint draining                   # GOAWAY was announced
    cdef bint gone_away                  # and said for good
    cdef bint client_leaves              # it sent GOAWAY
    cdef bint leaving

    cdef void open(self) except *
    cdef bint take_over(self, const char *bytes, Head *head) except *
    cdef void handle(self, int event) except *
    cdef void take_head(self) except *
    cdef Http2Stream new_stream(self, StreamState *s)
    cdef void renew_config(self) except *
    cdef void add_websocket_key(self, Exchange exchange) except *
    cdef void take_data(self) except *
    cdef void tell(self, StreamState *s) except *
    # `read_goaway`: it answers the PING behind our first GOAWAY.
    cdef void on_pong(self, bint read_goaway) except *
    cdef void end_exchanges(self) except *
    cdef void arm(self) noexcept
    cdef void next_ping(self) noexcept
    cdef void start_drain(self) except *
    cdef void finish_drain(self) except *
    cdef void rest(self) except *
    cdef void leave(self) except *
    cdef void leave_when_sent(self) except *
    cdef void fail(self) except *
    cdef void check_unsent(self, int64_t now_ms) except *

cdef class Http2Stream(DownstreamStream):
    cdef DownstreamHttp2 connection
    cdef StreamState *state              # NULL = let go
    cdef Exchange exchange
    cdef bint paused                     # the request: its window stays as it is
    cdef bint extended                   # CONNECT with :protocol
    cdef void release(self) except *
    cdef void note_head(self, Exchange exchange, const char *bytes, Head *head) except *
