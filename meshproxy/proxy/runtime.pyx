"""The bases of what the loop runs; see the .pxd."""

from libc.string cimport memset
from meshproxy.scoreboard.cells cimport SERVER_BUFFERED_BYTES


cdef class Actor:
    def __cinit__(self):
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void *>self

    cdef void on_timer(self, int64_t now_ms) except *:
        pass

    cdef void on_turn(self) except *:
        pass

    cdef void on_crash(self) except *:
        pass


cdef class Runtime:
    cdef void set_timer(self, Actor actor, int64_t deadline_ms) noexcept:
        pass

    cdef void forget_timer(self, Actor actor) noexcept:
        pass

    cdef void make_ready(self, Actor actor) except *:
        pass

    cdef uint64_t random(self) noexcept:
        return 0

    cdef const char *http_date(self) noexcept:
        return NULL

    cdef void count_buffered(self, int64_t change) noexcept:
        self.server[SERVER_BUFFERED_BYTES] += change

    cdef bint is_pressed(self) noexcept:
        return self.server[SERVER_BUFFERED_BYTES] * 8 > self.buffered_limit

    cdef bint is_nearly_full(self) noexcept:
        return self.server[SERVER_BUFFERED_BYTES] * 10 > self.buffered_limit * 9

    cdef bint is_full(self) noexcept:
        return self.server[SERVER_BUFFERED_BYTES] > self.buffered_limit


cdef class Protocol:
    cdef void on_connected(self) except *:
        pass

    cdef void on_data(self, const char *data, size_t length) except *:
        pass

    cdef void on_end(self) except *:
        pass

    cdef void on_drained(self) except *:
        pass

    cdef void on_closed(self, int why, int error) except *:
        pass

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        pass

    cdef void on_protocol_turn(self) except *:
        pass

    cdef void drain(self, bint close_idle) except *:
        pass
