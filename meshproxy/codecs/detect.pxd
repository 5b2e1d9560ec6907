"""Which HTTP a plaintext connection speaks, by its first bytes."""

cdef enum:
    # As Envoy's: the longest first line that anybody waits for.
    DETECT_BYTES_AT_MOST = 65536

cdef enum:
    DETECT_MORE = 1                      # HTTP so far
    DETECT_NONE = -1
    DETECT_HTTP_1_0 = 2
    DETECT_HTTP_1_1 = 3
    DETECT_HTTP_2 = 4                    # the client's preface (RFC 9113 3.4)

# `scanned` is how much of `data` an earlier call has seen, which said DETECT_MORE: it is not searched again for the end of the line.
cdef int detect_http(const char *data, size_t length, size_t scanned) noexcept nogil
