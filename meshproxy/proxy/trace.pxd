"""The tracing of an exchange: what it decides, what the next hop is told, and the record that it leaves."""

from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.exchange cimport Exchange

# Once the route is known (or there is none): whether it is traced, its ids, its operation.
cdef void begin_trace(Exchange exchange) except *
# A try begins; it has a connection, and is told the headers that carry the trace on; it is lost, by a row of the table of outcomes; another
# one follows it.
cdef void begin_try(Exchange exchange) noexcept
cdef void trace_try(Exchange exchange) except *
cdef void lose_try(Exchange exchange, int outcome) noexcept
cdef void end_try(Exchange exchange, bint canceled) except *
# The exchange is over: a record into the ring if it is traced. A full ring drops and counts.
cdef void end_trace(Exchange exchange) except *
# Of the head of a response; NULL = it is one of ours. The client is told the operation, if it is to be.
cdef void trace_response(Exchange exchange, const char *bytes, const Head *head) except *
