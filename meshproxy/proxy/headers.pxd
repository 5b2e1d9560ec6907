"""What the connection manager and the router do to heads, in Envoy's order."""

from libc.stdint cimport uint64_t
from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.exchange cimport Exchange
from meshproxy.proxy.request_match cimport RouteInput
from meshproxy.proxy.router cimport Edits

# The connection manager's rules on a request that came: trust, forwarded-for and -proto, request id, via. Before filters.
cdef void receive_request(Exchange exchange) except *
# The router's rules on a request that is about to go to `exchange.target`: the route's edits, path and host rewrites. After filters.
cdef void route_request(Exchange exchange) except *
# What differs from try to try.
cdef void try_request(Exchange exchange) except *
# The rules on a response; `head` NULL for our own.
cdef void send_response(Exchange exchange, const char *bytes, Head *head) except *
cdef void edit_response(Exchange exchange, Edits edits, const char *bytes, Head *head) except *
# Path and authority as the router shall see them.
cdef void locate(Exchange exchange) except *
# Mark every field with that id (HEADER_*) as dropped.
cdef void drop_known(Head *head, int id) noexcept
cdef int drop_fields(const char *bytes, Head *head, const char *name, size_t length) noexcept
cdef void fill_input(Exchange exchange, RouteInput *request) noexcept
cdef size_t decimal(char *out, uint64_t value) noexcept
