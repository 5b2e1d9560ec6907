"""The TLS that a filter chain terminates."""

from libc.stdint cimport int64_t
from meshproxy.workers.listener cimport Secured
from meshproxy.workers.tls_context cimport TlsContext

cdef class DownstreamSecurity(Secured):
    cdef object __weakref__
    cdef readonly TlsContext context
    cdef int64_t *cells                  # the LISTENER block
    cdef int64_t *ssl_cells
    cdef use(self, TlsContext context)
