"""Listening sockets of this worker."""

from meshproxy.workers.downstream cimport Connections
from meshproxy.workers.loop cimport Loop, Source

cdef class Acceptor(Source):
    cdef Loop loop
    cdef Connections connections
    cdef readonly bint shared            # all workers watch the same socket
    cdef bint accept_one(self) except *
    cdef void wait_for_descriptors(self) except *
