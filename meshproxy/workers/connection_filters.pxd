"""What an admitted connection has passed: limits of number and rate, rules of who may connect."""

from libc.stdint cimport int64_t
from meshproxy.proxy.connection cimport ConnectionInfo, IpPort
from meshproxy.proxy.text_match cimport TextMatch
from meshproxy.workers.listener cimport ConnectionFilter
from meshproxy.workers.loop cimport Loop

cdef class ConnectionLimiter(ConnectionFilter):
    cdef char *pages
    cdef int slots
    cdef int64_t first_cell
    cdef int64_t *cells                  # the CONNECTION_LIMIT block
    cdef int64_t most, held_ms

cdef class RateLimiter(ConnectionFilter):
    cdef Loop loop
    cdef int64_t *cells                  # the LOCAL_RATE_LIMIT block
    cdef int64_t *bucket                 # shared by all workers
    cdef int64_t token_ns, full_ns

cdef class Condition:
    """A compiled Rule: a tree."""
    cdef int kind                        # RULE_*
    cdef tuple parts                     # of Condition
    cdef IpPort network                  # of a range: bits beyond the prefix are 0
    cdef unsigned char mask[16]
    cdef int first_port, last_port
    cdef TextMatch text                  # None = any
    cdef bint holds(self, ConnectionInfo info) except -1
    cdef bint contains(self, const IpPort *address) noexcept
    cdef bint is_authentic(self, ConnectionInfo info) except -1
    cdef bint names(self, bytes text) except -1

cdef class PolicyList:
    """Compiled RbacRules."""
    cdef int action                      # ACTION_*
    cdef tuple policies                  # of (name, permissions, principals), the latter tuples of Condition
    # The name of the first policy that is about this connection; None = none is.
    cdef bytes find(self, ConnectionInfo info)

cdef class AccessRules(ConnectionFilter):
    cdef PolicyList rules, shadow        # None = there are none
    cdef int64_t *cells                  # the RBAC block
    cdef int64_t *shadow_cells           # the RBAC_SHADOW block; NULL = no shadow
    cdef int64_t held_ms
