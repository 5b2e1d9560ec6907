"""Conditions on a request besides its path: header fields, pseudo-headers and query parameters."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from meshproxy.codecs.http1 cimport Head, HeaderField
from meshproxy.proxy.text_match cimport PatternSource, TextMatch

ctypedef struct RouteInput:
    const char *bytes                    # what the offsets of `head` refer to
    const Head *head
    const char *path                     # path and query, after normalisation; never empty, but for CONNECT
    uint32_t path_length
    const char *authority                # host and port, as the client sent them or after strip_port
    uint32_t authority_length
    bint tls                             # the scheme is https

cdef enum:
    NAME_FIELD = 0
    NAME_METHOD
    NAME_PATH
    NAME_AUTHORITY
    NAME_SCHEME

cdef enum:
    HEADER_TEXT = 0
    HEADER_RANGE
    HEADER_PRESENT

ctypedef struct HeaderCondition:
    const char *name                     # lower case
    uint16_t name_length
    uint8_t where                        # NAME_*
    uint8_t id                           # HEADER_* of the name; 0 = to be found by its name
    uint8_t kind                         # HEADER_TEXT, ...
    bint present, invert, missing_is_empty
    bint joined                          # fields of this name are one list
    int64_t start, end                   # of a range, half open
    int32_t text                         # number of a TextMatch

ctypedef struct QueryCondition:
    const char *name
    uint32_t name_length
    int32_t text                         # -1 = presence is enough

# What one request offers to conditions.
ctypedef struct Offer:
    const RouteInput *request
    const char *added                    # lines "name: value\r\n" that were set on the way; they stand beside the fields of the head
    uint32_t added_length
    const char *query                    # after the first "?"; NULL = none
    uint32_t query_length

cdef class Conditions:
    """All conditions of a route table, one after the other; a route has a run of them."""
    cdef HeaderCondition *headers
    cdef int header_count, header_capacity
    cdef QueryCondition *queries
    cdef int query_count, query_capacity
    cdef list texts                      # of TextMatch
    cdef list names                      # of bytes, for the pointers
    cdef char *list_text                 # room for one joined list
    cdef size_t list_capacity

    cdef int add_header(self, object model, PatternSource source, str place) except -1
    cdef int add_query(self, object model, PatternSource source, str place) except -1
    cdef int add_text(self, object model, PatternSource source, str place) except -1
    cdef bint headers_hold(self, const Offer *offer, int first, int count) except -1
    cdef bint queries_hold(self, const Offer *offer, int first, int count) except -1
    cdef bint header_holds(self, const Offer *offer, const HeaderCondition *condition) except -1
    cdef bint any_value(self, const Offer *offer, const HeaderCondition *condition, bint *found) except -1
    cdef size_t list_length(self, const Offer *offer, const HeaderCondition *condition, int first) noexcept
    cdef bint list_matches(self, const Offer *offer, const HeaderCondition *condition, int first, size_t list_length) except -1
    cdef bint any_added(self, const Offer *offer, const HeaderCondition *condition, bint *found) except -1
    cdef bint value_matches(self, const HeaderCondition *condition, const char *value, size_t length) except -1
    cdef bint query_holds(self, const Offer *offer, const QueryCondition *condition) except -1
