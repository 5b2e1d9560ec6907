"""HTTP/1 to endpoints: connections, and a pool of them for each host."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.balance.cluster cimport Cluster, Host
from meshproxy.codecs.http1 cimport BodyDecoder, Limits
from meshproxy.proxy.exchange cimport Exchange, Pools, UpstreamStream
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.net cimport Sockaddr
from meshproxy.workers.transport cimport Transport

cdef class HostPool:
    """The connections of this worker to one host, and who waits for one."""
    cdef Loop loop
    cdef Cluster cluster
    cdef Host host
    cdef Sockaddr address
    cdef list idle                       # of UpstreamHttp1, the one used last at the end
    cdef list waiting                    # of Exchange, first come first
    cdef int64_t connections, connecting
    cdef bint closing                    # the host left its cluster

    cdef void request(self, Exchange exchange) except *
    cdef void connect(self) except *
    cdef void release(self, UpstreamHttp1 connection) except *
    cdef void on_connected(self, UpstreamHttp1 connection) except *
    cdef void on_connect_failed(self, bint timed_out, int error) except *
    cdef void on_gone(self, UpstreamHttp1 connection) except *
    cdef void wait(self, Exchange exchange) except *
    cdef Exchange next_waiting(self)
    cdef void stop_waiting(self, Exchange exchange) except *
    cdef void refill(self) except *

cdef class ClusterPools(Pools):
    """All clusters of the worker by name."""
    cdef Loop loop
    cdef readonly dict clusters

cdef class UpstreamHttp1(UpstreamStream):
    """One connection, which carries one exchange at a time."""
    cdef Loop loop
    cdef HostPool pool
    cdef Cluster cluster
    cdef Transport transport
    cdef BodyDecoder decoder
    cdef char *partial                   # of a head that came in pieces
    cdef size_t partial_length, partial_capacity
    cdef int phase
    cdef bint chunked                    # the request's body
    cdef bint until_close                # the response's body ends with the connection
    cdef bint keep                       # the response lets the connection live
    cdef bint request_ended
    cdef bint spoke                      # bytes of the present response came
    cdef int64_t served                  # requests
    cdef int64_t opened_us
    cdef int64_t expires_ms              # of its longest life; 0 = none
    cdef int priority

    cdef void open(self) except *
    cdef void attach(self, Exchange exchange) except *
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
