"""The TLS that a cluster originates."""

from libc.stdint cimport int64_t
from meshproxy.balance.cluster cimport Host
from meshproxy.proxy.exchange cimport Exchange
from meshproxy.workers.pool cimport TlsClient
from meshproxy.workers.tls_context cimport SessionStore, TlsContext

cdef class UpstreamSecurity(TlsClient):
    cdef object __weakref__
    cdef readonly TlsContext context
    cdef int64_t *cells                  # the CLUSTER block
    cdef int64_t *ssl_cells
    cdef object stores                   # Host: SessionStore, for as long as the host lives
    cdef use(self, TlsContext context)
    cdef bytes server_name(self, Host host, Exchange exchange)
    cdef SessionStore store_of(self, Host host)
