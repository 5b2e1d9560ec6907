"""An access log's format, compiled: a worker writes each line straight into its ring's memory."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.telemetry.facts cimport Facts

cdef enum:
    SCRATCH_BYTES = 4096                 # for values that have to be made: times, flags, a decoded query parameter

ctypedef struct HeaderName:
    const char *at                       # lower case; NULL = no name
    uint32_t length
    int id                               # HEADER_* when `Head.known` can find it, else 0
    int pseudo                           # PSEUDO_*

ctypedef struct TimePart:
    int kind
    const char *format                   # of strftime
    int digits                           # of a fraction
    int64_t cached_s                     # the second whose text is in `cached`
    int cached_length
    char cached[256]

ctypedef struct Op:
    int code
    int shape                            # how the value is written
    int a, b                             # of which thing; from which to which
    int64_t multiply, divide
    int64_t limit                        # most bytes of the value, -1 = all
    HeaderName name, other
    const char *literal
    uint32_t literal_length
    TimePart *parts
    int part_count

cdef class Format:
    cdef readonly int min_status         # responses below it are not logged
    cdef Op *ops
    cdef int op_count
    cdef bint omit_empty
    cdef readonly bint tells_tls         # it has operators of `downstream_tls` or `upstream_tls`
    cdef list keep                       # holds what the operators point into
    cdef char scratch[SCRATCH_BYTES]

    # One line for `facts` at `out`: the bytes written, or -1 when `capacity` is too small (then `out` holds rubbish).
    cdef int64_t write(self, const Facts *facts, char *out, int64_t capacity) noexcept
