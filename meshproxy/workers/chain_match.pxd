"""The choice of a filter chain, compiled."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.workers.listener cimport Chain, ChainChooser

cdef class Step:
    """One decision; its branches are Steps, or what was chosen."""
    cdef int criterion                   # BY_*
    cdef dict branches                   # by the exact value
    cdef object otherwise                # without any of these; None = no chain
    cdef list v4, v6                     # of ranges: (length of the prefix, branches by its bytes), the longest first
    cdef object branch(self, ConnectionInfo info)
    cdef object branch_by_name(self, bytes name)
    cdef object branch_by_protocol(self, list protocols)

cdef class MatchChooser(ChainChooser):
    cdef object root                     # a Step, a Chain, or None
    cdef Chain default
