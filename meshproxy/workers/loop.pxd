"""The worker's event loop: one edge-triggered epoll set under gevent's hub, one read buffer, one wheel of timers."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from meshproxy.proxy.runtime cimport Actor, Runtime, Timer
from meshproxy.scoreboard.region cimport Region, SlotHead
from meshproxy.workers.net cimport epoll_event, iovec

cdef enum:
    INBOX_BYTES = 65536                  # of one read: 64 KiB stay in the second-level cache on their way out
    SCRATCH_BYTES = 262144               # heads composed in one event, to begin with; a larger head makes it grow
    GATHER_SLICES = 64                   # of one sendmsg
    BLOCK_BYTES = 16384                  # of a queue's block

# Memory of a bounded queue, in pieces.
ctypedef struct Block:
    Block *next
    uint32_t start, end, capacity
    char data[1]

cdef class Source(Actor):
    """A file descriptor in the loop's epoll set. The loop holds a reference from `watch` to `unwatch`."""
    cdef int fd
    cdef uint32_t place                  # in the loop's table; 0 = not watched
    cdef void on_events(self, uint32_t events) except *

cdef class Wheel:
    """Timers in three levels of 256 slots: 4 ms, 1 s, 4.4 min. Setting one later costs a store; nothing runs while nothing is filed."""
    cdef Timer *slots[768]
    cdef uint64_t used[12]
    cdef int64_t now_tick
    cdef int64_t count
    cdef void file(self, Timer *timer, int64_t at_ms) noexcept
    cdef void place(self, Timer *timer, int64_t at_ms, int64_t soonest) noexcept
    cdef void unfile(self, Timer *timer) noexcept
    cdef int first_used(self, int level, int after) noexcept
    cdef void cascade(self, int slot) noexcept
    cdef int64_t next_ms(self) noexcept
    cdef Actor pop_due(self, int64_t now_ms)

cdef class Loop(Runtime):
    cdef int ep
    cdef object hub, watcher, waker, log
    cdef Region region                   # held: `server` and `head` point into it
    cdef list table                      # of Source, by place
    cdef uint32_t *generations
    cdef int64_t generations_size
    cdef list free_places
    cdef list ready                      # of Actor
    cdef list ready_next
    cdef Wheel wheel
    cdef int64_t wake_ms
    cdef bint in_turn
    cdef char *inbox
    cdef char *scratch
    cdef size_t scratch_used, scratch_bytes
    cdef Gatherer gatherer               # whose slices are gathered now
    cdef iovec slices[GATHER_SLICES]
    cdef int slice_count
    cdef public int64_t drain_ms         # how long connections of what the configuration has no more may go on
    cdef epoll_event *events
    cdef Block *free_blocks
    cdef int free_block_count
    cdef int64_t date_second
    cdef char date[32]                   # "Tue, 24 Nov 2026 15:00:00 GMT", 29 bytes
    cdef SlotHead *head
    cdef uint64_t random_state[4]
    cdef int64_t last_connection_id

    # Unique in the node while the connection lives, of either side.
    cdef int64_t new_connection_id(self) noexcept
    cdef void watch(self, Source source, uint32_t events) except *
    cdef void rewatch(self, Source source, uint32_t events) noexcept
    cdef void unwatch(self, Source source) except *
    cdef Block *take_block(self, size_t need) except NULL
    cdef void give_block(self, Block *block) noexcept
    cdef void flush(self) except *
    cdef void grow_generations(self) except *
    cdef void grow_scratch(self, size_t need) except *
    cdef void forget(self, Source source) except *
    cdef void dispatch(self, uint32_t place, uint32_t generation, uint32_t events) except *
    cdef void run_ready(self) except *
    cdef void run_timers(self) except *
    cdef void wake_at(self, int64_t at_ms) except *
    cdef void crash(self, Actor actor) except *

cdef class Gatherer(Source):
    """Who can own the gathered slices."""
    cdef void flush_slices(self, iovec *slices, int count) except *
