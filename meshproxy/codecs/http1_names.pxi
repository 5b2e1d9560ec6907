"""Part of http1.pyx: errors in words, header and method names to numbers."""

cdef const char *error_text(int error) noexcept nogil:
    if error == ERROR_BAD_REQUEST_LINE: return b"the request line is not method, target and version with one space between"
    if error == ERROR_BAD_STATUS_LINE: return b"the status line is not version, three digits from 100 to 599 and reason"
    if error == ERROR_BAD_VERSION: return b"the version is not HTTP/1.1 or an allowed HTTP/1.0"
    if error == ERROR_BAD_TARGET: return b"the request target has a form or a byte that is not allowed"
    if error == ERROR_BAD_METHOD: return b"the method is not a token"
    if error == ERROR_BAD_HEADER_NAME: return b"a header name is empty, is not a token or has no colon right after it"
    if error == ERROR_BAD_HEADER_VALUE: return b"a header value has a control character or more options than allowed"
    if error == ERROR_BARE_CR: return b"a CR without its LF"
    if error == ERROR_BARE_LF: return b"a LF without its CR"
    if error == ERROR_OBS_FOLD: return b"a header line begins with white space"
    if error == ERROR_BAD_CONTENT_LENGTH: return b"Content-Length is not one plain decimal number"
    if error == ERROR_LENGTH_AND_ENCODING: return b"both Content-Length and Transfer-Encoding"
    if error == ERROR_BAD_TRANSFER_ENCODING: return b"Transfer-Encoding is not one plain \"chunked\", or the message may not have it"
    if error == ERROR_MISSING_HOST: return b"a HTTP/1.1 request without Host"
    if error == ERROR_BAD_HOST: return b"Host is repeated, empty or not host and port"
    if error == ERROR_HEAD_TOO_LARGE: return b"the head is longer than the limit"
    if error == ERROR_TOO_MANY_HEADERS: return b"the head has more header lines than the limit"
    if error == ERROR_TARGET_TOO_LONG: return b"the request target is longer than the limit"
    if error == ERROR_BAD_CHUNK: return b"a chunk's size, extension or line end is malformed"
    if error == ERROR_BAD_TRAILER: return b"a trailer line is malformed or its name is not allowed in trailers"
    if error == ERROR_TRAILERS_TOO_LARGE: return b"the trailers are longer than the limit"
    if error == ERROR_HTTP2_PREFACE: return b"the HTTP/2 preface on a HTTP/1 connection"
    if error == ERROR_TLS_HELLO: return b"a TLS hello on a plaintext port"
    if error == ERROR_NOT_IMPLEMENTED_ENCODING: return b"a transfer coding other than chunked"
    if error == PARSE_MORE: return b"the head is not there in full"
    return b""


cdef int error_status(int error) noexcept nogil:
    """The status to answer with. To a bad response it says what a client would have been told; a proxy answers 502."""
    if error == ERROR_HEAD_TOO_LARGE or error == ERROR_TOO_MANY_HEADERS or error == ERROR_TRAILERS_TOO_LARGE: return 431
    if error == ERROR_TARGET_TOO_LONG: return 414
    if error == ERROR_NOT_IMPLEMENTED_ENCODING: return 501
    if error == ERROR_BAD_VERSION: return 505
    return 400


cdef inline int envoy_header_id(const char *name, size_t length) noexcept nogil:
    """The id of a name that begins with "x-envoy-"."""
    cdef const char *rest = name + 8
    if length == 16:
        if h1_same(rest, b"internal", 8): return HEADER_X_ENVOY_INTERNAL
        if h1_same(rest, b"retry-on", 8): return HEADER_X_ENVOY_RETRY_ON
    elif length == 19:
        if h1_same(rest, b"max-retries", 11): return HEADER_X_ENVOY_MAX_RETRIES
    elif length == 21:
        if h1_same(rest, b"attempt-count", 13): return HEADER_X_ENVOY_ATTEMPT_COUNT
        if h1_same(rest, b"original-path", 13): return HEADER_X_ENVOY_ORIGINAL_PATH
    elif length == 24:
        if h1_same(rest, b"external-address", 16): return HEADER_X_ENVOY_EXTERNAL_ADDRESS
    elif length == 30:
        if h1_same(rest, b"expected-rq-timeout-ms", 22): return HEADER_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS
        if h1_same(rest, b"upstream-rq-timeout-ms", 22): return HEADER_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS
    elif length == 29:
        if h1_same(rest, b"upstream-service-time", 21): return HEADER_X_ENVOY_UPSTREAM_SERVICE_TIME
    elif length == 38:
        if h1_same(rest, b"upstream-rq-per-try-timeout-ms", 30): return HEADER_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS
    return HEADER_X_ENVOY_OTHER


