"""Certificates: read from PEM, and what one says."""

from meshproxy.workers.openssl cimport ASN1_TIME, EVP_PKEY, X509, X509_NAME, X509Stack

cdef class Credential:
    """A certificate with its chain and its key, as one side of a handshake shows it."""
    cdef X509 *leaf
    cdef X509Stack *chain                # without the leaf; NULL = none
    cdef EVP_PKEY *key
    cdef readonly bint is_ecdsa
    cdef readonly bint must_staple       # the certificate says so (RFC 7633)
    cdef readonly tuple names            # of bytes, lower case: DNS names, or the common name of one that has none
    cdef bytes staple                    # DER; None = none
    cdef long staple_until               # unix time of its end; 0 = it says none
    cdef read_key(self, bytes pem, bytes passphrase)
    cdef judge_key(self)
    cdef read_staple(self, bytes der)

# Texts of one kind of subject alternative name (GEN_*), in the certificate's order; IP addresses as text. `oid`: of an other name.
cdef list alternative_names(X509 *x, int kind, bytes oid)
cdef bytes name_text(const X509_NAME *name)
cdef bytes serial_text(X509 *x)
cdef bytes fingerprint(X509 *x, bint sha256)
cdef bytes pem_text(X509 *x)
cdef long unix_time(const ASN1_TIME *when)
# SHA-256 of the DER, and of the SubjectPublicKeyInfo: 32 bytes each.
cdef bytes certificate_hash(X509 *x)
cdef bytes key_hash(X509 *x)
# Owned references, to be freed by the caller. Raises ValueError for what is not PEM.
cdef list_of_certificates(bytes pem, X509Stack **out)
cdef bytes why()
