"""Between accept and the choice of a filter chain: listener filters look at a socket's first bytes, and leave them there."""

from libc.stdint cimport int64_t, uint8_t
from meshproxy.proxy.connection cimport ConnectionInfo, IpPort
from meshproxy.workers.listener cimport Inspector, Listener
from meshproxy.workers.loop cimport Loop, Source
from meshproxy.workers.net cimport Sockaddr

cdef extern from "address.h" nogil:
    void make_ip(Sockaddr *to, int family, const uint8_t *ip, int port) noexcept
    void original_destination(int fd, int family, Sockaddr *out) noexcept
    int MSG_PEEK

# What a filter says.
cdef enum:
    LOOK_DONE = 0                        # the next one's turn
    LOOK_MORE = 1                        # it cannot say yet
    LOOK_REFUSED = 2                     # the connection is to be closed

cdef class ListenerFilter:
    """One listener filter, compiled."""
    cdef size_t most                     # how many bytes it may ask for; 0 = it never does
    # Whether it has to see bytes of this connection. If not, it is only told of it, by `look` without any.
    cdef bint wants_bytes(self, ConnectionInfo info) noexcept
    # `data` is all that has come, up to `most`; at least one byte. `ended`: nothing more will, so it has to say what it is.
    cdef int look(self, Inspection inspection, const char *data, size_t length, bint ended) except *

cdef class Waiting:
    """The sockets of this worker that filters look at, the oldest first."""
    cdef Loop loop
    cdef readonly int64_t count
    cdef Inspection oldest, newest
    cdef void add(self, Inspection inspection) except *
    cdef void remove(self, Inspection inspection) noexcept

cdef class Destinations:
    """The listeners of this worker by the address that they are for."""
    cdef dict listeners                  # by (family, IP, port) in 19 bytes
    cdef dict keys                       # by listener
    cdef Listener find(self, const IpPort *place)

cdef class ListenerFilters(Inspector):
    cdef object __weakref__
    cdef Loop loop
    cdef Waiting waiting
    cdef Destinations destinations       # None = every connection is the listener's own
    cdef list filters                    # of ListenerFilter
    cdef int64_t timeout_ms              # 0 = none
    cdef bint continues                  # after the time limit
    cdef void begin(self, Listener listener, int fd, ConnectionInfo info, bint handed) except *
    cdef void pass_on(self, Listener listener, int fd, ConnectionInfo info) except *

cdef class Inspection(Source):
    cdef ListenerFilters owner
    cdef Listener listener
    cdef ConnectionInfo info
    cdef Inspection older, newer         # in `Waiting`
    cdef int at                          # whose turn it is
    cdef bint handed                     # by another listener: it goes no further
    cdef bint ended                      # the peer sends no more
    cdef size_t scanned                  # a filter's own: how much it has seen without a verdict
    cdef size_t taken                    # how many bytes the filter has used up: they are read, so that nobody sees them again
    cdef void advance(self) except *
    cdef ssize_t peek(self) except? -2
    cdef void leave(self) except *
    cdef void finish(self) except *
    cdef void drop(self, int cell) except *
