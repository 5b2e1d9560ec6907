"""See the .pxd. Small amounts are read and written; bulk goes through a pipe inside the kernel, where nothing is copied.

Which is cheaper was measured: a pipe costs two system calls that do more, and wins where a read would fill the worker's buffer. So a direction
starts with reads, goes over to the pipe after some that were full, and comes back when little comes at a time.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from posix.unistd cimport close
from meshproxy.proxy.runtime cimport CLOSE_REMOTE
from meshproxy.workers.loop cimport INBOX_BYTES

cdef extern from "splice.h" nogil:
    int open_pipe(int *ends) noexcept
    ssize_t splice_bytes(int source, int sink, size_t most) noexcept

cdef enum:
    FULL_READS = 2                       # in a row: then a pipe
    SMALL_PULL_BYTES = 16384
    SMALL_PULLS = 8                      # in a row: then reads again
    SPLICE_BYTES = 1 << 20               # of one system call; a pipe of 16 pages takes up to 512 KiB of a fast sender's large ones
    # Of a worker. A user without privileges has pages for 1,024 pipes (/proc/sys/fs/pipe-user-pages-soft), for all workers together.
    PIPES_AT_MOST = 128


cdef class Pipe:
    def __dealloc__(self):
        if self.read_fd:
            close(self.read_fd)
            close(self.write_fd)


cdef class PipePool:
    def __init__(self):
        self.free = []

    cdef Pipe take(self):
        cdef Pipe pipe
        cdef int ends[2]
        if self.free:
            return <Pipe>self.free.pop()
        if self.made == PIPES_AT_MOST or open_pipe(ends):
            return None
        pipe = Pipe.__new__(Pipe)
        pipe.read_fd, pipe.write_fd = ends[0], ends[1]
        self.made += 1
        return pipe

    cdef void give(self, Pipe pipe) except *:
        self.free.append(pipe)

    cdef void throw_away(self, Pipe pipe) noexcept:
        self.made -= 1


cdef class Flow:
    def __init__(self, PipePool pipes):
        self.pipes = pipes

    cdef void start(self, Transport source, Transport sink, int64_t *paused_total, int64_t *resumed_total) except *:
        self.source = source
        self.sink = sink
        self.paused_total = paused_total
        self.resumed_total = resumed_total
        self.moved_ms = source.loop.now_ms
        self.can_splice = self.pipes is not None and type(source) is Transport and type(sink) is Transport

    cdef void stop(self) except *:
        """Lets go of both transports. What is still in the pipe is lost: one of its ends is gone."""
        cdef Transport source = self.source, sink = self.sink
        if source is None:
            return
        self.source = self.sink = None
        if source.outlet is self:
            source.outlet = None
            sink.inlet = None
        if self.pipe is not None:
            self.pipes.throw_away(self.pipe)
            self.pipe = None
            self.held = 0

    # -- by copy

    cdef void on_data(self, const char *data, size_t length) except *:
        cdef Transport sink = self.sink
        cdef bint full = length == INBOX_BYTES
        self.bytes += length
        self.moved_ms = sink.loop.now_ms
        self.full_reads = self.full_reads + 1 if full else 0
        sink.write(data, length)
        sink.loop.flush()
        if self.source is None:
            return
        if self.can_splice and self.full_reads >= FULL_READS:
            if sink.queue == NULL:
                self.splice()
            else:
                self.wants_splice = sink.above = True
                self.pause()
        elif sink.is_above():
            self.pause()

    cdef void on_end(self) except *:
        self.ended = True
        self.sink.half_close()

    cdef void on_drained(self) except *:
        if self.wants_splice and self.sink.queue != NULL:
            self.sink.above = True               # asks to be told again
            return
        if self.wants_splice:
            self.wants_splice = False
            self.splice()
        self.resume()

    cdef void pause(self) noexcept:
        if not self.source.paused:
            self.source.pause()
            self.paused_total[0] += 1

    cdef void resume(self) except *:
        if self.source.paused:
            self.resumed_total[0] += 1
            self.source.resume()

    # -- by splice

    cdef void splice(self) except *:
        """From now on, as long as much comes at a time. Nothing is queued that these bytes could overtake."""
        self.small_pulls = 0
        self.source.outlet = self
        self.sink.inlet = self

    cdef void read_again(self) except *:
        self.full_reads = 0
        self.source.outlet = None
        self.sink.inlet = None

    cdef void pull(self) except *:
        """Only into an empty pipe, so that there is one thing to wait for at a time: the source, or the sink.

        A short count does not tell that the socket is empty, for a pipe may be full with few bytes: one more call has to tell it.
        """
        cdef Transport source = self.source
        cdef ssize_t got
        cdef int error
        if self.held:
            return
        if self.pipe is None:
            self.pipe = self.pipes.take()
            if self.pipe is None:
                self.can_splice = False
                self.read_again()
                source.loop.make_ready(source)
                return
        got = splice_bytes(source.fd, self.pipe.write_fd, SPLICE_BYTES)
        if got > 0:
            self.held = got
            self.bytes += got
            self.moved_ms = source.loop.now_ms
            if source.rx_total != NULL:
                source.rx_total[0] += got
            self.small_pulls = self.small_pulls + 1 if got < SMALL_PULL_BYTES else 0
            self.push()
            return
        error = errno
        if got < 0 and error == EINTR:
            source.loop.make_ready(source)
            return
        self.pipes.give(self.pipe)
        self.pipe = None
        if got < 0 and error == EAGAIN:
            source.readable = False
            if self.small_pulls >= SMALL_PULLS:
                self.read_again()
            return
        source.readable = False
        self.read_again()
        if got == 0:
            source.read_ended = True
            source.take_end()
        else:
            source.shut(CLOSE_REMOTE, error)

    cdef void push(self) except *:
        cdef Transport source = self.source, sink = self.sink
        cdef ssize_t sent
        while self.held:
            sent = splice_bytes(self.pipe.read_fd, sink.fd, self.held)
            if sent > 0:
                self.held -= sent
                if sink.tx_total != NULL:
                    sink.tx_total[0] += sent
            elif errno == EAGAIN:
                if not self.blocked:
                    self.blocked = True
                    self.paused_total[0] += 1
                    sink.watch_out()
                return
            elif errno != EINTR:
                self.pipes.throw_away(self.pipe)
                self.pipe = None
                self.held = 0
                self.read_again()
                sink.fail_write()
        if self.blocked:
            self.blocked = False
            self.resumed_total[0] += 1
        if source.readable and source.fd >= 0:
            source.loop.make_ready(source)
