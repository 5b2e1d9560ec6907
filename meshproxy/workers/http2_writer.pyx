"""See the .pxd. It takes a transport's place as the one whose slices are gathered, and hands frames to it when the loop asks for them."""

from meshproxy.workers.net cimport iovec


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
        if self.gathering:
            self.session.forget_lent()           # an exception ended the event in which we gathered: what was lent is not there any more
        self.gathering = True
        loop.gatherer = self
        loop.slice_count = 1                     # stands for the frames, so that the loop asks

    cdef void lend(self, StreamState *s, const char *data, size_t length) except *:
        self.touch()
        if not self.session.lend(s, data, length):
            self.loop.flush()
            self.touch()
            self.session.lend(s, data, length)

    cdef void end(self, StreamState *s, const char *trailers, size_t length) except *:
        self.touch()
        self.session.end(s, trailers, length)

    cdef void on_drained(self) except *:
        self.touch()

    cdef void flush_slices(self, iovec *slices, int count) except *:
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
