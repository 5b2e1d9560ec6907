"""What an exchange leaves behind: its line in the access log, and what it was doing if the worker dies."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.exchange cimport Exchange
from meshproxy.proxy.runtime cimport Runtime
from meshproxy.scoreboard.region cimport Ring
from meshproxy.telemetry.facts cimport Facts

# Into the slot's head, before anything can go wrong: method, authority, path without its query.
cdef void note_exchange(Exchange exchange) noexcept
# One record for each access log, into the ring; a full ring drops and counts.
cdef void write_logs(Exchange exchange) except *
cdef void describe_tls(ConnectionInfo info, Facts *facts, bint whole) except *
# The same of what is no exchange: `logs` are LogTargets. Those that want a higher status get none.
cdef void write_lines(list logs, Ring *ring, const Facts *facts, int status, Runtime runtime) except *
