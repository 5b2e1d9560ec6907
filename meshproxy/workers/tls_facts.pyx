"""See the .pxd."""

from meshproxy.workers.openssl cimport *
from meshproxy.workers.tls_certificate cimport alternative_names, fingerprint, name_text, pem_text, serial_text, unix_time

URL_ESCAPES = ((b"\n", b"%0A"), (b" ", b"%20"), (b"+", b"%2B"), (b"/", b"%2F"), (b"=", b"%3D"))
"""All that PEM has and a header's value of ours may not (Envoy's list)."""


cdef class HandshakeFacts:
    def __dealloc__(self):
        X509_free(self.peer)
        X509_free(self.own)
        if self.peer_chain != NULL:
            sk_X509_pop_free(self.peer_chain, X509_free)

    cdef void load(self) except *:
        cdef int i
        self.loaded = True
        if self.own != NULL:
            self.local_subject = name_text(X509_get_subject_name(self.own))
            self.local_uri_sans = alternative_names(self.own, GEN_URI, None)
            self.local_dns_sans = alternative_names(self.own, GEN_DNS, None)
        if self.peer == NULL:
            return
        self.subject = name_text(X509_get_subject_name(self.peer))
        self.issuer = name_text(X509_get_issuer_name(self.peer))
        self.serial = serial_text(self.peer)
        self.fingerprint_256 = fingerprint(self.peer, True)
        self.fingerprint_1 = fingerprint(self.peer, False)
        self.valid_from = b"%d" % unix_time(X509_get0_notBefore(self.peer))
        self.valid_until = b"%d" % unix_time(X509_get0_notAfter(self.peer))
        self.uri_sans = alternative_names(self.peer, GEN_URI, None)
        self.dns_sans = alternative_names(self.peer, GEN_DNS, None)
        self.ip_sans = alternative_names(self.peer, GEN_IPADD, None)
        self.email_sans = alternative_names(self.peer, GEN_EMAIL, None)
        self.pem = escaped(pem_text(self.peer))
        self.chain_pem = self.pem
        if self.peer_chain != NULL:
            for i in range(sk_X509_num(self.peer_chain)):
                self.chain_pem += escaped(pem_text(sk_X509_value(self.peer_chain, i)))


cdef bytes escaped(bytes pem):
    for plain, escape in URL_ESCAPES:
        pem = pem.replace(plain, escape)
    return pem


cdef HandshakeFacts facts_of(SSL *ssl):
    cdef HandshakeFacts facts = HandshakeFacts.__new__(HandshakeFacts)
    cdef X509Stack *chain
    cdef const unsigned char *session_id
    cdef unsigned int length
    cdef SSL_SESSION *session = SSL_get_session(ssl)
    facts.version = SSL_get_version(ssl)
    facts.cipher = SSL_CIPHER_get_name(SSL_get_current_cipher(ssl))
    facts.resumed = SSL_session_reused(ssl)
    if session != NULL:
        session_id = SSL_SESSION_get_id(session, &length)
        facts.session_id = (<const char *>session_id)[:length].hex().encode() if length else None
    facts.own = SSL_get_certificate(ssl)
    if facts.own != NULL:
        X509_up_ref(facts.own)
    facts.peer = SSL_get1_peer_certificate(ssl)
    facts.presented = facts.peer != NULL
    if facts.presented:
        facts.verified = SSL_get_verify_result(ssl) == X509_V_OK
        chain = SSL_get_peer_cert_chain(ssl)
        if chain != NULL:
            facts.peer_chain = X509_chain_up_ref(chain)
    return facts
