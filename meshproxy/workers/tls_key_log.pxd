"""Session secrets in NSS form, so that Wireshark can read what was recorded."""

cdef class KeyLogFile:
    cdef int fd
    cdef list local_ranges, remote_ranges    # of (16 bytes, prefix length); empty = all
    cdef bint covers(self, int fd) noexcept
    cdef void log(self, const char *line) noexcept
