"""Which of the SSL cells counts a handshake's version, algorithms, or error."""

from meshproxy.workers.openssl cimport SSL

cdef int version_cell(SSL *ssl) noexcept
cdef int cipher_cell(SSL *ssl) noexcept
cdef int curve_cell(SSL *ssl) noexcept
cdef int signature_cell(SSL *ssl) noexcept
cdef int error_cell(unsigned long error) noexcept
