"""See the .pxd. It takes a transport's place as the one whose slices are gathered.

When the loop asks for them, what was lent goes out as frames from where it lies; but when it is little the session keeps it, and frames are
made at the end of the batch of events: the answers of many endpoints to one client, and the other way round, are then one system call.
"""

from meshproxy.workers.net cimport iovec

cdef enum:
    KEPT_BYTES = 4096                    # are cheaper to copy than to send apart


cdef class Http2Writer(Gatherer):
    def __init__(self, Loop loop, Transport transport, Http2Session session):
        self.loop = loop
        self.transport = transport
        self.session = session

    cdef void touch(self) except *:
        cdef Loop loop = self.loop
        if loop.gatherer is self:
            return
        loop.flush()
        self.forget_stale()
        self.gathering = True
        loop.gatherer = self
        loop.slice_count = 1                     # stands for the frames, so that the loop asks

    cdef void forget_stale(self) except *:
        """An exception ended the event in which we gathered: what was lent is not there any more."""
        if self.gathering:
            self.gathering = False
            self.session.forget_lent()

    cdef void lend(self, StreamState *s, const char *data, size_t length) except *:
        self.touch()
        if not self.session.lend(s, data, length):
            self.flush()
            self.touch()
            self.session.lend(s, data, length)

    cdef void end(self, StreamState *s, const char *trailers, size_t length) except *:
        self.touch()
        self.session.end(s, trailers, length)

    cdef void on_drained(self) except *:
        self.touch()

    cdef void flush_slices(self, iovec *slices, int count) except *:
        cdef StreamState *s = self.session.lent
        cdef size_t lent = 0
        while s != NULL and lent <= KEPT_BYTES:
            lent += s.lent_bytes
            s = s.next_lent
        if lent > KEPT_BYTES:
            self.pump()
        else:
            self.gathering = False
            self.session.settle()
            self.count_queued()
            self.loop.make_ready(self)

    cdef void flush(self) except *:
        cdef Loop loop = self.loop
        if loop.gatherer is self:
            loop.gatherer = None
            loop.slice_count = 0
        else:
            loop.flush()                         # another's frames would be made where ours are, before they have gone
            self.forget_stale()
        self.pump()

    cdef void on_turn(self) except *:
        self.flush()

    cdef void on_crash(self) except *:
        self.transport.on_crash()

    cdef void pump(self) except *:
        cdef Loop loop = self.loop
        cdef Transport transport = self.transport
        cdef Http2Session session = self.session
        cdef int i, pieces
        self.gathering = False
        if transport.fd >= 0 and not transport.lingering:
            session.now_ms = loop.now_ms
            while True:
                session.backlog = transport.queue != NULL
                pieces = session.pump(transport.is_above())
                for i in range(pieces):
                    transport.write(session.out[i].at, session.out[i].length)
                loop.flush()
                if not session.full:
                    break
        session.settle()
        self.count_queued()
        if transport.fd >= 0 and (session.failed or session.told != NULL):
            loop.make_ready(transport)           # nobody is called back from within a write

    cdef void count_queued(self) noexcept:
        cdef int64_t bytes = self.session.queued_bytes
        if bytes != self.counted_bytes:
            self.loop.count_buffered(bytes - self.counted_bytes)
            self.counted_bytes = bytes

    cdef void abandon(self) except *:
        self.session.abandon()
        self.count_queued()
