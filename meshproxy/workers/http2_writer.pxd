"""What the streams of one HTTP/2 connection give in one event, or in a batch of events, becomes frames all at once."""

from libc.stdint cimport int64_t
from meshproxy.codecs.http2 cimport Http2Session, StreamState
from meshproxy.workers.loop cimport Gatherer, Loop
from meshproxy.workers.transport cimport Transport

cdef class Http2Writer(Gatherer):
    cdef Loop loop
    cdef Transport transport
    cdef Http2Session session
    cdef bint gathering                  # the end of this event will come by
    cdef int64_t counted_bytes           # of the session's queues, in the loop's total

    # The session has something to send. Nothing that is lent may lie in the loop's scratch: its place is used again by the frames.
    cdef void touch(self) except *
    # Borrowed bytes, good until the end of the event.
    cdef void lend(self, StreamState *s, const char *data, size_t length) except *
    cdef void end(self, StreamState *s, const char *trailers, size_t length) except *
    cdef void count_queued(self) noexcept
    # Everything now, as far as windows and transport let it: the connection is about to close.
    cdef void flush(self) except *
    cdef void forget_stale(self) except *
    cdef void pump(self) except *
    # The transport took what kept data back.
    cdef void on_drained(self) except *
    # The connection is gone.
    cdef void abandon(self) except *