cdef int header_id(const char *name, size_t length) noexcept nogil:
    """By length and first letter to at most one comparison. `name` is a token; anything else may match by mistake."""
    cdef char first = name[0] | 0x20 if length else 0
    if length == 2:
        if h1_same(name, b"te", 2): return HEADER_TE
    elif length == 3:
        if h1_same(name, b"via", 3): return HEADER_VIA
    elif length == 4:
        if h1_same(name, b"host", 4): return HEADER_HOST
        if h1_same(name, b"date", 4): return HEADER_DATE
    elif length == 6:
        if h1_same(name, b"server", 6): return HEADER_SERVER
        if h1_same(name, b"expect", 6): return HEADER_EXPECT
    elif length == 7:
        if h1_same(name, b"referer", 7): return HEADER_REFERER
        if h1_same(name, b"upgrade", 7): return HEADER_UPGRADE
        if h1_same(name, b"trailer", 7): return HEADER_TRAILER
    elif length == 10:
        if first == b'u' and h1_same(name, b"user-agent", 10): return HEADER_USER_AGENT
        if first == b'c' and h1_same(name, b"connection", 10): return HEADER_CONNECTION
        if first == b'k' and h1_same(name, b"keep-alive", 10): return HEADER_KEEP_ALIVE
    elif length == 12:
        if first == b'c' and h1_same(name, b"content-type", 12): return HEADER_CONTENT_TYPE
        if first == b'x' and h1_same(name, b"x-request-id", 12): return HEADER_X_REQUEST_ID
    elif length == 14:
        if first == b'c' and h1_same(name, b"content-length", 14): return HEADER_CONTENT_LENGTH
        if first == b'h' and h1_same(name, b"http2-settings", 14): return HEADER_HTTP2_SETTINGS
    elif length == 15:
        if first == b'x' and h1_same(name, b"x-forwarded-for", 15): return HEADER_X_FORWARDED_FOR
    elif length == 16:
        if first == b'x' and h1_same(name, b"x-forwarded-host", 16): return HEADER_X_FORWARDED_HOST
        if first == b'p' and h1_same(name, b"proxy-connection", 16): return HEADER_PROXY_CONNECTION
    elif length == 17:
        if first == b't' and h1_same(name, b"transfer-encoding", 17): return HEADER_TRANSFER_ENCODING
        if first == b'x' and h1_same(name, b"x-forwarded-proto", 17): return HEADER_X_FORWARDED_PROTO
    elif length == 23:
        if first == b'x' and h1_same(name, b"x-forwarded-client-cert", 23): return HEADER_X_FORWARDED_CLIENT_CERT
    if first == b'x' and length > 8 and h1_same(name, b"x-envoy-", 8):
        return envoy_header_id(name, length)
    return HEADER_OTHER


cdef inline int method_id(const char *name, size_t length) noexcept nogil:
    """Methods are compared with regard to case (RFC 9110 9.1)."""
    if length == 3:
        if memcmp(name, b"GET", 3) == 0: return METHOD_GET
        if memcmp(name, b"PUT", 3) == 0: return METHOD_PUT
    elif length == 4:
        if memcmp(name, b"POST", 4) == 0: return METHOD_POST
        if memcmp(name, b"HEAD", 4) == 0: return METHOD_HEAD
    elif length == 5:
        if memcmp(name, b"PATCH", 5) == 0: return METHOD_PATCH
        if memcmp(name, b"TRACE", 5) == 0: return METHOD_TRACE
    elif length == 6:
        if memcmp(name, b"DELETE", 6) == 0: return METHOD_DELETE
    elif length == 7:
        if memcmp(name, b"OPTIONS", 7) == 0: return METHOD_OPTIONS
        if memcmp(name, b"CONNECT", 7) == 0: return METHOD_CONNECT
    return METHOD_OTHER
