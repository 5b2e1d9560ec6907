"""The routes of one virtual host, in order, and the search for the first that matches."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from meshproxy.proxy.hash_index cimport HashIndex
from meshproxy.proxy.request_match cimport Conditions, Offer, PatternSource
from meshproxy.proxy.text_match cimport Pattern

cdef enum:
    PATH_PREFIX = 0
    PATH_SEGMENT_PREFIX
    PATH_EXACT
    PATH_REGEX
    PATH_CONNECT                         # a CONNECT request: it has no path

# Fewer routes than this are faster looked at one by one (bench/micro/bench_router.py).
cdef enum:
    INDEX_FROM = 12

ctypedef struct RouteEntry:
    uint64_t start                       # the first bytes of the value, folded when case is ignored
    uint64_t start_mask
    const char *value
    uint32_t length
    int32_t regex                        # number of a Pattern
    uint8_t kind                         # PATH_*
    uint8_t ignore_case
    int32_t first_header, header_count
    int32_t first_query, query_count

# A path without its query, with what comparisons want of it.
ctypedef struct PathView:
    const char *path
    uint32_t length
    uint64_t start, folded_start         # the first 8 bytes, zeros behind a shorter path

# The length of a path before its query or fragment.
cdef uint32_t bare_length(const char *path, uint32_t length) noexcept nogil

cdef class RouteList:
    cdef RouteEntry *entries
    cdef int32_t *chain                  # chain[i]: the route after i in its bucket, -1 = none
    cdef int count, capacity
    cdef bint indexed
    cdef bint has_exact
    cdef HashIndex index
    cdef int32_t first_regex, last_regex
    cdef Conditions conditions
    cdef list patterns                   # of Pattern
    cdef list values                     # of bytes, for the pointers

    # Of `capacity` routes at most; `add` them in order.
    cdef int open(self, int capacity, Conditions conditions) except -1
    cdef int add(self, object route, PatternSource source, str place) except -1
    # The number of the first route that matches, -1 = none.
    cdef int first(self, const PathView *view, const Offer *offer) except -2

    cdef int add_path(self, RouteEntry *entry, object path, PatternSource source, str place) except -1
    cdef int put_in_index(self, int item) except -1
    cdef int best_of_chains(self, const int32_t *chains, int count, int best, const PathView *view, const Offer *offer) except -2
    cdef int best_of_chain(self, int item, int best, const PathView *view, const Offer *offer) except -2
    cdef bint matches(self, const RouteEntry *entry, const PathView *view, const Offer *offer) except -1

cdef PathView view_of(const char *path, uint32_t length) noexcept nogil
