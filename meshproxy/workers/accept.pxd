"""Listening sockets of this worker."""

from meshproxy.workers.listener cimport Listener
from meshproxy.workers.loop cimport Loop, Source

cdef class Acceptor(Source):
    cdef Loop loop
    cdef Listener listener
    cdef readonly bint shared            # all workers watch the same socket
    cdef bint accept_one(self) except *
    cdef void wait_for_descriptors(self) except *
