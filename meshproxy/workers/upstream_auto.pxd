"""HTTP/1 or HTTP/2 to endpoints, as the TLS handshake says (ALPN, RFC 7301)."""

from libc.stdint cimport int64_t
from meshproxy.workers.pool cimport Dialer, UpstreamConnection

cdef class AutoDialer(Dialer):
    cdef Dialer http1, http2

cdef class AutoConnection(UpstreamConnection):
    """A connection until its handshake is done: then one of the two takes it over."""
    cdef AutoDialer dialer
