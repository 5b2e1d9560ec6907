"""What a handshake told, read from the certificates only when somebody asks."""

from meshproxy.proxy.connection cimport TlsFacts
from meshproxy.workers.openssl cimport SSL, X509, X509Stack

cdef class HandshakeFacts(TlsFacts):
    cdef X509 *peer                      # NULL = the peer showed none
    cdef X509 *own
    cdef X509Stack *peer_chain
    cdef void tell(self, int place, bytes text) except *
    cdef void load_own(self) except *
    cdef void load_peer(self) except *
    cdef void load_chain(self) except *

cdef HandshakeFacts facts_of(SSL *ssl)
