"""What gRPC writes into HTTP's headers (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)."""

from libc.stdint cimport int64_t, uint32_t
from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.lines cimport Lines

# `application/grpc`, also with a suffix (`+proto`).
cdef bint is_grpc_request(const char *bytes, const Head *head) noexcept
# The deadline in `grpc-timeout`, rounded up; -1 = there is none, or no readable one.
cdef int64_t grpc_timeout_ms(const char *bytes, const Head *head) noexcept
# A deadline as `grpc-timeout` has it, in at most eight digits; bytes written to `out`, which has room for ten.
cdef size_t put_grpc_timeout(char *out, int64_t ms) noexcept
# The status in a head that is trailers too (RETRY_* of the retry policy); 0 = none, or one that no word stands for.
cdef uint32_t grpc_reasons(const char *bytes, const Head *head) noexcept
# The number in a `grpc-status` field; -1 = none, or no number.
cdef int grpc_status_in(const char *bytes, const Head *head) noexcept
# The same among lines of "name: value\r\n".
cdef int grpc_status_in_lines(const char *lines, size_t length) noexcept
# For an answer of our own: what ran out of time by itself has a status, else HTTP's decides.
cdef int grpc_status_of(int outcome, int status) noexcept
# `grpc-message`, percent-encoded.
cdef void add_grpc_message(Lines *lines, const char *text, size_t length) except *
# Index of the first field with that name; -1 = none. Dropped fields do not count.
cdef int find_field(const char *bytes, const Head *head, const char *name, size_t length) noexcept
