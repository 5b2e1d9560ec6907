"""See the .pxd. Raised here: ValueError, with the secret's name in the text; who compiles a listener or a cluster adds the place."""

import hashlib

import msgspec

from libc.string cimport memset
from meshproxy.scoreboard.cells cimport *
from meshproxy.workers.net cimport unix_us
from meshproxy.workers.openssl cimport *
from meshproxy.workers.tls_certificate cimport Credential, why

from meshproxy.workers.tls_certificate_choice import choices

cdef extern from "<openssl/ssl.h>":
    long SSL_MODE_NO_AUTO_CHAIN

cdef enum:
    SERVER_SESSIONS = 4096               # stateful ones of a chain in this worker: with a client's certificate some 4 KiB each
    STAPLE_LENIENT = 0
    STAPLE_STRICT = 1
    STAPLE_MUST = 2

SERVER_CIPHERS = (
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
)
cdef bytes TLS13_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""The order of BoringSSL, and so Envoy's; it is not configurable there either."""
CURVES = ("X25519", "P-256")
"""Envoy's defaults, both."""
VERSIONS = {"1.0": TLS1_VERSION, "1.1": TLS1_1_VERSION, "1.2": TLS1_2_VERSION, "1.3": TLS1_3_VERSION}
POLICIES = {"lenient": STAPLE_LENIENT, "strict": STAPLE_STRICT, "must": STAPLE_MUST}


cdef class SessionStore:
    def __cinit__(self, int64_t most):
        self.most = most
        self.sessions = {}

    def __dealloc__(self):
        self.clear()

    cdef void clear(self) noexcept:
        cdef list held
        if self.sessions is not None:
            for held in self.sessions.values():
                for address in held:
                    SSL_SESSION_free(<SSL_SESSION *><size_t>address)
            self.sessions.clear()
        self.held = 0

    cdef void keep(self, bytes sni, SSL_SESSION *session) except *:
        """Takes the reference over."""
        cdef list held
        if self.held >= self.most:
            oldest = next(iter(self.sessions))
            held = self.sessions[oldest]
            SSL_SESSION_free(<SSL_SESSION *><size_t>held.pop(0))
            self.held -= 1
            if not held:
                del self.sessions[oldest]
        self.sessions.setdefault(sni, []).append(<size_t>session)
        self.held += 1

    cdef SSL_SESSION *take(self, TlsContext context, bytes sni) except? NULL:
        """A session of TLS 1.3 is for one use (RFC 8446 C.4); an older one stays."""
        cdef SSL_SESSION *session
        cdef list held
        if self.context is not context:
            self.clear()
            self.context = context
        held = self.sessions.get(sni)
        if not held:
            return NULL
        session = <SSL_SESSION *><size_t>held[len(held) - 1]
        if SSL_SESSION_get_protocol_version(session) != TLS1_3_VERSION:
            SSL_SESSION_up_ref(session)
            return session
        held.pop()
        self.held -= 1
        if not held:
            del self.sessions[sni]
        return session


cdef class CertificateContext:
    def __dealloc__(self):
        SSL_CTX_free(self.ctx)


cdef class TlsContext:
    def __cinit__(self):
        memset(self.own_cells, 0, sizeof(self.own_cells))
        self.cells = self.own_cells
        self.ready = True
        self.alpn = b""

    def __dealloc__(self):
        SSL_CTX_free(self.ctx)

    cdef void count_by(self, int64_t *cells) noexcept:
        self.cells = cells

    cdef SSL *begin(self, TlsTag *tag) except NULL:
        """A new connection's SSL; `tag` lives as long as it."""
        cdef SSL *ssl = SSL_new(self.ctx)
        if ssl == NULL:
            ERR_clear_error()
            raise MemoryError("no room for another TLS connection")
        tag.context = <void *>self
        SSL_set_app_data(ssl, tag)
        return ssl

    def counted(self):
        """For tests: how often each of the SSL cells was counted, by place."""
        return {at: self.cells[at] for at in range(LISTENER_SSL_CELLS) if self.cells[at]}


