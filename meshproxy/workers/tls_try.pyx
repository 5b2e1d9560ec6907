"""For tests: one end of a TLS connection, driven by hand. Its transport is the real one; its protocol notes what it is told."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.openssl cimport SSL, SSL_OP_NO_RENEGOTIATION, SSL_do_handshake
from meshproxy.workers.tls_context cimport SessionStore, TlsContext
from meshproxy.workers.tls_transport cimport TlsTransport

cdef extern from "<openssl/ssl.h>":
    int SSL_key_update(SSL *ssl, int kind)
    int SSL_renegotiate(SSL *ssl)
    unsigned long SSL_clear_options(SSL *ssl, unsigned long options)
    long SSL_set_tlsext_status_type(SSL *ssl, int type)
    long SSL_get_tlsext_status_ocsp_resp(SSL *ssl, const unsigned char **response)
    int SSL_KEY_UPDATE_REQUESTED, TLSEXT_STATUSTYPE_ocsp


cdef class End(Protocol):
    """`events`: what came, in order: ("connected",), ("data", bytes), ("end",), ("drained",), ("closed", why, errno, failure)."""
    cdef readonly list events
    cdef readonly ConnectionInfo info
    cdef TlsTransport transport
    cdef readonly bint echoes
    cdef public bytes greeting           # written as soon as the handshake is done
    cdef public bint pauses              # reading pauses as soon as the handshake is done

    def __init__(self, Loop loop, int fd, TlsContext context, bytes sni=None, SessionStore sessions=None, bint server=True, bint echoes=False,
                 bint wants_staple=False):
        self.events = []
        self.echoes = echoes
        self.transport = TlsTransport(loop, self)
        if server:
            self.info = ConnectionInfo()
            self.transport.accept_tls(context, self.info)
        else:
            self.transport.connect_tls(context, sni, sessions)
            if wants_staple:
                SSL_set_tlsext_status_type(self.transport.ssl, TLSEXT_STATUSTYPE_ocsp)
        self.transport.open(fd, True)

    cdef void on_connected(self) except *:
        self.events.append(("connected",))
        if self.pauses:
            self.transport.pause()
        if self.greeting is not None:
            self.write(self.greeting)

    cdef void on_data(self, const char *data, size_t length) except *:
        self.events.append(("data", data[:length]))
        if self.echoes:
            self.transport.write(data, length)

    cdef void on_end(self) except *:
        self.events.append(("end",))
        if self.echoes:
            self.transport.close_flushed(1000)

    cdef void on_drained(self) except *:
        self.events.append(("drained",))

    cdef void on_closed(self, int why, int error) except *:
        self.events.append(("closed", why, error, self.transport.failure))

    def write(self, *pieces):
        """Gathered as slices of one event, and sent."""
        for piece in pieces:
            self.transport.write(<const char *><bytes>piece, len(piece))
        self.transport.loop.flush()

    def close(self):
        self.transport.close(0)

    def close_flushed(self):
        self.transport.close_flushed(1000)

    def half_close(self):
        self.transport.half_close()

    def resume(self):
        self.transport.resume()

    def update_key(self):
        """Ask for new keys (TLS 1.3)."""
        self.again(SSL_key_update(self.transport.ssl, SSL_KEY_UPDATE_REQUESTED))

    def renegotiate(self):
        """Ask for a new handshake (TLS 1.2)."""
        SSL_clear_options(self.transport.ssl, SSL_OP_NO_RENEGOTIATION)
        self.again(SSL_renegotiate(self.transport.ssl))

    cdef again(self, int begun):
        assert begun
        SSL_do_handshake(self.transport.ssl)
        self.transport.send_records()

    @property
    def data(self):
        """All plaintext that came."""
        return b"".join([event[1] for event in self.events if event[0] == "data"])

    @property
    def staple(self):
        """The OCSP response that the server sent; None = none."""
        cdef const unsigned char *response = NULL
        cdef long length = SSL_get_tlsext_status_ocsp_resp(self.transport.ssl, &response)
        return (<const char *>response)[:length] if response != NULL and length > 0 else None

    @property
    def alpn(self):
        return self.transport.alpn

    @property
    def afterthoughts(self):
        """Key updates and renegotiations of the peer since its last data."""
        return self.transport.afterthoughts

    @property
    def listens(self):
        """OpenSSL has been asked."""
        return self.transport.ssl != NULL

    @property
    def queued(self):
        """Bytes of ciphertext that the kernel did not take."""
        return self.transport.queued_bytes

    @property
    def facts(self):
        """What the handshake told, by name."""
        facts = self.transport.facts()
        facts.load()
        return {
            "version": facts.version, "cipher": facts.cipher, "resumed": facts.resumed, "presented": facts.presented,
            "verified": facts.verified, "subject": facts.subject, "issuer": facts.issuer, "serial": facts.serial, "sni": self.info.sni,
            "fingerprint": facts.fingerprint_256, "uri": facts.uri_sans, "dns": facts.dns_sans, "pem": facts.pem, "chain": facts.chain_pem,
        }
