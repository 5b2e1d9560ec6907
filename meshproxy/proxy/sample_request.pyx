"""Read by the real parser, so that what is explained is what a client's bytes would meet."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from meshproxy.codecs.http1 cimport METHOD_CONNECT, HeaderField, Limits, error_text, parse_request

cdef enum:
    MAX_HEADERS = 1000


cdef class SampleRequest:
    def __init__(self, str method, str authority, str path, object headers, bint tls) -> None:
        """Raises ValueError when it is no HTTP/1.1 request that the proxy would take."""
        cdef Limits limits
        cdef int verdict
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
        self.text = f"{method} {path} HTTP/1.1\r\nhost: {authority}\r\n{fields}\r\n".encode()
        limits = Limits(len(self.text) + 1, MAX_HEADERS, <uint32_t>len(self.text) + 1, True, True)
        free(self.head.fields)
        self.head.capacity = MAX_HEADERS
        self.head.fields = <HeaderField *>calloc(MAX_HEADERS, sizeof(HeaderField))
        if self.head.fields == NULL:
            raise MemoryError(f"no room for {MAX_HEADERS} header fields")
        verdict = parse_request(&self.head, <const char *>self.text, len(self.text), 0, &limits)
        if verdict:
            raise ValueError("the request ends too early" if verdict > 0 else error_text(verdict).decode())
        self.fill(tls)

    cdef void fill(self, bint tls) noexcept:
        cdef RouteInput *request = &self.input
        request.bytes, request.head, request.tls = <const char *>self.text, &self.head, tls
        request.path, request.path_length = request.bytes + self.head.path_at, self.head.path_length
        if self.head.path_length == 0 and self.head.method != METHOD_CONNECT:
            request.path, request.path_length = b"/", 1
        request.authority, request.authority_length = request.bytes + self.head.authority_at, self.head.authority_length

    def __dealloc__(self) -> None:
        free(self.head.fields)
