"""Which route a request takes, and what that route changes: compiled from a model RouteTable when it changes, asked per request."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from meshproxy.proxy.host_table cimport HostTable
from meshproxy.proxy.request_match cimport Conditions, RouteInput
from meshproxy.proxy.route_list cimport RouteList
from meshproxy.proxy.span cimport RouteTrace
from meshproxy.proxy.text_match cimport Substitution

cdef enum:
    ACTION_FORWARD = 0
    ACTION_REDIRECT
    ACTION_DIRECT

# `retry_on` as bits
cdef enum:
    RETRY_5XX = 1 << 0
    RETRY_GATEWAY_ERROR = 1 << 1
    RETRY_RESET = 1 << 2
    RETRY_RESET_BEFORE_REQUEST = 1 << 3
    RETRY_CONNECT_FAILURE = 1 << 4
    RETRY_RETRIABLE_4XX = 1 << 5
    RETRY_STATUS_CODES = 1 << 6
    RETRY_REFUSED_STREAM = 1 << 7
    RETRY_CANCELLED = 1 << 8
    RETRY_DEADLINE_EXCEEDED = 1 << 9
    RETRY_INTERNAL = 1 << 10
    RETRY_RESOURCE_EXHAUSTED = 1 << 11
    RETRY_UNAVAILABLE = 1 << 12
    RETRY_GRPC = 31 << 8

cdef enum:
    MUTATE_APPEND = 0                    # add another line
    MUTATE_ADD_IF_ABSENT
    MUTATE_OVERWRITE                     # remove all of that name, then add
    MUTATE_OVERWRITE_IF_EXISTS

ctypedef struct HeaderEdit:
    const char *name                     # as configured; compared without regard to case
    uint32_t name_length
    int id                               # HEADER_* of the name
    const char *value
    uint32_t value_length
    int how                              # MUTATE_*

cdef class Edits:
    """The header changes of one direction, in the order in which they are made: all removals of a level, then its additions, level by level.

    Flattened at compile time for (weighted cluster, route, virtual host, route table). `removes` come first, for the original headers; what
    an earlier level adds and a later one removes is not in `adds`.
    """
    cdef HeaderEdit *removes
    cdef int remove_count
    cdef HeaderEdit *adds
    cdef int add_count
    cdef object keep                     # holds the bytes that the pointers point into

cdef class Target:
    """One weighted cluster of a route."""
    cdef readonly str cluster
    cdef readonly uint32_t weight
    cdef readonly Edits request_edits    # None when there is nothing to do
    cdef readonly Edits response_edits
    cdef readonly bytes host_rewrite     # of the target or of the route; empty = none

cdef class CompiledVirtualHost:
    cdef object __weakref__
    cdef readonly str name
    cdef readonly bytes name_bytes
    cdef readonly bint stats
    cdef public int64_t block            # first cell of its metrics, -1 = none; set by the worker
    cdef readonly bint attempt_count_request, attempt_count_response
    cdef readonly int64_t buffer_limit   # -1 = the connection's
    cdef readonly int require_tls        # 0 none, 1 external, 2 all

cdef class CompiledRoute:
    cdef readonly bytes name
    cdef readonly int action             # ACTION_*
    cdef readonly CompiledVirtualHost virtual_host
    cdef readonly object model           # the model.Route
    cdef RouteTrace trace                # None = it says nothing about tracing
    # forward
    cdef readonly list targets           # of Target; at least one
    cdef readonly uint64_t total_weight
    cdef readonly bint auto_host_rewrite, append_forwarded_host, high_priority
    cdef readonly bint rewrites_path
    cdef readonly int64_t timeout_ms     # 0 = none
    cdef readonly int64_t idle_timeout_ms       # -1 = the connection manager's
    cdef readonly int64_t max_duration_ms       # -1 = the connection manager's
    cdef readonly int64_t grpc_timeout_max_ms   # -1 = `grpc-timeout` is not looked at, 0 = as it stands
    cdef readonly int64_t grpc_timeout_offset_ms
    cdef readonly int cluster_not_found_status
    cdef readonly dict upgrades          # bytes (lower case) -> bool; None = the connection manager's
    cdef readonly uint32_t retry_on      # RETRY_*; 0 = never
    cdef readonly int num_retries
    cdef readonly int64_t per_try_timeout_ms
    cdef readonly int64_t backoff_base_ms, backoff_max_ms
    cdef readonly bint avoid_previous_hosts
    cdef readonly int host_selection_attempts
    cdef readonly frozenset retriable_status_codes
    # direct
    cdef readonly int status             # also a redirect's
    cdef readonly bytes body, content_type
    cdef readonly Edits response_edits   # of redirects and direct responses

    # The path after the rewrite, written to `out` (`capacity` bytes); its length, or -1 when it does not fit.
    cdef int64_t rewrite_path(self, const RouteInput *request, char *out, size_t capacity) except? -2
    # The Location of a redirect, likewise; -1 also when it would have a control byte.
    cdef int64_t location(self, const RouteInput *request, char *out, size_t capacity) except? -2
    # One target by weight; `random` is any 64-bit number.
    cdef Target pick(self, uint64_t random)

    # how the path and the Location are made
    cdef bytes prefix_rewrite            # of a redirect too; empty = none
    cdef Substitution regex_rewrite
    cdef bint matches_whole_path         # exact and regex: a prefix rewrite takes the place of the whole path
    cdef uint32_t matched_length         # of prefixes: what a prefix rewrite takes the place of
    cdef bytes scheme, host, port, path  # a redirect's; empty = the request's own; `port` with its colon
    cdef bint path_has_query, strip_query
    cdef int64_t write_path(self, const RouteInput *request, char *out, size_t capacity) except? -2
    cdef int64_t write_host(self, const RouteInput *request, bytes scheme, char *out, size_t capacity) noexcept
    cdef int64_t write_redirect_path(self, const RouteInput *request, char *out) noexcept

cdef class Router:
    """A compiled route table."""
    cdef readonly str name
    cdef readonly list virtual_hosts     # of CompiledVirtualHost, in configured order
    cdef readonly bint ignore_port_in_host

    cdef readonly tuple internal_only_headers    # of bytes, lower case: removed from requests that come from outside

    # The first route that matches in the virtual host that matches; None = no route (404). No allocation unless a regex is met.
    # `added` are header lines ("name: value\r\n") that were set on the way (x-forwarded-proto, ...); header matches see them too.
    cdef CompiledRoute find(self, const RouteInput *request, const char *added=*, uint32_t added_length=*)

    cdef HostTable hosts
    cdef Conditions conditions
    cdef list route_lists                # of RouteList, one a virtual host
    cdef list routes                     # of lists of CompiledRoute, likewise
