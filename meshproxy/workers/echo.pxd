"""Terminals that need no endpoint: one sends back what comes, one sends the same to everybody."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.workers.listener cimport Chain
from meshproxy.workers.transport cimport Transport

cdef class Echoing(Protocol):
    cdef Chain chain
    cdef Transport transport
    cdef ConnectionInfo info

cdef class EchoChain(Chain):
    pass

cdef class ResponseChain(Chain):
    cdef bytes body
