"""Hosts the user's filters: each request's run straight down in a greenlet from a pool of parked ones."""

from meshproxy.proxy.exchange cimport Exchange, FilterRunner

cdef extern from "greenlet/greenlet.h":
    ctypedef class greenlet.greenlet [object PyGreenlet, check_size ignore]:
        pass

cdef class Request:
    """What a filter sees of a request; good until its `on_request` returns."""
    cdef Exchange exchange
    cdef int answer_status
    cdef bytes answer_body
    cdef bytes answer_type
    cdef bint done
    cdef bint waits                      # the filter gave control back to the hub before it was done
    cdef bint cancelled
    cdef void check(self) except *

cdef class Greenlets:
    """The worker's parked greenlets, for the filters of all connection managers."""
    cdef list parked                     # at rest
    cdef object hub

cdef class PythonFilters(FilterRunner):
    cdef tuple filters                   # of bound on_request methods
    cdef Greenlets greenlets
    cdef object log
    cdef void finish(self, Request request) except *
