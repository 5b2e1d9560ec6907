"""See the .pxd. OpenSSL speaks of numbers; the catalogue of cells has names, and the tables here join the two at import."""

from libc.string cimport strcmp
from meshproxy.scoreboard.cells cimport *
from meshproxy.workers.openssl cimport *

from meshproxy.scoreboard.catalogue import TLS_CIPHERS

cdef dict CIPHERS = {name.encode(): at for at, name in enumerate(TLS_CIPHERS)}


cdef int version_cell(SSL *ssl) noexcept:
    cdef int version = SSL_version(ssl)
    return LISTENER_SSL_VERSIONS_TLSV1 + min(max(version - TLS1_VERSION, 0), 3)


cdef int cipher_cell(SSL *ssl) noexcept:
    cdef const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl)
    cdef bytes name = SSL_CIPHER_get_name(cipher)
    return LISTENER_SSL_CIPHERS_TLS_AES_128_GCM_SHA256 + <int>CIPHERS.get(name, LISTENER_SSL_CIPHERS_OTHER - LISTENER_SSL_CIPHERS_TLS_AES_128_GCM_SHA256)


cdef int curve_cell(SSL *ssl) noexcept:
    cdef long group = SSL_get_negotiated_group(ssl)
    if group == NID_X25519:
        return LISTENER_SSL_CURVES_X25519
    if group == NID_X9_62_prime256v1:
        return LISTENER_SSL_CURVES_P_256
    if group == NID_secp384r1:
        return LISTENER_SSL_CURVES_P_384
    if group == NID_secp521r1:
        return LISTENER_SSL_CURVES_P_521
    if group == NID_X448:
        return LISTENER_SSL_CURVES_X448
    return LISTENER_SSL_CURVES_OTHER


cdef int signature_cell(SSL *ssl) noexcept:
    cdef int kind = 0, digest = 0, rank
    if not SSL_get_peer_signature_type_nid(ssl, &kind):
        return LISTENER_SSL_SIGALGS_OTHER
    if kind == EVP_PKEY_ED25519:
        return LISTENER_SSL_SIGALGS_ED25519
    SSL_get_peer_signature_nid(ssl, &digest)
    if digest == NID_sha1:
        return LISTENER_SSL_SIGALGS_RSA_PKCS1_SHA1 if kind == EVP_PKEY_RSA else LISTENER_SSL_SIGALGS_OTHER
    rank = 0 if digest == NID_sha256 else 1 if digest == NID_sha384 else 2 if digest == NID_sha512 else -1
    if rank < 0:
        return LISTENER_SSL_SIGALGS_OTHER
    if kind == EVP_PKEY_EC:
        return LISTENER_SSL_SIGALGS_ECDSA_SECP256R1_SHA256 + rank
    if kind == EVP_PKEY_RSA_PSS:
        return LISTENER_SSL_SIGALGS_RSA_PSS_RSAE_SHA256 + rank
    if kind == EVP_PKEY_RSA:
        return LISTENER_SSL_SIGALGS_RSA_PKCS1_SHA256 + rank
    return LISTENER_SSL_SIGALGS_OTHER


cdef int error_cell(unsigned long error) noexcept:
    cdef int reason = ERR_GET_REASON(error)
    if ERR_GET_LIB(error) != ERR_LIB_SSL:
        return LISTENER_SSL_ERROR_MALFORMED
    if reason > SSL_AD_REASON_OFFSET:
        return LISTENER_SSL_ERROR_ALERT
    if reason in (SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_UNKNOWN_PROTOCOL, SSL_R_WRONG_SSL_VERSION, SSL_R_VERSION_TOO_LOW, SSL_R_NO_PROTOCOLS_AVAILABLE):
        return LISTENER_SSL_ERROR_VERSION
    if reason in (
        SSL_R_NO_SHARED_CIPHER, SSL_R_NO_SHARED_GROUPS, SSL_R_NO_SUITABLE_KEY_SHARE, SSL_R_NO_SUITABLE_GROUPS,
        SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM,
    ):
        return LISTENER_SSL_ERROR_NO_SHARED_PARAMETERS
    if reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return LISTENER_SSL_FAIL_VERIFY_NO_CERT
    if reason == SSL_R_HTTP_REQUEST:
        return LISTENER_SSL_ERROR_HTTP_REQUEST
    return LISTENER_SSL_ERROR_MALFORMED
