"""Path normalisation (RFC 3986 6.2.2.3 and merge_slashes)."""

# Write the normalised path and the untouched query to `out` (at least `length` + 1 bytes); the length.
cdef size_t normalize(char *out, const char *path, size_t length, bint dots, bint slashes) noexcept nogil