def server_context(model, dict secrets, TicketKeys tickets):
    """The context of a model.DownstreamTls. `secrets`: by name, all that it names; `tickets`: the node's own keys."""
    cdef TlsContext context = TlsContext()
    cdef CertificateContext made
    cdef Credential credential
    context.model = model
    context.ready = has_come(model.certificates, model.validation, secrets, model.ticket_keys)
    if not context.ready:
        return context
    context.check = PeerCheck(model.validation, False)
    context.alpn = wire_form(model.alpn)
    context.tickets = TicketKeys(secrets[model.ticket_keys].keys) if model.ticket_keys else tickets
    context.staple_policy = POLICIES[model.ocsp_policy]
    context.key_log = None if model.key_log is None else KeyLogFile(model.key_log)
    context.staples = {}
    credentials = [read_credential(name, secrets) for name in model.certificates]
    for name, credential in zip(model.certificates, credentials):
        if credential.must_staple and credential.staple is None:
            raise ValueError(f'secret "{name}": the certificate demands an OCSP staple, and the secret has none')
        if credential.staple is None and context.staple_policy == STAPLE_MUST:
            raise ValueError(f'secret "{name}": the policy "must" demands an OCSP staple, and the secret has none')
        context.staples[<size_t>credential.leaf] = credential
    chosen = choices([(credential.names, credential.is_ecdsa) for credential in credentials], model.full_scan_certs_on_sni_mismatch)
    contexts = {}
    for places in {*chosen.exact.values(), *chosen.suffixes.values(), chosen.nameless, chosen.mismatched}:
        made = CertificateContext()
        made.ctx = server_ctx(context, model, secrets, [credentials[place] for place in places])
        contexts[places] = made
    context.ctx = (<CertificateContext>contexts[chosen.nameless]).ctx
    context.others = list(contexts.values())
    context.exact = {name: contexts[places] for name, places in chosen.exact.items()}
    context.suffixes = {name: contexts[places] for name, places in chosen.suffixes.items()}
    context.mismatched = contexts[chosen.mismatched]
    SSL_CTX_up_ref(context.ctx)
    if len(contexts) > 1:
        SSL_CTX_set_tlsext_servername_callback(context.ctx, choose_certificate)
        SSL_CTX_set_tlsext_servername_arg(context.ctx, <void *>context)
    return context


def client_context(model, dict secrets):
    """The context of a model.UpstreamTls."""
    cdef TlsContext context = TlsContext()
    cdef SSL_CTX *ctx
    context.model = model
    context.ready = has_come((model.certificate,) if model.certificate else (), model.validation, secrets, "")
    if not context.ready:
        return context
    context.check = PeerCheck(model.validation, model.auto_san_validation)
    context.key_log = None if model.key_log is None else KeyLogFile(model.key_log)
    ctx = context.ctx = SSL_CTX_new(TLS_client_method())
    set_common(ctx, context, model.params, "1.2", SERVER_CIPHERS)
    if model.certificate:
        use_credential(ctx, read_credential(model.certificate, secrets))
    set_check(ctx, context, secrets, SSL_VERIFY_PEER if context.check.demanding else SSL_VERIFY_NONE)
    if model.alpn:
        context.alpn = wire_form(model.alpn)
        SSL_CTX_set_alpn_protos(ctx, <const unsigned char *><const char *>context.alpn, len(context.alpn))
    if model.max_session_keys:
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL)
        SSL_CTX_sess_set_new_cb(ctx, keep_session)
    return context


cdef bint has_come(tuple names, validation, dict secrets, str tickets):
    wanted = [*names, *([validation.trusted_ca] if validation is not None and validation.trusted_ca else []), *([tickets] if tickets else [])]
    return all([secrets.get(name) is not None for name in wanted])


cdef bytes wire_form(tuple names):
    """Protocol names as ALPN has them (RFC 7301 3.1)."""
    return b"".join([bytes([len(name)]) + name.encode() for name in names])


cdef Credential read_credential(str name, dict secrets):
    try:
        return Credential(secrets[name])
    except ValueError as error:
        raise ValueError(f'secret "{name}": {error}') from error


