"""OpenSSL contexts of a filter chain or a cluster, made from the model and its secrets. A changed secret makes a new context."""

from libc.stdint cimport int64_t
from meshproxy.scoreboard.cells cimport LISTENER_SSL_CELLS
from meshproxy.workers.openssl cimport SSL, SSL_CTX, SSL_SESSION, X509
from meshproxy.workers.tls_key_log cimport KeyLogFile
from meshproxy.workers.tls_peer_check cimport PeerCheck
from meshproxy.workers.tls_ticket_keys cimport TicketKeys

# What a callback of OpenSSL finds at its SSL (app data). Lives in the connection's transport.
ctypedef struct TlsTag:
    void *context                        # the TlsContext
    void *sessions                       # the SessionStore of a client's host; NULL = none
    int logs_keys

cdef class SessionStore:
    """Sessions of one host to resume, by the SNI that they were made with; the oldest goes first."""
    cdef object context                  # whose handshakes they come from: under other rules none of them counts
    cdef dict sessions                   # SNI: list of addresses of SSL_SESSION, owned
    cdef int64_t held
    cdef int64_t most
    cdef void keep(self, bytes sni, SSL_SESSION *session) except *
    # An owned session or NULL.
    cdef SSL_SESSION *take(self, TlsContext context, bytes sni) except? NULL
    cdef void clear(self) noexcept

cdef class TlsContext:
    cdef SSL_CTX *ctx
    cdef readonly object model           # model.DownstreamTls or model.UpstreamTls
    cdef readonly bint ready             # False: a secret has not come yet
    cdef int64_t *cells                  # a LISTENER_SSL or CLUSTER_SSL block
    cdef int64_t own_cells[LISTENER_SSL_CELLS]
    cdef PeerCheck check
    cdef bytes alpn                      # in wire form; empty = none
    cdef TicketKeys tickets
    cdef list others                     # of CertificateContext: what the choice by SNI may switch to
    cdef dict exact, suffixes            # server name, or what stands behind its first label: CertificateContext
    cdef object mismatched               # the CertificateContext for a name that no certificate has; None = `ctx`
    cdef dict staples                    # address of an X509: its Credential
    cdef int staple_policy
    cdef KeyLogFile key_log              # None = keys are not logged
    cdef SSL *begin(self, TlsTag *tag) except NULL
    cdef void count_by(self, int64_t *cells) noexcept

cdef class CertificateContext:
    """One choice of certificates: at most one of each key type."""
    cdef SSL_CTX *ctx
