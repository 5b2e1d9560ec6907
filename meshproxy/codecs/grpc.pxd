"""Messages of gRPC in a body: a flag, a length of four bytes, the message."""

from libc.stdint cimport int64_t, uint32_t, uint8_t

cdef enum:
    GRPC_PREFIX_BYTES = 5
    GRPC_WEB_TRAILERS = 0x80             # the flag of gRPC-Web's frame of trailers

ctypedef struct GrpcFrames:
    int64_t count                        # of messages that ended
    uint32_t remaining                   # of the present message
    uint8_t prefix[GRPC_PREFIX_BYTES]
    uint8_t held                         # bytes of a prefix that came in pieces

# How much of `data` belongs to the present message, its prefix included; `ended[0]`: the message ends there. Counts messages.
cdef size_t grpc_step(GrpcFrames *frames, const char *data, size_t length, bint *ended) noexcept nogil
# For an answer that has only HTTP's status (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
cdef int grpc_status_of_http(int status) noexcept nogil
cdef void put_grpc_prefix(char *out, uint8_t flags, uint32_t length) noexcept nogil
