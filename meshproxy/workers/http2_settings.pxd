"""The settings of one side of HTTP/2, from the model's to the codec's."""

from libc.stdint cimport int64_t
from meshproxy.codecs.http2 cimport Http2Options

# When a connection asks its peer for a sign of life; 0 = never.
ctypedef struct Pings:
    int64_t interval_ms, jitter_ms, timeout_ms, idle_ms

# `settings` is a model.Http2Settings; `buffer_limit` is what may be held of the other side for want of a taker. `head_bytes`, `headers` and `allow_connect` are for the caller to say: they hold for one side only.
cdef void take_options(Http2Options *options, object settings, int64_t buffer_limit) except *
cdef Pings pings_of(object settings) except *
