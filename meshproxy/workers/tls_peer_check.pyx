"""See the .pxd. Order and counters are Envoy's: the chain, then the names, then pins and hashes."""

from meshproxy.proxy.text_match cimport TEXT_EXACT, PatternSource, TextMatch
from meshproxy.scoreboard.cells cimport LISTENER_SSL_FAIL_VERIFY_CERT_HASH, LISTENER_SSL_FAIL_VERIFY_ERROR, LISTENER_SSL_FAIL_VERIFY_SAN
from meshproxy.workers.openssl cimport *
from meshproxy.workers.tls_certificate cimport alternative_names, certificate_hash, key_hash, list_of_certificates, why

KINDS = {"dns": GEN_DNS, "uri": GEN_URI, "email": GEN_EMAIL, "ip": GEN_IPADD, "other_name": GEN_OTHERNAME}


cdef class SanCheck:
    """A condition on one kind of subject alternative name."""
    cdef int kind
    cdef bytes oid
    cdef TextMatch match

    cdef bint holds(self, X509 *leaf) except -1:
        cdef bytes name
        for name in alternative_names(leaf, self.kind, self.oid):
            if self.kind == GEN_DNS and self.match.kind == TEXT_EXACT:
                if same_host(name.lower(), self.match.value.lower()):
                    return True
            elif self.match.matches(<const char *>name, len(name)):
                return True
        return False


cdef bint same_host(bytes pattern, bytes host):
    """A DNS name of a certificate, whose first label may be `*` for one label (RFC 6125 6.4.3)."""
    cdef bytes parent
    if pattern == host:
        return True
    if not pattern.startswith(b"*.") or len(pattern) < 3:
        return False
    _, _, parent = host.partition(b".")
    return parent == pattern[2:]


cdef class PeerCheck:
    def __init__(self, model, bint names_server):
        """`model` None: nothing is demanded of the certificate itself. Raises ValueError."""
        cdef PatternSource patterns = PatternSource()
        cdef SanCheck san
        self.model = model
        self.names_server = names_server
        self.sans = []
        self.pins = set()
        self.hashes = set()
        if model is not None:
            self.verifies_chain = bool(model.trusted_ca)
            self.accepts_untrusted = model.accept_untrusted
            self.pins = set(model.spki_pins)
            self.hashes = set(model.hashes)
            for row in model.sans:
                san = SanCheck.__new__(SanCheck)
                san.kind = KINDS[row.kind]
                san.oid = row.oid.encode() or None
                san.match = patterns.text_match(row.value, "")
                self.sans.append(san)
        if patterns.problems:
            raise ValueError(patterns.problems[0].message)
        self.demanding = bool(self.verifies_chain or self.sans or self.pins or self.hashes or names_server)

    cdef configure(self, SSL_CTX *ctx, dict secrets):
        """Give a context the authorities and the revocation lists. Raises ValueError."""
        if self.verifies_chain:
            self.trust(ctx, secrets[self.model.trusted_ca])

    cdef trust(self, SSL_CTX *ctx, authority):
        cdef X509_STORE *store = SSL_CTX_get_cert_store(ctx)
        cdef unsigned long flags = X509_V_FLAG_PARTIAL_CHAIN     # an intermediate authority in the list may end a chain
        cdef X509Stack *stack
        cdef X509NameStack *names
        cdef int i
        if authority.pem:
            list_of_certificates(authority.pem, &stack)
            names = sk_X509_NAME_new_null()
            for i in range(sk_X509_num(stack)):
                X509_STORE_add_cert(store, sk_X509_value(stack, i))
                sk_X509_NAME_push(names, X509_NAME_dup(X509_get_subject_name(sk_X509_value(stack, i))))
            sk_X509_pop_free(stack, X509_free)
            SSL_CTX_set_client_CA_list(ctx, names)               # takes `names` over; a client does not show it
        elif not SSL_CTX_set_default_verify_paths(ctx):
            raise ValueError("the system's store of certificate authorities cannot be read")
        if authority.crl_pem:
            add_revoked(store, authority.crl_pem)
            flags |= X509_V_FLAG_CRL_CHECK
            if not self.model.only_leaf_crl:
                flags |= X509_V_FLAG_CRL_CHECK_ALL
        X509_STORE_set_flags(store, flags)
        if self.model.allow_expired:
            X509_STORE_set_verify_cb(store, overlook_expiry)
        SSL_CTX_set_verify_depth(ctx, self.model.max_depth)
        ERR_clear_error()

    cdef int judge(self, X509_STORE_CTX *store, int64_t *cells) except -1:
        cdef X509 *leaf = X509_STORE_CTX_get0_cert(store)
        cdef SSL *ssl = <SSL *>X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx())
        cdef bint good = True
        if self.verifies_chain and X509_verify_cert(store) <= 0:
            cells[LISTENER_SSL_FAIL_VERIFY_ERROR] += 1
            if not self.accepts_untrusted:
                return 0
            good = False
        if good and not self.has_san(leaf, ssl):
            cells[LISTENER_SSL_FAIL_VERIFY_SAN] += 1
            good = False
        if good and not self.has_hash(leaf):
            cells[LISTENER_SSL_FAIL_VERIFY_CERT_HASH] += 1
            good = False
        if not good and X509_STORE_CTX_get_error(store) == X509_V_OK:
            X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION)
        return good or self.accepts_untrusted

    cdef bint has_san(self, X509 *leaf, SSL *ssl) except -1:
        cdef SanCheck san
        cdef const char *host
        if self.names_server:
            host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
            if host != NULL:
                return X509_check_host(leaf, host, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1 or X509_check_ip_asc(leaf, host, 0) == 1
        if not self.sans:
            return True
        for san in self.sans:
            if san.holds(leaf):
                return True
        return False

    cdef bint has_hash(self, X509 *leaf) except -1:
        if not self.pins and not self.hashes:
            return True
        return (self.pins and key_hash(leaf) in self.pins) or (self.hashes and certificate_hash(leaf) in self.hashes)


cdef int overlook_expiry(int good, X509_STORE_CTX *store) noexcept:
    cdef int error = X509_STORE_CTX_get_error(store)
    if not good and (error == X509_V_ERR_CERT_HAS_EXPIRED or error == X509_V_ERR_CERT_NOT_YET_VALID):
        X509_STORE_CTX_set_error(store, X509_V_OK)
        return 1
    return good


cdef add_revoked(X509_STORE *store, bytes pem):
    cdef BIO *bio = BIO_new_mem_buf(<const char *>pem, len(pem))
    cdef X509_CRL *crl
    cdef int count = 0
    ERR_clear_error()
    crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)
    while crl != NULL:
        X509_STORE_add_crl(store, crl)
        X509_CRL_free(crl)
        count += 1
        crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)
    BIO_free(bio)
    if count == 0:
        raise ValueError(f"no certificate revocation list in PEM form could be read: {why().decode()}")
    ERR_clear_error()
