"""Compiled rules of who may do what, for connections and for requests."""

from meshproxy.proxy.connection cimport ConnectionInfo, IpPort
from meshproxy.proxy.request_match cimport Conditions, Offer
from meshproxy.proxy.text_match cimport TextMatch

cdef enum:
    ACTION_ALLOW = 0
    ACTION_DENY
    ACTION_LOG

ctypedef struct Asking:
    const Offer *request                 # NULL: it is a connection that asks
    const IpPort *remote                 # the client, as far as it is known by now

cdef class Condition:
    """A compiled Rule: a tree."""
    cdef int kind                        # RULE_*
    cdef tuple parts                     # of Condition
    cdef IpPort network                  # of a range: bits beyond the prefix are 0
    cdef unsigned char mask[16]
    cdef int first_port, last_port
    cdef TextMatch text                  # None = any
    cdef Conditions header               # with one header; None = it is of another kind
    cdef bint holds(self, ConnectionInfo info, const Asking *asking) except -1
    cdef bint contains(self, const IpPort *address) noexcept
    cdef bint is_authentic(self, ConnectionInfo info) except -1
    cdef bint names(self, bytes text) except -1
    cdef bint has_path(self, const Offer *offer) except -1

cdef class PolicyList:
    """Compiled RbacRules."""
    cdef int action                      # ACTION_*
    cdef tuple policies                  # of (name, permissions, principals), the latter tuples of Condition
    # The name of the first policy that is about this; None = none is.
    cdef bytes find(self, ConnectionInfo info, const Asking *asking)
    # Whether who asks may pass, `found` being what `find` gave. With `log` all may.
    cdef bint lets_pass(self, bytes found) noexcept

# Why who was refused was, in the access log's words.
cdef bytes refusal(bytes policy)
# The address in a text without a port; family 0 when it is none.
cdef void put_ip(IpPort *out, const char *text, size_t length) noexcept
