"""Which virtual host a host name belongs to: exact, then the longest "*suffix", then the longest "prefix*", then "*" (Envoy's order)."""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from meshproxy.proxy.hash_index cimport HashIndex
from meshproxy.proxy.text_match cimport PatternSource

ctypedef struct Domain:
    const char *text                     # without its star
    uint32_t length
    int32_t virtual_host

# The length of `host` without its port; brackets of an IPv6 literal stay.
cdef uint32_t length_without_port(const char *host, uint32_t length) noexcept nogil

cdef class HostTable:
    cdef Domain *domains
    cdef int32_t *chain
    cdef int count, capacity, exact_count
    cdef HashIndex exact, suffixes, prefixes
    cdef int catch_all                   # number of the virtual host with "*", -1 = none
    cdef dict seen                       # domain -> place, while it is built
    cdef list texts                      # of bytes, for the pointers

    cdef int open(self, int capacity) except -1
    cdef int add(self, str domain, int virtual_host, PatternSource source, str place) except -1
    # The number of the virtual host, -1 = none.
    cdef int find(self, const char *host, uint32_t length) noexcept nogil
    cdef int verified(self, int32_t item, const char *text) noexcept nogil
