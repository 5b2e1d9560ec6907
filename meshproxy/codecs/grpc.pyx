"""See the .pxd."""

from libc.string cimport memset


cdef size_t grpc_step(GrpcFrames *frames, const char *data, size_t length, bint *ended) noexcept nogil:
    cdef size_t used = 0
    ended[0] = False
    while used < length and frames.held < GRPC_PREFIX_BYTES:
        frames.prefix[frames.held] = <uint8_t>data[used]
        frames.held += 1
        used += 1
        if frames.held == GRPC_PREFIX_BYTES:
            frames.remaining = (
                (<uint32_t>frames.prefix[1] << 24) | (<uint32_t>frames.prefix[2] << 16) | (<uint32_t>frames.prefix[3] << 8) | frames.prefix[4]
            )
    if frames.held < GRPC_PREFIX_BYTES:
        return used
    if length - used < frames.remaining:
        frames.remaining -= <uint32_t>(length - used)
        return length
    used += frames.remaining
    frames.remaining = 0
    frames.held = 0
    frames.count += 1
    ended[0] = True
    return used


cdef void put_grpc_prefix(char *out, uint8_t flags, uint32_t length) noexcept nogil:
    out[0] = <char>flags
    out[1] = <char>(length >> 24)
    out[2] = <char>(length >> 16 & 0xff)
    out[3] = <char>(length >> 8 & 0xff)
    out[4] = <char>(length & 0xff)


cdef int grpc_status_of_http(int status) noexcept nogil:
    if status == 400:
        return 13                                # INTERNAL
    if status == 401:
        return 16                                # UNAUTHENTICATED
    if status == 403:
        return 7                                 # PERMISSION_DENIED
    if status == 404:
        return 12                                # UNIMPLEMENTED
    return 14 if status == 429 or 502 <= status <= 504 else 2    # UNAVAILABLE, UNKNOWN


def count_messages(pieces: list) -> tuple[int, bool]:
    """For tests: the messages that end in these pieces of a body, and whether it ends between two."""
    cdef GrpcFrames frames
    cdef bint ended
    cdef bytes piece
    cdef const char *at
    cdef size_t length, used
    memset(&frames, 0, sizeof(frames))
    for piece in pieces:
        at, length = piece, len(piece)
        while length:
            used = grpc_step(&frames, at, length, &ended)
            at += used
            length -= used
    return frames.count, frames.held == 0
