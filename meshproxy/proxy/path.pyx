"""Path normalisation: dot segments, encoded dots, repeated slashes; the query stays as it is."""

from libc.string cimport memcpy


cdef bint is_dots(const char *segment, size_t length, int dots) noexcept nogil:
    """Whether the segment is exactly so many dots, each plain or as %2e."""
    cdef size_t at = 0
    cdef int seen = 0
    while at < length:
        if segment[at] == b'.':
            at += 1
        elif length - at >= 3 and segment[at] == b'%' and segment[at + 1] == b'2' and segment[at + 2] in (b'e', b'E'):
            at += 3
        else:
            return False
        seen += 1
    return seen == dots


cdef size_t normalize(char *out, const char *path, size_t length, bint dots, bint slashes) noexcept nogil:
    cdef size_t end = 0, at = 0, stop, written = 0
    if length == 0 or path[0] != b'/':
        memcpy(out, path, length)
        return length
    while end < length and path[end] != b'?':
        end += 1
    while at < end:                              # at a slash
        stop = at + 1
        while stop < end and path[stop] != b'/':
            stop += 1
        if slashes and stop == at + 1 and stop < end:
            pass                                 # "//": the first goes
        elif dots and is_dots(path + at + 1, stop - at - 1, 1):
            if stop == end:
                out[written] = b'/'
                written += 1
        elif dots and is_dots(path + at + 1, stop - at - 1, 2):
            if written:                          # above the root there is nothing (RFC 3986 5.2.4)
                written -= 1
                while out[written] != b'/':
                    written -= 1
            if stop == end:
                out[written] = b'/'
                written += 1
        else:
            memcpy(out + written, path + at, stop - at)
            written += stop - at
        at = stop
    if written == 0:
        out[0] = b'/'
        written = 1
    memcpy(out + written, path + end, length - end)
    return written + length - end


def normalized(bytes path, bint dots=True, bint slashes=True):
    """For tests."""
    cdef bytearray out = bytearray(len(path) + 1)
    cdef size_t length = normalize(<char *>out, <const char *>path, len(path), dots, slashes)
    return bytes(out[:length])
