"""A trace's context in a request's headers (B3, W3C), and the compiled settings of tracing. No exchange here: bytes in, numbers out."""

from libc.stdint cimport int8_t, int64_t, uint32_t, uint64_t
from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.lines cimport Lines

# Which headers are read and written.
cdef enum:
    PROPAGATE_B3 = 1                     # x-b3-traceid and the like
    PROPAGATE_B3_SINGLE = 2              # b3
    PROPAGATE_W3C = 4                    # traceparent

# What a client says of sampling.
cdef enum:
    SAMPLED_UNKNOWN = -1
    SAMPLED_NO = 0
    SAMPLED_YES = 1

ctypedef struct Context:
    bint found                           # there are ids
    bint has_parent
    bint debug                           # B3's flag: sampled, whatever else is said
    bint single                          # it came as `b3`
    bint client_trace_id, force          # x-client-trace-id and x-envoy-force-trace are there
    int sampled                          # SAMPLED_*
    uint64_t high, low                   # of the trace; high 0 = 64 bits
    uint64_t id, parent

ctypedef struct Span:
    bint begun, sampled, has_parent, shared, client, decorated, single, debug
    uint64_t high, low, id, parent
    # Of the present try.
    uint64_t upstream_id                 # 0 = there is no span of its own
    int64_t try_start_us
    uint64_t try_flags                   # response flags of its own
    const char *try_reason               # why it was reset, in Envoy's words; NULL = it was not
    bint canceled                        # by us
    int8_t upstream_version              # of HTTP/1 the minor one, 2 = HTTP/2; -1 = there was no connection
    int try_status                       # 0 = no response
    int tries
    const char *operation                # inside the exchange's head or a route that it holds; NULL = the host's name
    uint32_t operation_length

cdef class Tags:
    """Custom tags, ready: (name, header or None, value)."""
    cdef list rows

cdef class RouteTrace:
    """What a route says about tracing."""
    cdef bytes operation                 # empty = none
    cdef bint propagate
    cdef bint overrides
    cdef uint32_t client, random, overall        # of 10,000
    cdef Tags tags                       # None = none

cdef class Tracer:
    """A connection manager's tracing."""
    cdef readonly uint32_t sink
    cdef bint exports, wide, shares, spawns, egress, zipkin
    cdef int propagation                 # PROPAGATE_*
    cdef uint32_t client, random, overall        # of 10,000
    cdef uint32_t max_path
    cdef Tags tags                       # None = none

# Read what the headers say; those of the formats that will be written are dropped from the head.
cdef void extract(int propagation, const char *bytes, Head *head, Context *context) noexcept
# Write the context of a hop into the lines that are added to its request.
cdef void inject(int propagation, const Span *span, uint64_t id, uint64_t parent, bint has_parent, Lines *lines) except *
cdef void put_hex(char *out, uint64_t value) noexcept
# Whether a request is traced by our own rules; the verdict is written into the request's `uuid` (36 characters, or NULL). `chance`: any number.
cdef bint decide(Tracer tracer, RouteTrace route, const Context *context, char *uuid, uint64_t chance) noexcept
