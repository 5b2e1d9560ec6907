"""The send side of HTTP/1.1: the original head's bytes around the changes.

A head goes out as it came, less the fields marked `hop_by_hop` (by the parser, or by the proxy that wants them gone), plus `added` lines
("name: value\\r\\n"). Runs of untouched lines are one copy, so case and spelling are kept.
"""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.codecs.http1 cimport Head

# Room that a composed head needs besides the lengths of its parts: request or status line, framing lines, the empty line.
cdef enum:
    COMPOSE_SLACK = 256

# What the framing lines say. The Content-Length that came in stays where it stood.
cdef enum:
    FRAME_AS_IS = 0
    FRAME_CHUNKED = 1                    # add transfer-encoding: chunked

cdef size_t compose_request(
    char *out, const char *method, size_t method_length, const char *path, size_t path_length,
    const char *bytes, const Head *head, const char *added, size_t added_length, int framing,
) noexcept nogil

# `bytes`/`head` NULL: a head of added lines only. `reason` NULL: the standard one.
cdef size_t compose_response(
    char *out, int status, const char *bytes, const Head *head, const char *added, size_t added_length, int framing, bint close,
) noexcept nogil

cdef const char *reason_phrase(int status) noexcept nogil
# Copy the lines that stay to `out`; the number of bytes.
cdef size_t copy_fields(char *out, const char *bytes, const Head *head) noexcept nogil
# "1f40\r\n" for a chunk of `length` bytes; at most 18 bytes.
cdef size_t chunk_line(char *out, size_t length) noexcept nogil
