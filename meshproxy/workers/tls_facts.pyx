"""See the .pxd."""

from meshproxy.telemetry.facts cimport *
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
        self.loaded = True
        self.kept = []
        self.tell(TLS_TOLD_VERSION, self.version)
        self.tell(TLS_TOLD_CIPHER, self.cipher)
        self.tell(TLS_TOLD_SESSION_ID, self.session_id)
        if self.own != NULL:
            self.load_own()
        if self.peer != NULL:
            self.load_peer()
            self.load_chain()

    cdef void tell(self, int place, bytes text) except *:
        if text:
            self.kept.append(text)
            self.told[place].at = <const char *>text
            self.told[place].length = len(text)

    cdef void load_own(self) except *:
        self.local_subject = name_text(X509_get_subject_name(self.own))
        self.local_uri_sans = alternative_names(self.own, GEN_URI, None)
        self.local_dns_sans = alternative_names(self.own, GEN_DNS, None)
        self.tell(TLS_TOLD_LOCAL_SUBJECT, self.local_subject)
        self.tell(TLS_TOLD_LOCAL_URI_SAN, b",".join(self.local_uri_sans))
        self.tell(TLS_TOLD_LOCAL_DNS_SAN, b",".join(self.local_dns_sans))
        self.tell(TLS_TOLD_LOCAL_IP_SAN, b",".join(alternative_names(self.own, GEN_IPADD, None)))
        self.tell(TLS_TOLD_LOCAL_EMAIL_SAN, b",".join(alternative_names(self.own, GEN_EMAIL, None)))
        self.tell(TLS_TOLD_LOCAL_OTHERNAME_SAN, b",".join(alternative_names(self.own, GEN_OTHERNAME, None)))

    cdef void load_peer(self) except *:
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
        self.tell(TLS_TOLD_PEER_SUBJECT, self.subject)
        self.tell(TLS_TOLD_PEER_ISSUER, self.issuer)
        self.tell(TLS_TOLD_PEER_SERIAL, self.serial)
        self.tell(TLS_TOLD_PEER_FINGERPRINT_256, self.fingerprint_256)
        self.tell(TLS_TOLD_PEER_FINGERPRINT_1, self.fingerprint_1)
        self.tell(TLS_TOLD_PEER_CERT, self.pem)
        self.tell(TLS_TOLD_PEER_CERT_V_START, self.valid_from)
        self.tell(TLS_TOLD_PEER_CERT_V_END, self.valid_until)
        self.tell(TLS_TOLD_PEER_URI_SAN, b",".join(self.uri_sans))
        self.tell(TLS_TOLD_PEER_DNS_SAN, b",".join(self.dns_sans))
        self.tell(TLS_TOLD_PEER_IP_SAN, b",".join(self.ip_sans))
        self.tell(TLS_TOLD_PEER_EMAIL_SAN, b",".join(self.email_sans))
        self.tell(TLS_TOLD_PEER_OTHERNAME_SAN, b",".join(alternative_names(self.peer, GEN_OTHERNAME, None)))

    cdef void load_chain(self) except *:
        """The leaf and what the peer sent above it. Of a resumed session only the leaf is known."""
        cdef list pems = [self.pem], serials = [self.serial], sha256 = [self.fingerprint_256], sha1 = [self.fingerprint_1]
        cdef X509 *x
        cdef int i
        for i in range(sk_X509_num(self.peer_chain) if self.peer_chain != NULL else 0):
            x = sk_X509_value(self.peer_chain, i)
            if X509_cmp(x, self.peer) == 0:      # a client's view of the chain begins with the leaf, a server's does not
                continue
            pems.append(escaped(pem_text(x)))
            serials.append(serial_text(x))
            sha256.append(fingerprint(x, True))
            sha1.append(fingerprint(x, False))
        self.chain_pem = b"".join(pems)
        self.tell(TLS_TOLD_PEER_CHAIN_SERIALS, b",".join(serials))
        self.tell(TLS_TOLD_PEER_CHAIN_FINGERPRINTS_256, b",".join(sha256))
        self.tell(TLS_TOLD_PEER_CHAIN_FINGERPRINTS_1, b",".join(sha1))


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
