"""HTTP/1 from clients: one connection, one exchange at a time."""

from libc.stdint cimport int64_t
from meshproxy.codecs.http1 cimport BodyDecoder, Head
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.exchange cimport DownstreamStream, Exchange, HttpConfig
from meshproxy.workers.http_chain cimport HttpChain, HttpStarter
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.transport cimport Transport

cdef class Http1Starter(HttpStarter):
    cdef int64_t *counts                 # the HTTP1 block

cdef class DownstreamHttp1(DownstreamStream):
    cdef Loop loop
    cdef HttpChain chain
    cdef HttpConfig config
    cdef Transport transport
    cdef Exchange exchange
    cdef BodyDecoder decoder
    cdef char *partial                   # of a head that came in pieces, or what a pipelining client sent ahead
    cdef size_t partial_length, partial_capacity
    cdef size_t scanned                  # how much of it was searched for a head's end before
    cdef bint body_open                  # the request's body is not over
    cdef int64_t discarded
    cdef bint close_after                # this is the last exchange
    cdef bint chunked                    # the response's body
    cdef bint until_close                # the response's body ends with the connection
    cdef bint sent_end
    cdef int64_t served
    cdef int64_t head_started_us         # of the head that is being received; 0 = none
    cdef int64_t expires_ms

    cdef void open(self) except *
    cdef void consume(self, const char *data, size_t length) except *
    cdef size_t take_head(self, const char *data, size_t length, size_t scanned) except? 0xffffffff
    cdef size_t take_body(self, const char *data, size_t length) except? 0xffffffff
    cdef bint switch_to_http2(self, const char *data, size_t length, Head *head) except *
    cdef void uncount(self) noexcept
    cdef void hand_over(self, const char *data, size_t length) except *
    cdef void renew_config(self) except *
    cdef void refuse_version(self, Exchange exchange) except *
    cdef void consume_partial(self) except *
    cdef void discard(self, size_t length) except *
    cdef void refuse(self, int error) except *
    cdef void refuse_with(self, int outcome) except *
    cdef void hold(self, const char *data, size_t length) except *
    cdef void rest(self) except *
    cdef void leave(self) except *
    cdef bint closes(self, Exchange exchange) except *
    cdef void drain(self, bint close_idle) except *
    cdef bint lacks_length(self, Exchange exchange, int status, Head *head) noexcept
    cdef void add_upgrade(self, Exchange exchange, const char *bytes, Head *head) except *
