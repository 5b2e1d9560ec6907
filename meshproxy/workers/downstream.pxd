"""HTTP/1 from clients: one connection, one exchange at a time."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.codecs.http1 cimport BodyDecoder, Head, Limits
from meshproxy.proxy.exchange cimport DownstreamStream, Exchange, HttpConfig
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.net cimport Sockaddr
from meshproxy.workers.transport cimport Transport

cdef class ExchangePool:
    cdef Loop loop
    cdef list free
    cdef Exchange take(self, HttpConfig config, DownstreamStream stream)
    cdef void give(self, Exchange exchange) except *

cdef class Connections:
    """The downstream connections of one listener in this worker."""
    cdef object __weakref__
    cdef Loop loop
    cdef ExchangePool exchanges
    cdef readonly HttpConfig config
    cdef readonly object model           # model.Listener
    cdef Limits limits
    cdef set open                        # of DownstreamHttp1
    cdef int64_t *cells                  # the LISTENER block
    cdef char *pages
    cdef int64_t first_cell
    cdef int slots
    cdef public int64_t max_worker_connections
    cdef readonly bint draining
    cdef bint wildcard                   # the local address differs from connection to connection
    cdef bytes local_address
    cdef int64_t next_id
    cdef void accept(self, int fd, const Sockaddr *peer) except *

cdef class DownstreamHttp1(DownstreamStream):
    cdef Loop loop
    cdef Connections owner
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
    cdef int remote_port
    cdef bytes local_address
    cdef int64_t id, served, opened_us
    cdef int64_t head_started_us         # of the head that is being received; 0 = none
    cdef int64_t expires_ms

    cdef void open(self, int fd) except *
    cdef void consume(self, const char *data, size_t length) except *
    cdef size_t take_head(self, const char *data, size_t length, size_t scanned) except? 0xffffffff
    cdef size_t take_body(self, const char *data, size_t length) except? 0xffffffff
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
    cdef void add_upgrade(self, Exchange exchange, const char *bytes, Head *head) except *
