"""Keys of session tickets (RFC 5077): any worker resumes what another began."""

from libc.stdint cimport int64_t
from meshproxy.workers.openssl cimport EVP_CIPHER_CTX, EVP_MAC_CTX

cdef enum:
    TICKET_KEY_BYTES = 80                # 16 name, 32 HMAC, 32 AES: Envoy's and nginx' form

cdef class TicketKeys:
    cdef list keys                       # of bytes; the first encrypts
    cdef bytes root                      # keys are derived from it by time; None = they were given
    cdef int64_t epoch
    # As OpenSSL's ticket key callback wants it: 1 done, 2 done but the ticket should be renewed, 0 no such key, -1 an error.
    cdef int seal(self, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
    cdef int open(self, const unsigned char *name, const unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac)
    cdef derive(self)
