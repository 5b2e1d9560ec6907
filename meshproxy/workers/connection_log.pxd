"""A listener's access log: one line for each connection at its end, whatever it carried and however far it came."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.scoreboard.region cimport Ring
from meshproxy.telemetry.facts cimport Facts
from meshproxy.workers.loop cimport Loop

cdef class ConnectionLog:
    cdef object __weakref__
    cdef Loop loop
    cdef bytes listener
    cdef list targets                    # of LogTarget
    cdef Ring *ring
    cdef bint tells_tls                  # a target asks for what TLS handshakes told
    # `known`: what served the connection has to say; NULL = nothing, it was refused or carried HTTP.
    cdef void write(self, ConnectionInfo info, const Facts *known) except *

# A log's facts of the connection; good until the next call.
cdef void describe_addresses(ConnectionInfo info, Facts *facts) noexcept
