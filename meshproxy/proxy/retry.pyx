"""Whether a request is tried again: by the route's policy, within its budget, or because a pooled connection was stale."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.balance.cluster cimport SHARE_RETRIES
from meshproxy.codecs.http1 cimport METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_TRACE
from meshproxy.proxy.exchange cimport PHASE_ACQUIRE
from meshproxy.proxy.outcome cimport UPSTREAM_REFUSED, UPSTREAM_RESET, outcome_row
from meshproxy.proxy.router cimport *
from meshproxy.proxy.trace cimport end_try, lose_try
from meshproxy.scoreboard.cells cimport *
from meshproxy.telemetry.facts cimport FLAG_UPSTREAM_RETRY_LIMIT_EXCEEDED


cdef uint32_t status_reasons(Exchange x, int status) except? 0xffffffff:
    """Which words of the retry policy a status stands for."""
    cdef uint32_t reasons = 0
    if status >= 500:
        reasons |= RETRY_5XX
        if 502 <= status <= 504:
            reasons |= RETRY_GATEWAY_ERROR
    elif status == 409:
        reasons |= RETRY_RETRIABLE_4XX
    if x.retry_on & RETRY_STATUS_CODES and status in x.route.retriable_status_codes:
        reasons |= RETRY_STATUS_CODES
    return reasons & x.retry_on


cdef bint retry(Exchange x, uint32_t reasons) except *:
    """Try again if the policy, the kept bytes and the budget allow; True when it will be."""
    if not reasons & x.retry_on:
        return False
    if reasons & RETRY_RESET_BEFORE_REQUEST and not reasons & ~RETRY_RESET_BEFORE_REQUEST & x.retry_on and x.request_sent:
        return False
    if x.response_started or not may_resend(x):
        return False
    if x.retries_left <= 0:
        x.cluster.cells[CLUSTER_UPSTREAM_RQ_RETRY_LIMIT_EXCEEDED] += 1
        x.flags |= FLAG_UPSTREAM_RETRY_LIMIT_EXCEEDED
        return False
    give_retry_share(x)
    if not x.cluster.take_retry(x.priority, x.runtime.turn):
        x.cluster.cells[CLUSTER_UPSTREAM_RQ_RETRY_OVERFLOW] += 1
        return False
    x.holds_retry_share = True
    x.retries_left -= 1
    x.cluster.cells[CLUSTER_UPSTREAM_RQ_RETRY] += 1
    x.cluster.cells[CLUSTER_UPSTREAM_RQ_RETRY_BACKOFF_EXPONENTIAL] += 1
    if x.route.virtual_host.block >= 0:
        x.virtual_host_cells()[VHOST_UPSTREAM_RQ_RETRY] += 1
    remember_host(x)
    x.phase = PHASE_ACQUIRE
    x.try_deadline_ms = 0
    x.backoff_deadline_ms = x.runtime.now_ms + backoff_ms(x)
    x.arm()
    return True


cdef bint may_resend(Exchange x) noexcept:
    """All that was received of the request is still here."""
    return x.body_kept or x.bytes_received == 0


cdef void remember_host(Exchange x) except *:
    if x.route.avoid_previous_hosts and x.host is not None:
        if x.tried is None:
            x.tried = []
        x.tried.append(x.host)


cdef int64_t backoff_ms(Exchange x) noexcept:
    """Exponential with full jitter: a random part of base * (2**n - 1), at most the maximum."""
    cdef int shift = x.attempts if x.attempts < 16 else 16
    cdef int64_t reach = x.route.backoff_base_ms * ((1 << shift) - 1)
    reach = min(reach, x.route.backoff_max_ms)
    return 1 + (<int64_t>(x.runtime.random() >> 1)) % reach if reach > 0 else 1


cdef void give_retry_share(Exchange x) noexcept:
    if x.holds_retry_share:
        x.holds_retry_share = False
        x.cluster.give_share(x.priority, SHARE_RETRIES)


cdef bint is_idempotent(Exchange x) noexcept:
    return x.head.method in (METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_DELETE, METHOD_TRACE)


cdef bint may_repeat(Exchange x) noexcept:
    """See `retry_stale` and `retry_refused`."""
    return not x.stale_retry_used and (is_idempotent(x) or x.upstream_info.http_version == 2)


cdef bint retry_stale(Exchange x) except *:
    """A pooled connection was closed by the endpoint before it said a word (RFC 9112 9.3.1): ask again on a new one, once.

    Only what may be repeated (RFC 9110 9.2.2) and is still here in full; this is no retry of the policy and costs no budget.
    """
    if x.stale_retry_used or not may_resend(x) or x.wants_upgrade or not is_idempotent(x):
        return False
    x.needs_new_connection = True
    again(x, UPSTREAM_RESET)
    return True


cdef bint retry_refused(Exchange x) except *:
    """The endpoint says that it did not begin (RFC 9113 8.7): ask again, whatever the method, once; unless the policy has its own say."""
    if x.retry_on & outcome_row(UPSTREAM_REFUSED).retry_on or x.stale_retry_used or not may_resend(x) or x.wants_upgrade:
        return False
    again(x, UPSTREAM_REFUSED)
    return True


cdef void again(Exchange x, int lost) except *:
    if x.config.tracer is not None:
        lose_try(x, lost)
        end_try(x, False)
    x.stale_retry_used = True
    x.upstream = None
    x.try_deadline_ms = 0
    x.attempts -= 1
    x.start_try()
    x.needs_new_connection = False
