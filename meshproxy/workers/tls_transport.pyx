"""See the .pxd. OpenSSL is handed what one read brought and gives back records; it never sees the socket."""

from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset, strcmp
from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED, CLOSE_LOCAL, CLOSE_REMOTE, Protocol
from meshproxy.scoreboard.cells cimport *
from meshproxy.workers.loop cimport INBOX_BYTES
from meshproxy.workers.net cimport *
from meshproxy.workers.openssl cimport *
from meshproxy.workers.tls_facts cimport facts_of
from meshproxy.workers.tls_names cimport cipher_cell, curve_cell, error_cell, signature_cell, version_cell

cdef enum:
    RECORD_BYTES = 16384                 # most plaintext of one record (RFC 8446 5.1)
    # What one read decrypts to, and the record before it that was not whole: so nothing decrypted is ever left behind.
    PLAIN_BYTES = INBOX_BYTES + RECORD_BYTES + 1024
    SHIP_BYTES = 131072                  # of ciphertext: then it is sent before more is made
    HTTP_LINGER_MS = 1000
    HANDSHAKE = 22                       # a record's type
    HEADER_BYTES = 5                     # of a record

cdef extern from "tls_pipe.h":
    ctypedef struct TlsPipe:
        const char *in_ "in"
        size_t in_length
        char *out
        size_t out_length, out_capacity
        int afterthoughts
    int AFTERTHOUGHTS_MOST
    BIO_METHOD *pipe_method()
    int attach_pipe(SSL *ssl, const BIO_METHOD *method, TlsPipe *pipe)
    void watch_afterthoughts(SSL *ssl, TlsPipe *pipe)

cdef extern from "<errno.h>":
    int EPROTO

cdef TlsPipe pipe                        # of this worker: lent for the length of one call
memset(&pipe, 0, sizeof(TlsPipe))
cdef BIO_METHOD *METHOD = pipe_method()
cdef char *plain = <char *>malloc(PLAIN_BYTES)
cdef char *record = <char *>malloc(RECORD_BYTES)     # small slices are gathered here
poison(plain, PLAIN_BYTES)

cdef bytes NOT_TLS = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 54\r\nconnection: close\r\n\r\n"
    b"This port speaks TLS, and the request was plain HTTP.\n"
)


cdef inline void lend(const char *data, size_t length) noexcept:
    """Before OpenSSL is called: what it may read. What somebody else's call left behind must not go out here."""
    pipe.in_ = data
    pipe.in_length = length
    pipe.out_length = 0
    ERR_clear_error()


cdef inline bint is_partial(const char *data, size_t length) noexcept:
    """The beginning of a handshake record (RFC 8446 5.1). What is none is OpenSSL's to refuse."""
    cdef const unsigned char *at = <const unsigned char *>data
    cdef size_t record
    if at[0] != HANDSHAKE or (length > 1 and at[1] != 3):
        return False
    if length < HEADER_BYTES:
        return True
    record = <size_t>at[3] << 8 | at[4]
    return record <= RECORD_BYTES and length < HEADER_BYTES + record


