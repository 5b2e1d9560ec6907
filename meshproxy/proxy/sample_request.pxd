"""A request that nobody sent: to explain a route, to test it, to time it."""

from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.request_match cimport RouteInput

cdef class SampleRequest:
    cdef bytes text
    cdef Head head
    cdef RouteInput input                # points into the two above
    cdef void fill(self, bint tls) noexcept
