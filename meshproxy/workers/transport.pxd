"""A stream socket: borrowed bytes in, gathered bytes out, two watermarks. What the bytes mean is its Protocol's business."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.proxy.connection cimport TlsFacts
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.workers.loop cimport Block, Gatherer, Loop, Source

cdef class Splicer:
    """Moves what one socket receives to another without reading it."""
    # The source is readable; called in the place of a read.
    cdef void pull(self) except *
    # The sink takes more.
    cdef void push(self) except *

cdef class Transport(Gatherer):
    cdef Loop loop
    cdef Protocol protocol
    cdef Block *queue                    # what the kernel did not take
    cdef Block *queue_end
    cdef size_t queued_bytes
    cdef size_t high_watermark           # above it `is_above` tells the protocol to stop what feeds this transport
    cdef size_t room                     # and above this: what a peer has earned that empties it in time
    cdef int64_t above_ms                # since when the queue was too long; 0 = it has been empty since
    cdef int64_t received, sent          # bytes of the protocol's, in plaintext; what was spliced apart
    cdef int64_t *rx_total               # cells of the owner's block
    cdef int64_t *tx_total
    cdef int64_t *tx_buffered
    cdef Splicer outlet                  # takes what comes here, unread; None = the protocol reads
    cdef Splicer inlet                   # has more to send here than the queue; None = nobody
    cdef bint opening                    # the kernel still connects
    cdef bint connecting                 # the protocol was not told `on_connected` yet: the kernel connects, or a handshake runs
    cdef bint paused                     # reading
    cdef bint readable                   # an edge came that nobody has read to its end
    cdef bint ending                     # epoll told of the peer's end or of an error: reads go on until that is met
    cdef bint above                      # the high watermark was crossed
    cdef bint watches_out
    cdef bint read_ended                 # the peer's end was seen and told
    cdef bint write_failed
    cdef bint close_after_flush
    cdef bint half_close_after_flush
    cdef int64_t grace_ms                # while closing: how long the peer has for each step
    cdef size_t unsent                   # when the grace was last looked at
    cdef bint grace_over
    cdef bint lingering                  # only waits for the peer's end; what comes is thrown away

    cdef void open(self, int fd, bint connecting) except *
    cdef TlsFacts facts(self)            # what the handshake told; None = plaintext
    cdef void count_by(self, int64_t *rx_total, int64_t *tx_total, int64_t *tx_buffered) noexcept
    cdef void pause(self) noexcept
    cdef void resume(self) except *
    # Room for `need` composed bytes in this event's scratch. `commit` sends the first `used` of them; nothing else may come between the two.
    cdef char *compose(self, size_t need) except NULL
    cdef void commit(self, size_t used) except *
    # Send borrowed bytes: copied only if the kernel does not take them by the end of this event.
    cdef void write(self, const char *data, size_t length) except *
    cdef bint is_above(self) noexcept
    cdef size_t limit(self) noexcept
    cdef void half_close(self) except *
    cdef void close(self, int why) except *
    # Close when all is sent; a peer that takes nothing for `grace_ms` is cut.
    cdef void close_flushed(self, int64_t grace_ms) except *
    # Send what is queued, say the end, throw away what still comes, close at the peer's end; `grace_ms` for each step.
    cdef void linger(self, int64_t grace_ms) except *
    cdef void start_grace(self, int64_t grace_ms) noexcept
    cdef bint moved(self) noexcept
    # What a transport that secures its bytes does otherwise: begin once the kernel has connected, take what was read and the peer's end.
    cdef void on_opened(self) except *
    cdef void take(self, const char *data, size_t length) except *
    cdef void take_end(self) except *
    cdef void read_once(self) except *
    cdef void shut_if_dead(self) except *
    cdef void add_slice(self, char *at, size_t length) noexcept
    cdef void fail_write(self) except *
    cdef void watch_out(self) noexcept
    cdef void enqueue(self, const char *data, size_t length) except *
    cdef void count_queued(self, int64_t change) noexcept
    cdef void send_queue(self) except *
    cdef void take_from_queue(self, size_t sent) noexcept
    cdef void drop_queue(self) noexcept
    cdef void finish_flush(self) except *
    cdef void shut(self, int why, int error) except *
