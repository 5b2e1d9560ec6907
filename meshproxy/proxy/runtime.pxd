"""What an exchange asks of the process that it runs in: time, timers, chance, a place on the ready list, upstream connections.

`workers.loop.Loop` is the one implementation; it stands above this package, so this is its border.
"""

from libc.stdint cimport int64_t, uint64_t
from meshproxy.balance.cluster cimport Cluster, Host

ctypedef struct Timer:
    Timer *next
    Timer *previous
    int64_t deadline_ms                  # 0 = off
    int64_t filed_ms                     # when the wheel will look at it; 0 = not in the wheel
    int slot                             # of the wheel, while filed
    void *owner                          # the Actor that it is part of

cdef class Actor:
    """Something that the loop calls: for its timer, from the ready list, or because an exception escaped from it.

    Whoever arms an actor's timer takes it off (`forget_timer`) before the last reference goes.
    """
    cdef Timer timer
    cdef bint queued                     # on the ready list
    cdef void on_timer(self, int64_t now_ms) except *
    cdef void on_turn(self) except *
    cdef void on_crash(self) except *

cdef class Runtime:
    cdef readonly int64_t now_us, now_ms # monotonic, as of the present event
    cdef readonly int64_t turn           # number of the loop's present turn
    cdef int64_t unix_offset_us          # wall clock less monotonic clock
    cdef int64_t *server                 # the SERVER block of our page
    cdef public int64_t buffered_limit
    cdef public bint draining            # the process ends: answers tell clients to close

    cdef void set_timer(self, Actor actor, int64_t deadline_ms) noexcept
    cdef void forget_timer(self, Actor actor) noexcept
    cdef void make_ready(self, Actor actor) except *
    cdef uint64_t random(self) noexcept
    cdef const char *http_date(self) noexcept
    cdef void count_buffered(self, int64_t change) noexcept
    # Whether so much is held that slow peers get no more than they have earned.
    cdef bint is_pressed(self) noexcept
    cdef bint is_nearly_full(self) noexcept
    cdef bint is_full(self) noexcept

# Why a transport closed.
cdef enum:
    CLOSE_LOCAL = 0
    CLOSE_REMOTE = 1                     # end of file or reset by the peer
    CLOSE_CONNECT_FAILED = 2

cdef class Protocol:
    """What sits on a transport. Whatever it is lent in `on_data` is good until it returns.

    It is the base of both streams below, because in HTTP/1 a connection and its stream are one object.
    """
    cdef void on_connected(self) except *
    cdef void on_data(self, const char *data, size_t length) except *
    # The peer sends no more. The default is to close.
    cdef void on_end(self) except *
    # The queue fell below its low watermark after it had been above the high one.
    cdef void on_drained(self) except *
    # The socket is gone, whoever closed it; the last call.
    cdef void on_closed(self, int why, int error) except *
    cdef void on_protocol_timer(self, int64_t now_ms) except *
    cdef void on_protocol_turn(self) except *
    # Say goodbye when the present work is done; with `close_idle` also when there is none now.
    cdef void drain(self, bint close_idle) except *
