"""Another try for an exchange."""

from libc.stdint cimport uint32_t
from meshproxy.proxy.exchange cimport Exchange

# Which words of the retry policy a response's status stands for (RETRY_*); 0 = none.
cdef uint32_t status_reasons(Exchange exchange, int status) except? 0xffffffff
# Try again if the policy, the kept bytes and the budget allow; True when it will be, after a back-off.
cdef bint retry(Exchange exchange, uint32_t reasons) except *
# True: the request goes again, on a new connection; the stream has let go of the exchange.
cdef bint retry_stale(Exchange exchange) except *
cdef bint retry_refused(Exchange exchange) except *
# Whether the present try may be followed by another without a policy, if its body is still here.
cdef bint may_repeat(Exchange exchange) noexcept
cdef void give_retry_share(Exchange exchange) noexcept
