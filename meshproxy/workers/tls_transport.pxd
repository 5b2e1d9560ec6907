"""A transport that speaks TLS: the protocol sees plaintext and `on_connected` when the handshake is done, the socket sees records.

What the base class queues is ciphertext, so queue, watermarks, grace and lingering are the same code. When a handshake fails,
`on_closed` comes with EPROTO, or 0 where the peer just left; `failure` then says why.
"""

from meshproxy.proxy.connection cimport ConnectionInfo, TlsFacts
from meshproxy.workers.openssl cimport SSL
from meshproxy.workers.tls_context cimport SessionStore, TlsContext, TlsTag
from meshproxy.workers.transport cimport Transport
from meshproxy.workers.net cimport iovec

cdef class TlsTransport(Transport):
    cdef TlsContext context
    cdef SSL *ssl
    cdef TlsTag tag
    cdef ConnectionInfo info             # of a client's connection: gets SNI, ALPN and facts; None on our way upstream
    cdef SessionStore sessions           # to resume on our way upstream; None = none
    cdef bint server
    cdef bint shaking                    # the handshake is not done
    cdef bint broken                     # a fatal error: nothing more may be sent by OpenSSL
    cdef bint says_end                   # a close_notify goes out with what is flushed next
    cdef int afterthoughts
    cdef bytes early                     # of a client's first record, until it is whole; None = nothing
    cdef bytes held                      # ciphertext read before the protocol paused us; None = none
    cdef bytes failure                   # why the handshake failed, or the connection broke; None = it did not
    cdef readonly bytes alpn             # what was negotiated; None = nothing

    # Before `open`, one of the two.
    cdef void accept_tls(self, TlsContext context, ConnectionInfo info) except *
    # `sni` None: none is sent.
    cdef void connect_tls(self, TlsContext context, bytes sni, SessionStore sessions) except *
    cdef void begin_server(self) except *
    cdef void shake(self) except *
    cdef void finish_handshake(self) except *
    cdef bint may_sign(self) except *
    cdef void read_records(self) except *
    cdef void send_records(self) except *
    cdef bint encrypt(self, const char *data, size_t length) except *
    cdef void say_end(self) except *
    cdef int give_up(self, int why, int error) noexcept
    cdef void break_off(self, int result) except *
    cdef void answer_http(self) except *
    cdef void count_handshake(self) noexcept