cdef class TlsTransport:
    def __dealloc__(self):
        SSL_free(self.ssl)

    cdef void accept_tls(self, TlsContext context, ConnectionInfo info) except *:
        self.context = context
        self.info = info
        self.server = True

    cdef void begin_server(self) except *:
        """When the first record is whole: who never sends it costs a socket and what it sent, not the tens of KB that OpenSSL takes to listen."""
        self.ssl = self.context.begin(&self.tag)
        SSL_set_accept_state(self.ssl)
        if not attach_pipe(self.ssl, METHOD, &pipe):
            raise MemoryError("no room for another TLS connection")

    cdef void connect_tls(self, TlsContext context, bytes sni, SessionStore sessions) except *:
        cdef SSL_SESSION *session = NULL
        self.context = context
        self.sessions = sessions
        if not context.ready:
            return
        self.ssl = context.begin(&self.tag)
        SSL_set_connect_state(self.ssl)
        if not attach_pipe(self.ssl, METHOD, &pipe):
            raise MemoryError("no room for another TLS connection")
        if sni is not None:
            SSL_set_tlsext_host_name(self.ssl, <const char *>sni)
        if sessions is not None:
            session = sessions.take(context, sni if sni is not None else b"")
            self.tag.sessions = <void *>sessions
            if session != NULL:
                SSL_set_session(self.ssl, session)
                SSL_SESSION_free(session)

    # -- the handshake

    cdef void open(self, int fd, bint connecting) except *:
        """An accepted socket is connected, and `connecting` only until the handshake is done."""
        self.shaking = True
        Transport.open(self, fd, connecting and not self.server)
        self.connecting = True
        if not self.context.ready:
            self.failure = b"TLS_error: a secret has not come yet"
            self.loop.make_ready(self)
        elif self.context.key_log is not None and self.server:
            self.tag.logs_keys = self.context.key_log.covers(fd)

    cdef void on_turn(self) except *:
        if not self.context.ready:
            self.shut(CLOSE_LOCAL if self.server else CLOSE_CONNECT_FAILED, EPROTO)
        else:
            Transport.on_turn(self)

    cdef void on_opened(self) except *:
        if self.ssl == NULL:
            return
        if self.context.key_log is not None:
            self.tag.logs_keys = self.context.key_log.covers(self.fd)
        lend(NULL, 0)
        pipe.afterthoughts = 0
        self.shake()

    cdef void shake(self) except *:
        """One step of the handshake with what the pipe has."""
        cdef int result, error
        result = SSL_do_handshake(self.ssl)
        if result == 1:
            self.finish_handshake()
            return
        error = SSL_get_error(self.ssl, result)
        if error == SSL_ERROR_WANT_READ:
            self.send_records()
            return
        self.break_off(result)

    cdef void finish_handshake(self) except *:
        cdef const unsigned char *chosen
        cdef unsigned int length
        cdef const char *name
        if not self.server and not self.may_sign():
            return
        self.shaking = False
        self.connecting = False
        self.count_handshake()
        SSL_get0_alpn_selected(self.ssl, &chosen, &length)
        self.alpn = (<const char *>chosen)[:length] if length else None
        if self.info is not None:
            self.info.tls = True
            self.info.alpn = self.alpn
            self.info.tls_facts = self.facts()
            name = SSL_get_servername(self.ssl, TLSEXT_NAMETYPE_host_name)
            if name != NULL:
                self.info.sni = name
        watch_afterthoughts(self.ssl, &pipe)
        self.send_records()

    cdef bint may_sign(self) except *:
        """An RSA certificate that says what its key is for must allow what the handshake used it for (RFC 5280 4.2.1.3). False: refused."""
        cdef X509 *peer = SSL_get0_peer_certificate(self.ssl)
        cdef bint encrypts = SSL_CIPHER_get_kx_nid(SSL_get_current_cipher(self.ssl)) == NID_kx_rsa
        if peer == NULL or EVP_PKEY_get_base_id(X509_get0_pubkey(peer)) != EVP_PKEY_RSA:
            return True
        if X509_get_key_usage(peer) & (KU_KEY_ENCIPHERMENT if encrypts else KU_DIGITAL_SIGNATURE):
            return True
        self.context.cells[LISTENER_SSL_WAS_KEY_USAGE_INVALID] += 1
        if not self.context.model.enforce_rsa_key_usage:
            return True
        self.context.cells[LISTENER_SSL_CONNECTION_ERROR] += 1
        self.failure = b"TLS_error: the server's certificate does not allow its key to be used so"
        self.broken = True
        self.shut(CLOSE_CONNECT_FAILED, EPROTO)
        return False

    cdef TlsFacts facts(self):
        return facts_of(self.ssl)

    cdef void count_handshake(self) noexcept:
        cdef int64_t *cells = self.context.cells
        cdef SSL *ssl = self.ssl
        cells[LISTENER_SSL_HANDSHAKE] += 1
        cells[version_cell(ssl)] += 1
        cells[cipher_cell(ssl)] += 1
        if SSL_session_reused(ssl):
            cells[LISTENER_SSL_SESSION_REUSED] += 1
        else:
            cells[curve_cell(ssl)] += 1
        if SSL_get0_peer_certificate(ssl) == NULL:
            cells[LISTENER_SSL_NO_CERTIFICATE] += 1
        elif not SSL_session_reused(ssl):
            cells[signature_cell(ssl)] += 1

    # -- reading

    cdef void read_once(self) except *:
        cdef bytes held = self.held
        if not self.context.ready:
            return
        if held is None:
            Transport.read_once(self)
            poison(plain, PLAIN_BYTES)           # what was gathered of it has been sent
            return
        self.held = None
        self.take(<const char *>held, len(held))
        if self.loop.slice_count:
            self.loop.flush()
        poison(plain, PLAIN_BYTES)
        if self.fd >= 0 and self.readable and not self.paused:
            self.loop.make_ready(self)

    cdef void take(self, const char *data, size_t length) except *:
        cdef Protocol protocol = self.protocol
        cdef bytes early = self.early
        if self.server and self.ssl == NULL:
            if early is not None:
                early = early + data[:length]
                data, length = <const char *>early, len(early)
            elif c'A' <= data[0] <= c'Z':
                self.answer_http()
                return
            if is_partial(data, length):
                self.early = data[:length] if early is None else early
                return
            self.early = None
        lend(data, length)
        pipe.afterthoughts = self.afterthoughts
        if self.shaking:
            if self.server and self.ssl == NULL:
                self.begin_server()
                lend(data, length)
            self.shake()
            if self.fd < 0 or self.shaking:
                return
            data, length = pipe.in_, pipe.in_length
            protocol.on_connected()
            if self.fd < 0 or length == 0:
                return
            if self.paused:
                self.held = data[:length]
                self.readable = True
                return
            lend(data, length)
        self.read_records()

    cdef void read_records(self) except *:
        """All that can be decrypted goes to the protocol in one piece. It is lent for as long as the inbox is: until the event's flush."""
        cdef Protocol protocol = self.protocol
        cdef size_t total = 0, got
        cdef int result = 1
        cdef int error = SSL_ERROR_NONE
        unpoison(plain, PLAIN_BYTES)
        while pipe.in_length or SSL_has_pending(self.ssl):
            got = 0
            result = SSL_read_ex(self.ssl, plain + total, PLAIN_BYTES - total, &got)
            total += got
            if result <= 0:
                error = SSL_get_error(self.ssl, result)
                break
        self.afterthoughts = 0 if total else pipe.afterthoughts
        self.received += total
        poison(plain + total, PLAIN_BYTES - total)
        if error == SSL_ERROR_NONE or error == SSL_ERROR_WANT_READ or error == SSL_ERROR_ZERO_RETURN:
            self.send_records()
            if total and self.fd >= 0:
                protocol.on_data(plain, total)
            if error == SSL_ERROR_ZERO_RETURN and self.fd >= 0:
                self.read_ended = True
                protocol = self.protocol         # perhaps another than that of the data
                protocol.on_end()
        else:
            if total:
                protocol.on_data(plain, total)
            if self.fd >= 0:
                self.break_off(result)

    cdef void take_end(self) except *:
        """The socket's end. Without a close_notify before it the peer may have been cut off; as in plaintext, the protocol's framing finds out."""
        cdef Protocol protocol
        if self.shaking:
            self.shut(CLOSE_REMOTE, ECONNRESET)
        else:
            protocol = self.protocol
            protocol.on_end()

    cdef void answer_http(self) except *:
        """A client that speaks HTTP to us gets an answer that it can read."""
        cdef iovec slices[1]
        self.context.cells[LISTENER_SSL_CONNECTION_ERROR] += 1
        self.context.cells[LISTENER_SSL_ERROR_HTTP_REQUEST] += 1
        self.failure = b"TLS_error: plain HTTP on a TLS port"
        self.broken = True
        slices[0].iov_base = <char *>NOT_TLS
        slices[0].iov_len = len(NOT_TLS)
        Transport.flush_slices(self, slices, 1)
        self.linger(HTTP_LINGER_MS)

    # -- writing

    cdef void flush_slices(self, iovec *slices, int count) except *:
        """What was gathered becomes full records and one that is shorter: small slices share one."""
        cdef size_t gathered = 0, part, length
        cdef const char *at
        cdef int i
        if self.fd < 0 or self.write_failed or self.broken:
            return
        if self.shaking:
            raise RuntimeError("written before the handshake was done")
        lend(NULL, 0)
        for i in range(count):
            at = <const char *>slices[i].iov_base
            length = slices[i].iov_len
            while length:
                if gathered == 0 and (length >= RECORD_BYTES or i == count - 1):
                    part = length if i == count - 1 else length - length % RECORD_BYTES
                    if not self.encrypt(at, part):
                        return
                else:
                    part = min(length, RECORD_BYTES - gathered)
                    memcpy(record + gathered, at, part)
                    gathered += part
                    if gathered == RECORD_BYTES:
                        gathered = 0
                        if not self.encrypt(record, RECORD_BYTES):
                            return
                at += part
                length -= part
        if gathered and not self.encrypt(record, gathered):
            return
        if self.says_end:
            self.says_end = False
            SSL_shutdown(self.ssl)
        self.send_records()

    cdef bint encrypt(self, const char *data, size_t length) except *:
        """False: it cannot be, and the transport is marked as failed."""
        cdef size_t taken
        while length:
            if SSL_write_ex(self.ssl, data, length, &taken) <= 0:
                self.broken = True
                ERR_clear_error()
                self.fail_write()
                return False
            data += taken
            length -= taken
            if pipe.out_length >= SHIP_BYTES:
                self.send_records()
                if self.write_failed:
                    return False
        return True

    cdef void send_records(self) except *:
        cdef iovec slices[1]
        if pipe.out_length == 0:
            return
        slices[0].iov_base = pipe.out
        slices[0].iov_len = pipe.out_length
        pipe.out_length = 0                      # sent or copied before OpenSSL is called again
        Transport.flush_slices(self, slices, 1)

    # -- ends

    cdef void half_close(self) except *:
        self.say_end()
        Transport.half_close(self)

    cdef void close_flushed(self, int64_t grace_ms) except *:
        self.say_end()
        Transport.close_flushed(self, grace_ms)

    cdef void say_end(self) except *:
        """A close_notify behind all that was written (RFC 8446 6.1), and in the same send as the last of it."""
        if self.fd < 0 or self.ssl == NULL or self.shaking or SSL_get_shutdown(self.ssl) & SSL_SENT_SHUTDOWN:
            return
        self.says_end = True
        if self.loop.gatherer is self:
            self.loop.flush()
        else:
            self.flush_slices(NULL, 0)

    cdef void shut(self, int why, int error) except *:
        """A close that cuts something off says no end: the peer must be able to tell."""
        if self.fd >= 0:
            if self.shaking and not self.opening and self.failure is None:
                why = self.give_up(why, error)
            if error == 0 and self.queue == NULL and self.loop.gatherer is not self:
                self.say_end()
            if self.ssl != NULL and not self.broken:     # or OpenSSL would forget a session that is still good
                SSL_set_shutdown(self.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
            self.held = self.early = None
            self.tag.sessions = NULL
        if self.info is not None and self.failure is not None:
            self.info.transport_failure = self.failure
        Transport.shut(self, why, error)

    cdef int give_up(self, int why, int error) noexcept:
        """Of a handshake that ends without a word of OpenSSL's: why, as the protocol is told."""
        if why == CLOSE_REMOTE:
            self.failure = b"TLS_error: the peer closed the connection within the handshake"
            self.context.cells[LISTENER_SSL_ERROR_CLOSED] += 1
            return CLOSE_REMOTE if self.server else CLOSE_CONNECT_FAILED
        if error == 0 and not self.loop.draining:
            self.failure = b"TLS_error: the handshake took too long"
            self.context.cells[LISTENER_SSL_ERROR_TIMEOUT] += 1
        return why

    cdef void break_off(self, int result) except *:
        """OpenSSL said no. What it wants to tell the peer is sent, then the connection ends."""
        cdef unsigned long code = ERR_peek_last_error()
        cdef int64_t *cells = self.context.cells
        cdef const char *reason
        self.broken = True
        if self.afterthoughts > AFTERTHOUGHTS_MOST:
            cells[LISTENER_SSL_CONNECTION_ERROR] += 1
            cells[LISTENER_SSL_ERROR_FLOOD] += 1
            self.failure = b"TLS_error: too many key updates or renegotiations"
        else:
            reason = ERR_reason_error_string(code)
            self.failure = b"TLS_error: " + (reason if reason != NULL else b"unknown error")
            if ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED:
                self.failure += b": " + X509_verify_cert_error_string(SSL_get_verify_result(self.ssl))
            else:
                cells[error_cell(code)] += 1
                if error_cell(code) != LISTENER_SSL_FAIL_VERIFY_NO_CERT:
                    cells[LISTENER_SSL_CONNECTION_ERROR] += 1
        ERR_clear_error()
        self.send_records()
        if self.fd >= 0:
            self.shut(CLOSE_CONNECT_FAILED if self.shaking and not self.server else CLOSE_LOCAL, EPROTO)