cdef SSL_CTX *server_ctx(TlsContext context, model, dict secrets, list credentials) except NULL:
    cdef SSL_CTX *ctx = SSL_CTX_new(TLS_server_method())
    cdef bytes digest
    cdef int mode = SSL_VERIFY_NONE
    cdef Credential credential
    set_common(ctx, context, model.params, "1.3", SERVER_CIPHERS)
    for credential in credentials:
        use_credential(ctx, credential)
    if not model.prefer_client_ciphers:
        SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE)
    if model.validation is not None or model.require_client_certificate:
        mode = SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if model.require_client_certificate else 0)
    set_check(ctx, context, secrets, mode)
    if context.alpn:
        SSL_CTX_set_alpn_select_cb(ctx, select_protocol, <void *>context)
    digest = session_scope(model, secrets)
    SSL_CTX_set_session_id_context(ctx, <const unsigned char *><const char *>digest, len(digest))
    SSL_CTX_set_timeout(ctx, int(model.session_timeout_s))
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER if model.stateful_resumption else SSL_SESS_CACHE_OFF)
    SSL_CTX_sess_set_cache_size(ctx, SERVER_SESSIONS)
    if model.stateless_resumption:
        SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, use_ticket_key)
    else:
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET)
        if not model.stateful_resumption:
            SSL_CTX_set_num_tickets(ctx, 0)
    SSL_CTX_set_tlsext_status_cb(ctx, staple)
    SSL_CTX_set_tlsext_status_arg(ctx, <void *>context)
    return ctx


cdef bytes session_scope(model, dict secrets):
    """A session is resumed only where the same was demanded of the client. A certificate of ours may change meanwhile."""
    digest = hashlib.sha256(msgspec.msgpack.encode(model))
    if model.validation is not None and model.validation.trusted_ca:
        digest.update(msgspec.msgpack.encode(secrets[model.validation.trusted_ca]))
    return digest.digest()


cdef set_common(SSL_CTX *ctx, TlsContext context, params, str newest, tuple ciphers):
    cdef bytes text
    cdef long mode = SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    # Buffers go when a record is through: a connection may rest for long, and a handshake may never go on.
    # The chain is what its secret says. OpenSSL would look for the rest among those that it trusts peers by, in each handshake anew.
    SSL_CTX_set_mode(ctx, mode | SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN)
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
    SSL_CTX_set_min_proto_version(ctx, VERSIONS[params.min_version or "1.2"])
    SSL_CTX_set_max_proto_version(ctx, VERSIONS[params.max_version or newest])
    # Key sizes are judged where keys are read. TLS 1.0 and 1.1 need SHA-1, which OpenSSL has at level 0 only.
    SSL_CTX_set_security_level(ctx, 0 if params.min_version in ("1.0", "1.1") else 1)
    names = params.ciphers or ciphers
    grouped = [name.strip("[]").split("|") for name in names]
    if any(["CHACHA20" in name for group in grouped if len(group) > 1 for name in group]):
        SSL_CTX_set_options(ctx, SSL_OP_PRIORITIZE_CHACHA)
    text = ":".join([name for group in grouped for name in group]).encode()
    SSL_CTX_set_ciphersuites(ctx, TLS13_CIPHERS)
    if not SSL_CTX_set_cipher_list(ctx, text):
        ERR_clear_error()
        raise ValueError(f"none of the ciphers {', '.join(names)} is known")
    text = ":".join(params.curves or CURVES).encode()
    if not SSL_CTX_set1_groups_list(ctx, text):
        ERR_clear_error()
        raise ValueError(f"a curve of {', '.join(params.curves)} is not known")
    if params.signature_algorithms:
        text = ":".join(params.signature_algorithms).encode()
        if not SSL_CTX_set1_sigalgs_list(ctx, text):
            ERR_clear_error()
            raise ValueError(f"a signature algorithm of {', '.join(params.signature_algorithms)} is not known")
    if context.key_log is not None:
        SSL_CTX_set_keylog_callback(ctx, log_key)


cdef use_credential(SSL_CTX *ctx, Credential credential):
    if not SSL_CTX_use_certificate(ctx, credential.leaf) or not SSL_CTX_use_PrivateKey(ctx, credential.key):
        raise ValueError(f"a certificate cannot be used: {why().decode()}")
    if credential.chain != NULL:
        SSL_CTX_set1_chain(ctx, credential.chain)


cdef set_check(SSL_CTX *ctx, TlsContext context, dict secrets, int mode):
    SSL_CTX_set_verify(ctx, mode, NULL)
    SSL_CTX_set_cert_verify_callback(ctx, verify_peer, <void *>context)
    context.check.configure(ctx, secrets)


