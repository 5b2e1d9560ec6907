"""HTTP/2 to endpoints: many exchanges on one connection."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.codecs.http1 cimport Head
from meshproxy.codecs.http2 cimport Http2Options, Http2Session, StreamState
from meshproxy.proxy.exchange cimport Exchange, UpstreamStream
from meshproxy.workers.http2_settings cimport Pings
from meshproxy.workers.http2_writer cimport Http2Writer
from meshproxy.workers.pool cimport Dialer, UpstreamConnection

cdef class Http2Dialer(Dialer):
    """A cluster's settings for HTTP/2, where its counters are, and streams that rest."""
    cdef Http2Options options
    cdef int64_t *counts                 # the CLUSTER_HTTP2 block
    cdef Pings pings
    cdef list free
    cdef Http2UpstreamStream take(self, UpstreamHttp2 connection)
    cdef void give(self, Http2UpstreamStream stream) except *

cdef class Http2UpstreamStream(UpstreamStream):
    cdef UpstreamHttp2 connection
    cdef StreamState *state              # NULL before the request and after the end
    cdef bint paused
    cdef bint spoke                      # something of the response came
    cdef void detach(self) except *
    cdef void on_head(self, const char *bytes, Head *head, bint ends) except *
    cdef void on_body(self, const char *data, size_t length, bint ends) except *
    cdef void finish(self, const char *trailers, size_t length) except *
    cdef void on_told(self) except *
    cdef void lose(self, int outcome, bint may_repeat) except *
    cdef void grant_upgrade(self, const char *bytes, Head *head) except *

cdef class UpstreamHttp2(UpstreamConnection):
    cdef Http2Dialer dialer
    cdef Http2Session session            # None until it is established
    cdef Http2Writer writer
    cdef int64_t limit                   # of streams at once: ours and the peer's
    cdef int64_t active
    cdef int64_t idle_since_ms
    cdef int64_t ping_at_ms, pong_by_ms  # 0 = none
    cdef bint going                      # the peer said GOAWAY
    cdef bint broken                     # the peer broke the protocol
    cdef bint starved                    # not read from: the worker has no room for what paused streams might still get
    cdef void handle(self, int event) except *
    cdef void on_settings(self) except *
    cdef void on_goaway(self, int last_stream_id) except *
    cdef void after_reading(self) except *
    cdef void fail(self) except *
    cdef void lose_stream(self, Http2UpstreamStream stream, int outcome, bint may_repeat) except *
    cdef void feed(self) except *
    cdef void end_stream(self, Http2UpstreamStream stream) except *
    cdef void ping(self) except *
    cdef int64_t next_ping_ms(self) noexcept
    cdef void arm(self) noexcept
