"""HTTP/1.1 (RFC 9110, RFC 9112) as bytes in, tables of offsets out. No socket, clock, log, allocation or Python object on the way.

A head is parsed only when it is there in full. All offsets are from the first byte of the head. Nothing here keeps a pointer after the call,
except `BodyDecoder.trailers`, which is good until the decoder's next call.
"""

from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t

# Header names that the proxy acts on; every other is HEADER_OTHER. Matched without regard to case.
cdef enum:
    HEADER_OTHER = 0
    HEADER_HOST
    HEADER_CONTENT_LENGTH
    HEADER_TRANSFER_ENCODING
    HEADER_CONNECTION
    HEADER_KEEP_ALIVE
    HEADER_PROXY_CONNECTION
    HEADER_TE
    HEADER_TRAILER
    HEADER_UPGRADE
    HEADER_EXPECT
    HEADER_DATE
    HEADER_SERVER
    HEADER_VIA
    HEADER_USER_AGENT
    HEADER_REFERER
    HEADER_CONTENT_TYPE
    HEADER_HTTP2_SETTINGS
    HEADER_X_FORWARDED_FOR
    HEADER_X_FORWARDED_PROTO
    HEADER_X_FORWARDED_HOST
    HEADER_X_FORWARDED_CLIENT_CERT
    HEADER_X_REQUEST_ID
    HEADER_X_ENVOY_INTERNAL
    HEADER_X_ENVOY_EXTERNAL_ADDRESS
    HEADER_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS
    HEADER_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS
    HEADER_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS
    HEADER_X_ENVOY_MAX_RETRIES
    HEADER_X_ENVOY_RETRY_ON
    HEADER_X_ENVOY_ATTEMPT_COUNT
    HEADER_X_ENVOY_ORIGINAL_PATH
    HEADER_X_ENVOY_UPSTREAM_SERVICE_TIME
    HEADER_X_ENVOY_OTHER                 # any other x-envoy- name
    HEADER_ID_COUNT

cdef enum:
    METHOD_OTHER = 0
    METHOD_GET
    METHOD_HEAD
    METHOD_POST
    METHOD_PUT
    METHOD_DELETE
    METHOD_OPTIONS
    METHOD_CONNECT
    METHOD_TRACE
    METHOD_PATCH

cdef enum:
    BODY_NONE = 0
    BODY_LENGTH
    BODY_CHUNKED
    BODY_UNTIL_CLOSE                     # responses only

# What a parse says. Errors are negative; `error_text` and `error_status` tell more.
cdef enum:
    PARSE_OK = 0
    PARSE_MORE = 1                       # the head is not there in full
    ERROR_BAD_REQUEST_LINE = -1
    ERROR_BAD_STATUS_LINE = -2
    ERROR_BAD_VERSION = -3
    ERROR_BAD_TARGET = -4
    ERROR_BAD_METHOD = -5
    ERROR_BAD_HEADER_NAME = -6           # empty, not a token, space before the colon
    ERROR_BAD_HEADER_VALUE = -7          # NUL, CR, LF or another control
    ERROR_BARE_CR = -8
    ERROR_BARE_LF = -9
    ERROR_OBS_FOLD = -10
    ERROR_BAD_CONTENT_LENGTH = -11       # not 1*DIGIT, a list, repeated, over 2**62
    ERROR_LENGTH_AND_ENCODING = -12      # both Content-Length and Transfer-Encoding
    ERROR_BAD_TRANSFER_ENCODING = -13    # anything but one "chunked"; in a HTTP/1.0 message at all
    ERROR_MISSING_HOST = -14
    ERROR_BAD_HOST = -15                 # repeated, or no host
    ERROR_HEAD_TOO_LARGE = -16           # 431
    ERROR_TOO_MANY_HEADERS = -17         # 431
    ERROR_TARGET_TOO_LONG = -18          # 414
    ERROR_BAD_CHUNK = -19                # size, extension or line end of a chunk
    ERROR_BAD_TRAILER = -20
    ERROR_TRAILERS_TOO_LARGE = -21
    ERROR_HTTP2_PREFACE = -22            # "PRI * HTTP/2.0": the client speaks HTTP/2 to us
    ERROR_TLS_HELLO = -23                # first byte 0x16 0x03: the client speaks TLS to a plaintext port
    ERROR_NOT_IMPLEMENTED_ENCODING = -24 # 501: a transfer coding that is well formed but not chunked

