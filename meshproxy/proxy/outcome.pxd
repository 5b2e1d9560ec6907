"""How a request can end by our own word: one row each with status, body, flag, words for the log, and whether a retry policy may step in."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum Outcome:
    ANSWERED = 0                         # by the upstream
    NO_ROUTE
    NO_CLUSTER
    NO_HEALTHY_UPSTREAM
    CONNECT_FAILED
    CONNECT_TIMED_OUT
    UPSTREAM_RESET                       # before the response's head
    UPSTREAM_REMOTE_RESET                # of the stream alone, by the endpoint
    UPSTREAM_REFUSED                     # the endpoint did not begin it
    UPSTREAM_PROTOCOL_ERROR
    UPSTREAM_CUT                         # these, within the response
    UPSTREAM_CUT_BY_RESET
    UPSTREAM_CUT_BY_ERROR
    UPSTREAM_OVERFLOW                    # a breaker is open
    UPSTREAM_TIMEOUT
    PER_TRY_TIMEOUT
    STREAM_IDLE
    REQUEST_TIMEOUT
    REQUEST_HEAD_TIMEOUT
    MAX_DURATION
    BODY_TOO_LARGE
    BAD_REQUEST
    HEAD_TOO_LARGE
    TARGET_TOO_LONG
    BAD_ENCODING
    OLD_VERSION
    EXPECTATION_FAILED
    UPGRADE_REFUSED
    HTTPS_REQUIRED
    OVERLOADED
    CLIENT_GONE
    DIRECT
    REDIRECTED
    BY_FILTER
    ACCESS_DENIED
    FILTER_FAILED
    OUTCOME_COUNT

ctypedef struct OutcomeRow:
    int status                           # 0 = the response already runs, or nobody is left to answer
    const char *body
    uint64_t flag                        # telemetry.facts FLAG_*
    const char *details
    uint32_t retry_on                    # proxy.router RETRY_* bits that allow another try

cdef const OutcomeRow *outcome_row(int outcome) noexcept nogil
# The body after more than one try.
cdef const char *body_after_retries(int outcome) noexcept nogil
# What the loss of an upstream stream is once its response has begun.
cdef int cut_outcome(int outcome) noexcept nogil
