"""What a peer's certificate must be."""

from libc.stdint cimport int64_t
from meshproxy.workers.openssl cimport SSL, SSL_CTX, X509, X509_STORE_CTX

cdef class PeerCheck:
    cdef readonly object model           # model.PeerValidation
    cdef bint verifies_chain
    cdef bint accepts_untrusted
    cdef bint demanding                  # there is something to check
    cdef bint names_server               # a SAN must match the SNI that was sent
    cdef list sans                       # of SanCheck
    cdef set pins, hashes                # of bytes
    # The peer's chain is at hand: 1 = good. Counts what is wrong in the SSL cells.
    cdef int judge(self, X509_STORE_CTX *store, int64_t *cells) except -1
    cdef bint has_san(self, X509 *leaf, SSL *ssl) except -1
    cdef bint has_hash(self, X509 *leaf) except -1
    cdef configure(self, SSL_CTX *ctx, dict secrets)
    cdef trust(self, SSL_CTX *ctx, authority)
