"""The table of outcomes. Bodies and words are Envoy's, so that dashboards and log searches made for it keep working."""

from meshproxy.proxy.router cimport (
    RETRY_5XX, RETRY_CONNECT_FAILURE, RETRY_GATEWAY_ERROR, RETRY_REFUSED_STREAM, RETRY_RESET, RETRY_RESET_BEFORE_REQUEST,
)
from meshproxy.telemetry.facts cimport *

cdef OutcomeRow rows[OUTCOME_COUNT]
cdef const char *after_retries[OUTCOME_COUNT]
cdef list kept = []                      # holds what `after_retries` points into

cdef enum:
    ANY_RESET = RETRY_5XX | RETRY_GATEWAY_ERROR | RETRY_RESET


cdef void row(int outcome, int status, const char *body, uint64_t flag, const char *details, uint32_t retry_on=0) except *:
    rows[outcome].status = status
    rows[outcome].body = body
    rows[outcome].flag = flag
    rows[outcome].details = details
    rows[outcome].retry_on = retry_on
    kept.append((<bytes>body).replace(b"headers. reset reason", b"headers. retried and the latest reset reason"))
    after_retries[outcome] = <const char *>(<bytes>kept[len(kept) - 1])


row(ANSWERED, 0, b"", 0, b"via_upstream")
row(NO_ROUTE, 404, b"", FLAG_NO_ROUTE_FOUND, b"route_not_found")
row(NO_CLUSTER, 503, b"", FLAG_NO_CLUSTER_FOUND, b"cluster_not_found")
row(NO_HEALTHY_UPSTREAM, 503, b"no healthy upstream", FLAG_NO_HEALTHY_UPSTREAM, b"no_healthy_upstream")
row(CONNECT_FAILED, 503, b"upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
    FLAG_UPSTREAM_CONNECTION_FAILURE, b"upstream_reset_before_response_started{remote_connection_failure}",
    ANY_RESET | RETRY_CONNECT_FAILURE | RETRY_RESET_BEFORE_REQUEST)
row(CONNECT_TIMED_OUT, 503, b"upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
    FLAG_UPSTREAM_CONNECTION_FAILURE, b"upstream_reset_before_response_started{connection_timeout}",
    ANY_RESET | RETRY_CONNECT_FAILURE | RETRY_RESET_BEFORE_REQUEST)
row(UPSTREAM_RESET, 503, b"upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    FLAG_UPSTREAM_CONNECTION_TERMINATION, b"upstream_reset_before_response_started{connection_termination}", ANY_RESET)
row(UPSTREAM_REMOTE_RESET, 503, b"upstream connect error or disconnect/reset before headers. reset reason: remote reset",
    FLAG_UPSTREAM_REMOTE_RESET, b"upstream_reset_before_response_started{remote_reset}", ANY_RESET)
row(UPSTREAM_REFUSED, 503, b"upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset",
    FLAG_UPSTREAM_REMOTE_RESET, b"upstream_reset_before_response_started{remote_refused_stream_reset}", ANY_RESET | RETRY_REFUSED_STREAM)
row(UPSTREAM_PROTOCOL_ERROR, 502, b"upstream connect error or disconnect/reset before headers. reset reason: protocol error",
    FLAG_UPSTREAM_PROTOCOL_ERROR, b"upstream_reset_before_response_started{protocol_error}", ANY_RESET)
row(UPSTREAM_CUT, 0, b"", FLAG_UPSTREAM_CONNECTION_TERMINATION, b"upstream_reset_after_response_started{connection_termination}")
row(UPSTREAM_CUT_BY_RESET, 0, b"", FLAG_UPSTREAM_REMOTE_RESET, b"upstream_reset_after_response_started{remote_reset}")
row(UPSTREAM_CUT_BY_ERROR, 0, b"", FLAG_UPSTREAM_PROTOCOL_ERROR, b"upstream_reset_after_response_started{protocol_error}")
row(UPSTREAM_OVERFLOW, 503, b"upstream connect error or disconnect/reset before headers. reset reason: overflow",
    FLAG_UPSTREAM_OVERFLOW, b"upstream_reset_before_response_started{overflow}")
row(UPSTREAM_TIMEOUT, 504, b"upstream request timeout", FLAG_UPSTREAM_REQUEST_TIMEOUT, b"response_timeout")
row(PER_TRY_TIMEOUT, 504, b"upstream request timeout", FLAG_UPSTREAM_REQUEST_TIMEOUT, b"upstream_per_try_timeout", RETRY_5XX | RETRY_GATEWAY_ERROR)
row(STREAM_IDLE, 408, b"stream timeout", FLAG_STREAM_IDLE_TIMEOUT, b"stream_idle_timeout")
row(REQUEST_TIMEOUT, 408, b"request timeout", 0, b"request_overall_timeout")
row(REQUEST_HEAD_TIMEOUT, 408, b"request header timeout", 0, b"request_header_timeout")
row(MAX_DURATION, 408, b"downstream duration timeout", 0, b"max_duration_timeout")
row(BODY_TOO_LARGE, 413, b"Payload Too Large", 0, b"request_payload_too_large")
row(BAD_REQUEST, 400, b"Bad Request", FLAG_DOWNSTREAM_PROTOCOL_ERROR, b"http1.codec_error")
row(HEAD_TOO_LARGE, 431, b"Request Header Fields Too Large", FLAG_DOWNSTREAM_PROTOCOL_ERROR, b"http1.headers_too_large")
row(TARGET_TOO_LONG, 414, b"URI Too Long", FLAG_DOWNSTREAM_PROTOCOL_ERROR, b"http1.target_too_long")
row(BAD_ENCODING, 501, b"Not Implemented", FLAG_DOWNSTREAM_PROTOCOL_ERROR, b"http1.invalid_transfer_encoding")
row(OLD_VERSION, 426, b"Upgrade Required", 0, b"low_version")
row(EXPECTATION_FAILED, 417, b"Expectation Failed", 0, b"expectation_failed")
row(UPGRADE_REFUSED, 403, b"", 0, b"upgrade_failed")
row(HTTPS_REQUIRED, 301, b"", 0, b"https_required")
row(OVERLOADED, 503, b"envoy overloaded", FLAG_OVERLOAD, b"overload")
row(CLIENT_GONE, 0, b"", FLAG_DOWNSTREAM_CONNECTION_TERMINATION, b"downstream_remote_disconnect")
row(DIRECT, 0, b"", 0, b"direct_response")
row(REDIRECTED, 0, b"", 0, b"direct_response")
row(BY_FILTER, 0, b"", 0, b"filter_response")
row(ACCESS_DENIED, 403, b"RBAC: access denied", 0, b"rbac_access_denied_matched_policy[none]")
row(FILTER_FAILED, 500, b"Internal Server Error", 0, b"filter_error")


cdef const OutcomeRow *outcome_row(int outcome) noexcept nogil:
    return &rows[outcome]


cdef const char *body_after_retries(int outcome) noexcept nogil:
    return after_retries[outcome]


cdef int cut_outcome(int outcome) noexcept nogil:
    if outcome == UPSTREAM_REMOTE_RESET or outcome == UPSTREAM_REFUSED:
        return UPSTREAM_CUT_BY_RESET
    return UPSTREAM_CUT_BY_ERROR if outcome == UPSTREAM_PROTOCOL_ERROR else UPSTREAM_CUT