ctypedef struct HeaderField:
    uint32_t name_at
    uint32_t value_at                    # optional white space around the value is not part of it
    uint32_t value_length
    uint16_t name_length
    uint8_t id                           # HEADER_*
    uint8_t hop_by_hop                   # 1: for this connection only (RFC 9110 7.6.1): by its name or because Connection names it

ctypedef struct Limits:
    uint32_t head_bytes
    uint32_t headers
    uint32_t target_bytes
    bint allow_http_10
    bint allow_absolute_form

ctypedef struct Head:
    uint32_t length                      # of the whole head, with the empty line
    int minor_version                    # 0 or 1
    # a request's
    int method
    uint32_t method_at, method_length
    uint32_t target_at, target_length    # as on the wire
    uint32_t path_at, path_length        # path and query of origin-form and absolute-form ("/" when absolute-form has none); "*" for OPTIONS *; 0 long for CONNECT
    uint32_t authority_at, authority_length   # of absolute-form and CONNECT, else the Host header's value
    bint absolute_form                   # RFC 9112 3.2.2: then the Host header is to be replaced by the authority
    bint path_is_root                    # absolute-form without a path: it stands for "/", and path_length is 0
    # a response's
    int status
    uint32_t reason_at, reason_length
    # both
    int body                             # BODY_*
    int64_t content_length               # with BODY_LENGTH; also of a response to HEAD, with BODY_NONE; -1 = none given
    bint keep_alive                      # what the version and Connection say together
    bint upgrade                         # Connection: upgrade and an Upgrade header, both
    bint expect_continue
    bint expect_other                    # an Expect that is not 100-continue: 417
    int count                            # of `fields`
    int16_t known[HEADER_ID_COUNT]       # index of the first field with that id, -1 = none
    HeaderField *fields                  # owned by the caller, `capacity` long
    int capacity

ctypedef struct BodyDecoder:
    int state
    int64_t remaining
    uint32_t line_bytes                  # of the chunk-size line so far: bounded
    uint32_t extension_bytes             # of all chunk-size lines of this body so far: bounded
    uint32_t trailer_limit
    char *trailers                       # raw trailer lines with their CRLFs, without the last empty line; NULL = none; checked, see parse_trailers
    uint32_t trailers_length
    char *held                           # trailer bytes that came in pieces (malloc)
    uint32_t held_length, held_capacity

# What `body_step` says; errors as above.
cdef enum:
    BODY_MORE = 1                        # all was consumed, the body goes on
    BODY_DATA = 2                        # a slice of body
    BODY_END = 3                         # the body is over; what follows in `data` belongs to the next message

cdef const char *error_text(int error) noexcept nogil
cdef int error_status(int error) noexcept nogil

# Parse the request head at `data`. Leading empty lines (RFC 9112 2.2) are at most one CRLF, counted in `length` and in all offsets.
# `scanned` is how much of `data` an earlier call has seen (0 at first): it is not searched again for the end of the head. That call must
# have said PARSE_MORE. Until the head is there, too, what no further bytes can mend is an error.
cdef int parse_request(Head *head, const char *data, size_t length, size_t scanned, const Limits *limits) noexcept nogil

# Parse a response head. `request_method` decides framing (HEAD, CONNECT; RFC 9112 6.3).
cdef int parse_response(Head *head, const char *data, size_t length, size_t scanned, const Limits *limits, int request_method) noexcept nogil

# Parse trailer lines (as in BodyDecoder.trailers) into head.fields/count/known. Framing and routing fields are refused (RFC 9110 6.5.1).
cdef int parse_trailers(Head *head, const char *data, size_t length, const Limits *limits) noexcept nogil

# On a decoder that is new or released: it forgets what was held. Then `body_step` until it says BODY_MORE, BODY_END or an error, also
# when no bytes are left: BODY_DATA may have taken the last of them, and BODY_END takes none.
cdef void body_start(BodyDecoder *decoder, int body, int64_t content_length, uint32_t trailer_limit) noexcept nogil
# One step over `data`: takes `consumed[0]` bytes; with BODY_DATA the slice is `out[0]`, `out_length[0]` (inside `data`).
cdef int body_step(BodyDecoder *decoder, const char *data, size_t length, size_t *consumed, const char **out, size_t *out_length) noexcept nogil
cdef void body_release(BodyDecoder *decoder) noexcept nogil

# The id of a header name, any case.
cdef int header_id(const char *name, size_t length) noexcept nogil
