"""What is known of a client's connection, whatever it carries: addresses, what listener filters found, what the TLS handshake told."""

from libc.stdint cimport int64_t, uint16_t, uint64_t, uint8_t
from meshproxy.telemetry.facts cimport TLS_TOLD_COUNT, Facts, Text

ctypedef struct IpPort:
    uint8_t ip[16]                       # IPv4 as ::ffff:a.b.c.d
    uint8_t family                       # 4, 6; 0 = a UNIX socket, or not known
    uint16_t port

cdef class TlsFacts:
    """What a handshake told. `load` fills the certificate's fields in at the first use: most connections never ask."""
    cdef bytes version                   # "TLSv1.3"
    cdef bytes cipher                    # OpenSSL's name
    cdef bytes session_id                # hex; None = none
    cdef bint resumed
    cdef bint presented                  # the peer showed a certificate
    cdef bint verified                   # and it was verified
    cdef bint loaded
    cdef bytes subject, issuer           # RFC 2253
    cdef bytes serial                    # hex
    cdef bytes fingerprint_256, fingerprint_1    # hex, of the DER
    cdef bytes valid_from, valid_until   # seconds since 1970, decimal
    cdef list uri_sans, dns_sans, ip_sans, email_sans    # of bytes
    cdef bytes pem, chain_pem            # URL-encoded
    cdef list local_uri_sans, local_dns_sans
    cdef bytes local_subject
    cdef Text told[TLS_TOLD_COUNT]       # the same for the access log
    cdef list kept                       # what `told` points into
    cdef bytes forwarded                 # x-forwarded-client-cert as `forwarded_by` says it; None = not made yet
    cdef object forwarded_by
    cdef void load(self) except *

cdef class UpstreamInfo:
    """What is known of a connection to an endpoint. It may outlive that: a log asks at the request's end."""
    cdef TlsFacts tls                    # None = plaintext
    cdef int64_t id                      # unique in the node, among clients' connections too
    cdef int http_version                # 1, 2; 0 = it is not HTTP
    cdef bytes local_address             # our end, "ip:port"; "" = a UNIX socket
    cdef void describe(self, Facts *facts, bint whole) except *

cdef class ConnectionInfo:
    cdef IpPort remote                   # the client: the socket's peer, or who a PROXY header names
    cdef IpPort direct_remote            # the socket's peer
    cdef IpPort local                    # where the client meant to go; `family` 0 until somebody needed it
    cdef char remote_ip[48]              # text, for x-forwarded-for
    cdef size_t remote_ip_length
    cdef bytes local_address             # text, "ip:port" or a path; None until somebody needed it
    cdef int64_t id, opened_us
    cdef bint admitted                   # by all connection filters, which are to be told when it is gone
    cdef int fd                          # the socket while the connection is open, else -1
    cdef set own_pools                   # of workers.pool.HostPool: connections to endpoints for this client alone; None = none
    cdef int http_version                # of HTTP/1 the minor one, 2 = HTTP/2; -1 = no request came, or it is not HTTP
    cdef int64_t bytes_received, bytes_sent      # what was carried, when it is over
    cdef uint64_t flags                  # FLAG_* of a connection that was refused
    cdef const char *code_details        # NULL = none
    cdef bytes termination               # why the proxy closed it, in the access log's words; None = it did not
    cdef bint tls
    cdef bytes sni, alpn                 # alpn: what was negotiated, or the first that the client offers while chains are chosen
    cdef list offered_alpn               # of bytes; None = not inspected
    cdef bytes transport_protocol        # "tls", "raw_buffer"; None = not inspected
    cdef bytes ja3, ja4
    cdef TlsFacts tls_facts              # None = plaintext
    cdef bytes transport_failure         # why the handshake failed; None = it did not
    cdef list proxy_tlvs                 # of (type, bytes); None = no PROXY header