# -- called by OpenSSL within a handshake; what goes wrong here ends the handshake

cdef int verify_peer(X509_STORE_CTX *store, void *arg) noexcept:
    cdef TlsContext context = <TlsContext>arg
    if not context.check.demanding:
        return 1
    try:
        return context.check.judge(store, context.cells)
    except BaseException:
        return 0


cdef int choose_certificate(SSL *ssl, int *alert, void *arg) noexcept:
    cdef TlsContext context = <TlsContext>arg
    cdef const char *text = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    cdef CertificateContext chosen
    cdef bytes name
    if text != NULL:
        name = text
        name = name.lower()
        chosen = context.exact.get(name)
        if chosen is None:
            chosen = context.suffixes.get(name.partition(b".")[2], context.mismatched)
        if chosen.ctx != context.ctx:
            SSL_set_SSL_CTX(ssl, chosen.ctx)
    return SSL_TLSEXT_ERR_OK


cdef int select_protocol(
    SSL *ssl, const unsigned char **out, unsigned char *out_length, const unsigned char *offered, unsigned int length, void *arg,
) noexcept:
    """Our order counts; without a common protocol the handshake goes on without one."""
    cdef TlsContext context = <TlsContext>arg
    if SSL_select_next_proto(
        <unsigned char **>out, out_length, <const unsigned char *><const char *>context.alpn, len(context.alpn), offered, length,
    ) == OPENSSL_NPN_NEGOTIATED:
        return SSL_TLSEXT_ERR_OK
    return SSL_TLSEXT_ERR_NOACK


cdef int use_ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int sealing) noexcept:
    cdef TlsContext context = <TlsContext>(<TlsTag *>SSL_get_app_data(ssl)).context
    try:
        if context.tickets is None:
            return -1
        return context.tickets.seal(name, iv, cipher, mac) if sealing else context.tickets.open(name, iv, cipher, mac)
    except BaseException:
        return -1


cdef int staple(SSL *ssl, void *arg) noexcept:
    """The client asks for an OCSP response (RFC 6066 8). Envoy's policies."""
    cdef TlsContext context = <TlsContext>arg
    cdef Credential credential = context.staples.get(<size_t>SSL_get_certificate(ssl))
    cdef int64_t *cells = context.cells
    cdef int policy = context.staple_policy
    cdef void *copy
    cells[LISTENER_SSL_OCSP_STAPLE_REQUESTS] += 1
    if credential is None:
        return SSL_TLSEXT_ERR_NOACK
    if credential.must_staple:
        policy = STAPLE_MUST
    if credential.staple is not None and (credential.staple_until == 0 or credential.staple_until > unix_us() // 1000000):
        copy = OPENSSL_memdup(<const char *>credential.staple, len(credential.staple))
        SSL_set_tlsext_status_ocsp_resp(ssl, copy, len(credential.staple))
        cells[LISTENER_SSL_OCSP_STAPLE_RESPONSES] += 1
        return SSL_TLSEXT_ERR_OK
    if policy == STAPLE_MUST or (policy == STAPLE_STRICT and credential.staple is not None):
        cells[LISTENER_SSL_OCSP_STAPLE_FAILED] += 1
        return SSL_TLSEXT_ERR_ALERT_FATAL
    cells[LISTENER_SSL_OCSP_STAPLE_OMITTED] += 1
    return SSL_TLSEXT_ERR_NOACK


cdef int keep_session(SSL *ssl, SSL_SESSION *session) noexcept:
    """A session that a server gave us: 1 = we keep the reference."""
    cdef TlsTag *tag = <TlsTag *>SSL_get_app_data(ssl)
    cdef const char *host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)
    cdef bytes sni = host if host != NULL else b""
    cdef SessionStore store
    if tag.sessions == NULL:
        return 0
    store = <SessionStore>tag.sessions
    if store.context is not <TlsContext>tag.context:
        return 0
    try:
        store.keep(sni, session)
    except BaseException:
        return 0
    return 1


cdef void log_key(const SSL *ssl, const char *line) noexcept:
    cdef TlsTag *tag = <TlsTag *>SSL_get_app_data(ssl)
    if tag.logs_keys:
        (<TlsContext>tag.context).key_log.log(line)
