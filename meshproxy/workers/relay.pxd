"""Bytes from one transport to another as they are: one direction of a TCP proxy, and of any tunnel."""

from libc.stdint cimport int64_t
from meshproxy.workers.transport cimport Splicer, Transport

cdef class Pipe:
    cdef int read_fd, write_fd

cdef class PipePool:
    """A worker's pipes. None is held by a direction that has nothing under way."""
    cdef list free
    cdef readonly int made
    # None: there are as many as there may be.
    cdef Pipe take(self)
    cdef void give(self, Pipe pipe) except *
    # Of a pipe with bytes in it that nobody will have.
    cdef void throw_away(self, Pipe pipe) noexcept

cdef class Flow(Splicer):
    """One direction, from `source` to `sink`. Their protocols tell it what comes, and `stop` it when one of the two is gone."""
    cdef PipePool pipes
    cdef Transport source, sink
    cdef int64_t bytes                   # taken from the source
    cdef int64_t moved_ms                # when anything came last
    cdef bint ended                      # the source's end was seen
    cdef bint can_splice                 # both sides are sockets in plaintext
    cdef bint wants_splice               # the source waits for an empty queue, to be spliced from then on
    cdef int full_reads, small_pulls
    cdef Pipe pipe
    cdef size_t held                     # in the pipe
    cdef bint blocked                    # the sink takes nothing at present
    cdef int64_t *paused_total           # cells; where it is counted that the source was paused and resumed
    cdef int64_t *resumed_total

    cdef void start(self, Transport source, Transport sink, int64_t *paused_total, int64_t *resumed_total) except *
    # The source's bytes, lent.
    cdef void on_data(self, const char *data, size_t length) except *
    # The source's end.
    cdef void on_end(self) except *
    # The sink's queue is short again.
    cdef void on_drained(self) except *
    cdef void stop(self) except *
    cdef void pause(self) noexcept
    cdef void resume(self) except *
    cdef void splice(self) except *
    cdef void read_again(self) except *
