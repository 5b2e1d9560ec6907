"""A stream socket on the loop. It alone reads, writes and closes; errors end here and become `on_closed`."""

from libc.string cimport memcpy
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE, Protocol
from meshproxy.scoreboard.cells cimport SERVER_OVERLOAD_PAUSED_READING
from meshproxy.workers.loop cimport GATHER_SLICES, INBOX_BYTES
from meshproxy.workers.net cimport *


cdef enum:
    # What waits for a peer that takes nothing, beside what the kernel holds. It doubles, up to the watermark, when it is emptied in time.
    FIRST_ROOM = 65536
    ROOM_GROWS_MS = 1000
    COPIED_BYTES = 2048                  # behind what was composed: one slice is sent by a cheaper system call than two

cdef Protocol NOBODY = Protocol()


cdef class Splicer:
    cdef void pull(self) except *:
        pass

    cdef void push(self) except *:
        pass


cdef class Transport(Gatherer):
    def __init__(self, Loop loop, Protocol protocol):
        self.loop = loop
        self.protocol = protocol
        self.high_watermark = 1 << 20
        self.room = FIRST_ROOM

    def __dealloc__(self):
        # `close` has given the queue back; only an interpreter that ends comes here with one.
        if self.fd >= 0:
            close(self.fd)

    cdef void open(self, int fd, bint connecting) except *:
        """Take over a non-blocking socket. Writability is watched from the start only for a connect; later only after a full buffer."""
        self.fd = fd
        self.opening = self.connecting = connecting
        self.watches_out = connecting
        self.loop.watch(self, EPOLLIN | EPOLLRDHUP | EPOLLET | (EPOLLOUT if connecting else 0))

    cdef TlsFacts facts(self):
        return None

    cdef void count_by(self, int64_t *rx_total, int64_t *tx_total, int64_t *tx_buffered) noexcept:
        """Where bytes are counted from now on: an upstream connection's cluster, a downstream's connection manager."""
        self.rx_total = rx_total
        self.tx_total = tx_total
        self.tx_buffered = tx_buffered
        if tx_buffered != NULL:
            tx_buffered[0] += self.queued_bytes

    # -- events

    # Whoever is called here may close this transport, which lets go of the protocol: a local reference keeps it for the call.

    cdef void on_events(self, uint32_t events) except *:
        cdef Splicer inlet
        cdef int error
        if self.opening:
            if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                return
            error = socket_error(self.fd) if events & (EPOLLERR | EPOLLHUP) else 0
            if error:
                self.shut(CLOSE_CONNECT_FAILED, error)
                return
            self.opening = False
            self.on_opened()
            if self.fd < 0:
                return
        if events & EPOLLOUT:
            inlet = self.inlet
            if self.queue != NULL:
                self.send_queue()
            elif inlet is not None:
                inlet.push()
            if self.fd < 0:
                return
        if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.readable = True
            if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                self.ending = True
            if not self.paused:
                self.read_once()

    cdef void on_opened(self) except *:
        cdef Protocol protocol = self.protocol
        self.connecting = False
        protocol.on_connected()

    cdef void take(self, const char *data, size_t length) except *:
        cdef Protocol protocol = self.protocol
        self.received += length
        protocol.on_data(data, length)

    cdef void take_end(self) except *:
        cdef Protocol protocol = self.protocol
        protocol.on_end()

    cdef void read_once(self) except *:
        """One read. A short one has emptied the socket (epoll(7)), unless the peer's end is told too: that is read next."""
        cdef Splicer outlet = self.outlet
        cdef ssize_t got
        if self.read_ended:
            self.readable = False
            if self.ending:
                self.shut_if_dead()
            return
        if outlet is not None:
            outlet.pull()
            return
        unpoison(self.loop.inbox, INBOX_BYTES)
        got = recv(self.fd, self.loop.inbox, INBOX_BYTES, 0)
        if got > 0:
            if self.rx_total != NULL:
                self.rx_total[0] += got
            if got < INBOX_BYTES and not self.ending:
                self.readable = False
            poison(self.loop.inbox + got, INBOX_BYTES - got)
            if not self.lingering:
                self.take(self.loop.inbox, got)
            if self.loop.slice_count:
                self.loop.flush()
            poison(self.loop.inbox, INBOX_BYTES)
            if self.fd >= 0 and self.readable and not self.paused:
                self.loop.make_ready(self)
        elif got == 0:
            self.readable = False
            self.read_ended = True
            if self.lingering:
                self.shut(CLOSE_LOCAL, 0)
            else:
                self.take_end()
        elif errno == EAGAIN:
            self.readable = False
        elif errno == EINTR:
            self.loop.make_ready(self)
        else:
            self.shut(CLOSE_REMOTE, errno)

    cdef void shut_if_dead(self) except *:
        """After the peer's end was read: an error or a reset ends our side too; a mere half close does not."""
        cdef int error = socket_error(self.fd)
        if error:
            self.shut(CLOSE_REMOTE, error)

    cdef void on_turn(self) except *:
        cdef Protocol protocol = self.protocol
        if self.fd < 0:
            return
        if self.write_failed and (self.paused or self.read_ended):
            self.shut(CLOSE_REMOTE, EPIPE)
            return
        protocol.on_protocol_turn()
        if self.fd >= 0 and self.readable and not self.paused and not self.opening:
            self.read_once()

    cdef void on_timer(self, int64_t now_ms) except *:
        cdef Protocol protocol = self.protocol
        if self.fd < 0:
            return
        if self.grace_ms and self.moved():
            self.loop.set_timer(self, now_ms + self.grace_ms)
        elif self.grace_ms:
            self.grace_over = True
            self.shut(CLOSE_LOCAL, 0)
        else:
            protocol.on_protocol_timer(now_ms)

    cdef void on_crash(self) except *:
        self.shut(CLOSE_LOCAL, 0)

    # -- reading

    cdef void pause(self) noexcept:
        self.paused = True

    cdef void resume(self) except *:
        if self.paused:
            self.paused = False
            if self.readable and self.fd >= 0:
                self.loop.make_ready(self)

    # -- writing

    cdef char *compose(self, size_t need) except NULL:
        cdef Loop loop = self.loop
        if loop.gatherer is not self or loop.scratch_used + need > loop.scratch_bytes or loop.slice_count == GATHER_SLICES:
            loop.flush()
            loop.gatherer = self
            if need > loop.scratch_bytes:
                loop.grow_scratch(need)
        return loop.scratch + loop.scratch_used

    cdef void commit(self, size_t used) except *:
        cdef Loop loop = self.loop
        cdef char *at = loop.scratch + loop.scratch_used
        loop.scratch_used += used
        self.add_slice(at, used)

    cdef void write(self, const char *data, size_t length) except *:
        cdef Loop loop = self.loop
        if length == 0:
            return
        if loop.gatherer is not self or loop.slice_count == GATHER_SLICES:
            loop.flush()
            loop.gatherer = self
        if length <= COPIED_BYTES and loop.slice_count and loop.scratch_used + length <= loop.scratch_bytes:
            memcpy(loop.scratch + loop.scratch_used, data, length)
            self.commit(length)
        else:
            self.add_slice(<char *>data, length)

    cdef void add_slice(self, char *at, size_t length) noexcept:
        cdef Loop loop = self.loop
        cdef int last = loop.slice_count - 1
        self.sent += length
        if last >= 0 and <char *>loop.slices[last].iov_base + loop.slices[last].iov_len == at:
            loop.slices[last].iov_len += length
            return
        loop.slices[last + 1].iov_base = at
        loop.slices[last + 1].iov_len = length
        loop.slice_count += 1

    cdef void flush_slices(self, iovec *slices, int count) except *:
        """One system call for what was gathered; what the kernel does not take is copied to the queue."""
        cdef ssize_t sent = 0
        cdef int i
        if self.fd < 0:
            return
        if self.queue == NULL and not self.opening:
            sent = send_slices(self.fd, slices, count)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.fail_write()
                    return
                sent = 0
            elif self.tx_total != NULL:
                self.tx_total[0] += sent
        for i in range(count):
            if <size_t>sent >= slices[i].iov_len:
                sent -= slices[i].iov_len
                continue
            self.enqueue(<char *>slices[i].iov_base + sent, slices[i].iov_len - sent)
            sent = 0
        if self.queue != NULL:
            self.watch_out()
            if self.close_after_flush:
                self.start_grace(self.grace_ms)
            if self.queued_bytes > self.limit() and not self.above:
                self.above = True
                self.above_ms = self.loop.now_ms
        elif self.close_after_flush or self.half_close_after_flush:
            self.finish_flush()

    cdef void fail_write(self) except *:
        """The peer is gone for writing. What it had sent before, an early answer perhaps, may still be read: reading finds the end.

        Nothing is told from here: whoever writes must not be called back within the write.
        """
        self.drop_queue()
        self.readable = True
        self.write_failed = True
        self.loop.make_ready(self)

    cdef void watch_out(self) noexcept:
        if not self.watches_out:
            self.watches_out = True
            self.loop.rewatch(self, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

    cdef void enqueue(self, const char *data, size_t length) except *:
        cdef Block *block = self.queue_end
        cdef size_t part
        if self.write_failed:
            return
        self.count_queued(length)
        while length:
            if block == NULL or block.end == block.capacity:
                block = self.loop.take_block(length if length < (1 << 20) else (1 << 20))
                if self.queue_end == NULL:
                    self.queue = block
                else:
                    self.queue_end.next = block
                self.queue_end = block
            part = block.capacity - block.end
            part = part if part < length else length
            memcpy(block.data + block.end, data, part)
            block.end += part
            data += part
            length -= part

    cdef void count_queued(self, int64_t change) noexcept:
        self.queued_bytes += change
        self.loop.count_buffered(change)
        if self.tx_buffered != NULL:
            self.tx_buffered[0] += change

    cdef void send_queue(self) except *:
        cdef Protocol protocol = self.protocol
        cdef iovec slices[GATHER_SLICES]
        cdef Block *block
        cdef ssize_t sent
        cdef int count
        while self.queue != NULL:
            count = 0
            block = self.queue
            while block != NULL and count < GATHER_SLICES:
                slices[count].iov_base = block.data + block.start
                slices[count].iov_len = block.end - block.start
                count += 1
                block = block.next
            sent = send_slices(self.fd, slices, count)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.fail_write()
                    return
                break
            if self.tx_total != NULL:
                self.tx_total[0] += sent
            self.take_from_queue(sent)
        if self.queue == NULL and self.above_ms:
            if self.loop.now_ms - self.above_ms <= ROOM_GROWS_MS and self.room < self.high_watermark:
                self.room *= 2
            self.above_ms = 0
        if self.above and self.queued_bytes * 2 <= self.limit():
            self.above = False
            protocol.on_drained()
            if self.fd < 0:
                return
        if self.queue == NULL and (self.close_after_flush or self.half_close_after_flush):
            self.finish_flush()

    cdef void take_from_queue(self, size_t sent) noexcept:
        cdef Block *block
        self.count_queued(-<int64_t>sent)
        while sent:
            block = self.queue
            if block.end - block.start > sent:
                block.start += sent
                return
            sent -= block.end - block.start
            self.queue = block.next
            self.loop.give_block(block)
        if self.queue == NULL:
            self.queue_end = NULL

    cdef void drop_queue(self) noexcept:
        cdef Block *block
        self.count_queued(-<int64_t>self.queued_bytes)
        while self.queue != NULL:
            block = self.queue
            self.queue = block.next
            self.loop.give_block(block)
        self.queue_end = NULL

    cdef size_t limit(self) noexcept:
        return self.room if self.room < self.high_watermark and self.loop.is_pressed() else self.high_watermark

    cdef bint is_above(self) noexcept:
        """True: stop what feeds this transport until `on_drained`. Near the worker's limit any queue is too much."""
        if not self.above and self.queue != NULL and self.loop.is_nearly_full():
            self.above = True
            self.loop.server[SERVER_OVERLOAD_PAUSED_READING] += 1
        return self.above

    # -- ends

    cdef void finish_flush(self) except *:
        if self.close_after_flush:
            self.shut(CLOSE_LOCAL, 0)
        else:
            self.half_close_after_flush = False
            shutdown(self.fd, SHUT_WR)

    cdef void half_close(self) except *:
        """Say that nothing more comes, once all is sent."""
        if self.fd < 0:
            return
        self.half_close_after_flush = True
        if self.loop.gatherer is self:
            self.loop.flush()
        elif self.queue == NULL:
            self.finish_flush()

    cdef void close_flushed(self, int64_t grace_ms) except *:
        if self.fd < 0:
            return
        self.close_after_flush = True
        self.grace_ms = grace_ms
        if self.loop.gatherer is self:           # the last thing here: it may end this object
            self.loop.flush()
        elif self.queue == NULL:
            self.finish_flush()
        else:
            self.start_grace(grace_ms)

    cdef void start_grace(self, int64_t grace_ms) noexcept:
        """From now on the peer has so long for each step: taking some of what is on its way, closing its side."""
        self.grace_ms = grace_ms
        self.unsent = self.queued_bytes + unsent_bytes(self.fd)
        self.loop.set_timer(self, self.loop.now_ms + grace_ms)

    cdef bint moved(self) noexcept:
        """Whether the peer took anything since the last look, also of what the kernel holds."""
        cdef size_t before = self.unsent
        self.unsent = self.queued_bytes + unsent_bytes(self.fd)
        return self.unsent < before

    cdef void linger(self, int64_t grace_ms) except *:
        if self.fd < 0 or self.lingering:
            return
        self.lingering = True
        if self.read_ended:
            self.close_flushed(grace_ms)
        else:
            self.start_grace(grace_ms)
            self.resume()
            self.half_close()

    cdef void close(self, int why) except *:
        self.shut(why, 0)

    cdef void shut(self, int why, int error) except *:
        cdef Protocol protocol
        if self.fd < 0:
            return
        if self.loop.gatherer is self:
            self.loop.gatherer = None
            self.loop.slice_count = 0
            self.loop.scratch_used = 0
        self.drop_queue()
        if self.place:
            self.loop.forget(self)
        self.loop.forget_timer(self)
        close(self.fd)
        self.fd = -1
        protocol = self.protocol
        self.protocol = NOBODY                   # the two no longer hold each other
        protocol.on_closed(why, error)
