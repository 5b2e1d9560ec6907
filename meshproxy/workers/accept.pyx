"""Takes connections from a listening socket. It is watched level-triggered: what one turn leaves, the next finds."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.scoreboard.cells cimport SERVER_FD_LIMIT_REACHED
from meshproxy.workers.net cimport *

cdef enum:
    ACCEPTS_PER_EVENT = 16               # then the connections that are there get their turn
    QUEUE_MOST = 65536                   # what `somaxconn` lets wait
    DESCRIPTOR_WAIT_MS = 100             # after the limit of open files was met: a listening socket stays readable and would spin


cdef class Acceptor(Source):
    def __init__(self, Loop loop, Listener listener, int fd, bint shared):
        self.loop = loop
        self.listener = listener
        self.fd = fd
        self.shared = shared
        set_no_delay(fd)                         # what is accepted inherits it; a UNIX socket refuses, and needs none
        self.watch()

    def watch(self):
        """A socket that all workers share wakes one of them (EPOLLEXCLUSIVE)."""
        self.loop.watch(self, EPOLLIN | (EPOLLEXCLUSIVE if self.shared else 0))

    cdef void on_events(self, uint32_t events) except *:
        cdef int i
        for i in range(ACCEPTS_PER_EVENT):
            if not self.accept_one():
                break

    cdef bint accept_one(self) except *:
        cdef Sockaddr peer
        cdef int fd = accept_connection(self.fd, &peer)
        if fd >= 0:
            self.listener.accept(fd, &peer)
            return True
        if errno == EMFILE or errno == ENFILE or errno == ENOMEM or errno == ENOBUFS:
            self.wait_for_descriptors()
            return False
        return errno == ECONNABORTED or errno == EINTR

    cdef void wait_for_descriptors(self) except *:
        self.loop.server[SERVER_FD_LIMIT_REACHED] += 1
        self.loop.unwatch(self)
        self.loop.set_timer(self, self.loop.now_ms + DESCRIPTOR_WAIT_MS)

    cdef void on_timer(self, int64_t now_ms) except *:
        if self.fd >= 0 and self.place == 0:
            self.watch()

    def empty_queue(self):
        """Accept all that waits: before the socket is closed, or its queue would be reset."""
        if self.fd >= 0 and not self.shared:
            for _ in range(QUEUE_MOST):
                if not self.accept_one():
                    break
            self.loop.flush()

    def close(self):
        """Stop listening."""
        if self.fd >= 0:
            self.loop.unwatch(self)
            self.loop.forget_timer(self)
            close(self.fd)
            self.fd = -1


def take_connection(Listener listener, int fd):
    """A connection that somebody else accepted for this listener; `fd` is ours from now on."""
    cdef Sockaddr peer
    peer_address(fd, &peer)
    listener.accept(fd, &peer)
    listener.loop.flush()
