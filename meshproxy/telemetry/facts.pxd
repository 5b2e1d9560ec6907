"""What is known of one exchange when it ends: the input of the access log. Plain pointers and numbers, good for the length of the call."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from meshproxy.codecs.http1 cimport Head

ctypedef struct Text:
    const char *at                       # NULL = absent
    uint32_t length

# Response flags as bits, in the order in which Envoy prints them; `flag_text` has the names.
cdef enum:
    FLAG_FAILED_LOCAL_HEALTH_CHECK = 1 << 0          # LH
    FLAG_NO_HEALTHY_UPSTREAM = 1 << 1                # UH
    FLAG_UPSTREAM_REQUEST_TIMEOUT = 1 << 2           # UT
    FLAG_LOCAL_RESET = 1 << 3                        # LR
    FLAG_UPSTREAM_REMOTE_RESET = 1 << 4              # UR
    FLAG_UPSTREAM_CONNECTION_FAILURE = 1 << 5        # UF
    FLAG_UPSTREAM_CONNECTION_TERMINATION = 1 << 6    # UC
    FLAG_UPSTREAM_OVERFLOW = 1 << 7                  # UO
    FLAG_NO_ROUTE_FOUND = 1 << 8                     # NR
    FLAG_DELAY_INJECTED = 1 << 9                     # DI
    FLAG_FAULT_INJECTED = 1 << 10                    # FI
    FLAG_RATE_LIMITED = 1 << 11                      # RL
    FLAG_UNAUTHORIZED_EXTERNAL_SERVICE = 1 << 12     # UAEX
    FLAG_DOWNSTREAM_CONNECTION_TERMINATION = 1 << 13 # DC
    FLAG_UPSTREAM_RETRY_LIMIT_EXCEEDED = 1 << 14     # URX
    FLAG_STREAM_IDLE_TIMEOUT = 1 << 15               # SI
    FLAG_INVALID_ENVOY_REQUEST_HEADERS = 1 << 16     # IH
    FLAG_DOWNSTREAM_PROTOCOL_ERROR = 1 << 17         # DPE
    FLAG_UPSTREAM_MAX_STREAM_DURATION = 1 << 18      # UMSDR
    FLAG_NO_CLUSTER_FOUND = 1 << 19                  # NC
    FLAG_OVERLOAD = 1 << 20                          # OM
    FLAG_DURATION_TIMEOUT = 1 << 21                  # DT
    FLAG_UPSTREAM_PROTOCOL_ERROR = 1 << 22           # UPE

# What a TLS handshake told, by place in `Facts.downstream_tls` and `upstream_tls`. Lists are joined by ",".
cdef enum:
    TLS_TOLD_VERSION = 0
    TLS_TOLD_CIPHER
    TLS_TOLD_SESSION_ID
    TLS_TOLD_PEER_FINGERPRINT_256
    TLS_TOLD_PEER_FINGERPRINT_1
    TLS_TOLD_PEER_SERIAL
    TLS_TOLD_PEER_CHAIN_FINGERPRINTS_256
    TLS_TOLD_PEER_CHAIN_FINGERPRINTS_1
    TLS_TOLD_PEER_CHAIN_SERIALS
    TLS_TOLD_PEER_SUBJECT
    TLS_TOLD_PEER_ISSUER
    TLS_TOLD_PEER_CERT
    TLS_TOLD_PEER_CERT_V_START           # unix time, decimal
    TLS_TOLD_PEER_CERT_V_END
    TLS_TOLD_PEER_URI_SAN
    TLS_TOLD_PEER_DNS_SAN
    TLS_TOLD_PEER_IP_SAN
    TLS_TOLD_PEER_EMAIL_SAN
    TLS_TOLD_PEER_OTHERNAME_SAN
    TLS_TOLD_LOCAL_SUBJECT
    TLS_TOLD_LOCAL_URI_SAN
    TLS_TOLD_LOCAL_DNS_SAN
    TLS_TOLD_LOCAL_IP_SAN
    TLS_TOLD_LOCAL_EMAIL_SAN
    TLS_TOLD_LOCAL_OTHERNAME_SAN
    TLS_TOLD_COUNT

# When a line is written.
cdef enum:
    LINE_OF_REQUEST = 0                  # at its end
    LINE_OF_TCP                          # a relay's end
    LINE_OF_TCP_CONNECTED
    LINE_OF_TCP_PERIODIC
    LINE_OF_CONNECTION                   # a listener's line, at a connection's end

ctypedef struct Facts:
    int line_type                        # LINE_OF_*
    # The request as it came (offsets of `request` are from `request_bytes`); NULL when no head could be read.
    const char *request_bytes
    const Head *request
    # The response's head as it was sent downstream: lines of "name: value\r\n" after the status line; NULL when none was sent.
    const char *response_bytes
    uint32_t response_length
    # Request headers that were set on the way (x-request-id, x-forwarded-for, ...): lines of "name: value\r\n"; looked at before `request`.
    const char *added_bytes
    uint32_t added_length
    Text method, path, original_path, authority, scheme
    int minor_version                    # of HTTP/1 downstream; 2 = HTTP/2; -1 = it is no HTTP
    int status                           # 0 = none sent
    uint64_t flags                       # FLAG_*
    Text code_details                    # Envoy's RESPONSE_CODE_DETAILS words ("via_upstream", "route_not_found", ...)
    Text termination_details             # CONNECTION_TERMINATION_DETAILS
    int64_t start_unix_us                # when the request's first byte came
    # microseconds since then; -1 = did not happen
    int64_t request_end_us               # last byte of the request received
    int64_t upstream_start_us            # first byte sent upstream
    int64_t response_start_us            # first byte of the response from upstream (RESPONSE_DURATION)
    int64_t response_end_us              # last byte of the response from upstream
    int64_t downstream_start_us          # first byte of the response sent
    int64_t duration_us                  # last byte of the response sent
    int64_t bytes_received               # body
    int64_t bytes_sent                   # body
    int64_t wire_bytes_received, wire_bytes_sent
    int attempts                         # UPSTREAM_REQUEST_ATTEMPT_COUNT
    int64_t connection_id
    int64_t upstream_connection_id       # 0 = none
    int upstream_version                 # of HTTP: 1, 2; 0 = no connection to an endpoint, or it is not HTTP
    Text downstream_remote               # "127.0.0.1:4711"
    Text downstream_direct_remote        # the peer of the socket (the same unless XFF gave another)
    Text downstream_local                # "127.0.0.1:8080"
    Text upstream_host, upstream_local   # "ip:port"
    Text upstream_cluster, route_name, virtual_host, listener
    Text upstream_failure_reason         # UPSTREAM_TRANSPORT_FAILURE_REASON
    Text downstream_failure_reason       # DOWNSTREAM_TRANSPORT_FAILURE_REASON
    Text server_name                     # REQUESTED_SERVER_NAME
    Text ja3, ja4                        # TLS_JA3_FINGERPRINT, TLS_JA4_FINGERPRINT
    Text trace_id                        # hexadecimal digits, sampled or not
    const Text *downstream_tls           # TLS_TOLD_COUNT texts; NULL = plaintext, or no log asks for them
    const Text *upstream_tls
    const char *trailer_bytes            # the response's trailers as they were sent, like `response_bytes`; NULL = none
    uint32_t trailer_length
