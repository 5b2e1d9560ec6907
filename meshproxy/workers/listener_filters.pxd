"""The listener filters themselves."""

from libc.stdint cimport int64_t
from meshproxy.codecs.proxyproto cimport ProxyHeader
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.workers.inspect cimport Inspection, ListenerFilter

cdef class TlsInspector(ListenerFilter):
    cdef int64_t *cells
    cdef bint ja3, ja4

cdef class HttpInspector(ListenerFilter):
    cdef int64_t *cells

cdef class ProxyProtocol(ListenerFilter):
    cdef int64_t *cells
    cdef bint optional                   # a connection may come without a header
    cdef bint allowed[3]                 # by version
    cdef set kept                        # types of TLVs; None = all
    cdef int without_header(self) noexcept
    cdef void take_addresses(self, ConnectionInfo info, const ProxyHeader *header) except *
    cdef list take_tlvs(self, const ProxyHeader *header)

cdef class OriginalDst(ListenerFilter):
    pass
