"""HTTP/1 to endpoints."""

from meshproxy.codecs.http1 cimport BodyDecoder, Limits
from meshproxy.proxy.exchange cimport Exchange
from meshproxy.workers.pool cimport Dialer, HostPool, UpstreamConnection

cdef class Http1Dialer(Dialer):
    pass

cdef class UpstreamHttp1(UpstreamConnection):
    """One connection, which carries one exchange at a time."""
    cdef BodyDecoder decoder
    cdef char *partial                   # of a head that came in pieces
    cdef size_t partial_length, partial_capacity
    cdef int phase
    cdef bint chunked                    # the request's body
    cdef bint until_close                # the response's body ends with the connection
    cdef bint keep                       # the response lets the connection live
    cdef bint request_ended
    cdef bint spoke                      # bytes of the present response came

    cdef void detach(self) except *
    cdef void read_head(self, const char *data, size_t length) except *
    cdef size_t parse_heads(self, const char *data, size_t length, size_t scanned) except? 0xffffffff
    cdef void read_body(self, const char *data, size_t length) except *
    cdef void finish_response(self, const char *trailers, size_t length) except *
    cdef void hold(self, const char *data, size_t length) except *
    cdef void break_off(self, int outcome) except *
    cdef void lose(self, Exchange exchange, int outcome) except *
    cdef const char *target(self, Exchange exchange) noexcept
    cdef size_t target_length(self, Exchange exchange) noexcept
    cdef void add_upgrade(self, Exchange exchange) except *
