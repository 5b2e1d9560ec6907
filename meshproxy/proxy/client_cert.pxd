"""`x-forwarded-client-cert`: what becomes of the one that a request brings, and what we say of the client's certificate."""

from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.lines cimport Lines

cdef enum:
    CERT_SANITIZE = 0
    CERT_FORWARD_ONLY
    CERT_APPEND_FORWARD
    CERT_SANITIZE_SET
    CERT_ALWAYS_FORWARD_ONLY

cdef class ClientCertRule:
    """A compiled model.ClientCertHeader."""
    cdef int mode                        # CERT_*
    cdef bint subject, cert, chain, dns, uri
    cdef void apply(self, ConnectionInfo info, const char *bytes, Head *head, Lines *lines) except *
