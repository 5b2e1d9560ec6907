"""A worker's side of a listener: who may come in, which filter chain takes the connection, and what is open."""

from libc.stdint cimport int64_t
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.telemetry.facts cimport Facts
from meshproxy.workers.connection_log cimport ConnectionLog
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.net cimport Sockaddr
from meshproxy.workers.transport cimport Transport

cdef class ConnectionFilter:
    """Looks at a connection when its handshake is done. Made per chain and worker."""
    # False: it may not pass. `held_ms` may be set: the refused connection stays open, unread, for so long.
    cdef bint admit(self, ConnectionInfo info, int64_t *held_ms) except *
    # The admitted connection is gone, or another filter refused it.
    cdef void leave(self, ConnectionInfo info) except *

cdef class Secured:
    """A chain's TLS: makes the transports of its connections."""
    cdef Transport wrap(self, Loop loop, Protocol protocol, ConnectionInfo info)

cdef class Chain:
    """A compiled filter chain and its open connections."""
    cdef object __weakref__
    cdef Loop loop
    cdef readonly object model           # model.FilterChain
    cdef int64_t *cells                  # the LISTENER block
    cdef public Secured tls              # None = plaintext
    cdef list filters                    # of ConnectionFilter; None = none
    cdef set open                        # of Transport
    cdef public ConnectionLog log        # None = none
    cdef int64_t handshake_ms            # most time for the handshake; 0 = no limit
    cdef readonly bint draining
    cdef void take(self, int fd, ConnectionInfo info) except *
    cdef void admit(self, Transport transport, ConnectionInfo info) except *
    # Serve an admitted connection: be its protocol.
    cdef void serve(self, Transport transport, ConnectionInfo info) except *
    # A connection that was taken is gone, whoever served it; `known`: what there is to log of it beside `info`.
    cdef void closed(self, Transport transport, ConnectionInfo info, const Facts *known) except *

cdef class Greeting(Protocol):
    """The protocol of a connection until its chain serves it: while the handshake runs, and while a refused one is held."""
    cdef Chain chain
    cdef Transport transport
    cdef ConnectionInfo info
    cdef bint held

cdef class ChainChooser:
    # None: no chain is for this connection.
    cdef Chain choose(self, ConnectionInfo info)

cdef class Inspector:
    """The listener filters: they own the socket until they call `listener.on_inspected`, or close it."""
    cdef void inspect(self, Listener listener, int fd, ConnectionInfo info) except *

cdef class Listener:
    cdef object __weakref__
    cdef Loop loop
    cdef readonly object model           # model.Listener
    cdef int64_t *cells                  # the LISTENER block
    cdef char *pages
    cdef int64_t first_cell
    cdef int slots
    cdef int64_t max_connections         # of the node; 0 = unlimited
    cdef public int64_t max_worker_connections
    cdef readonly list chains            # of Chain, the default one last
    cdef Chain only                      # the one that takes every connection; None = `chooser` says
    cdef ChainChooser chooser
    cdef Inspector inspector             # None = no listener filters
    cdef ConnectionLog log               # None = none
    cdef bint wants_local                # somebody asks for the local address
    cdef void accept(self, int fd, const Sockaddr *peer) except *
    cdef void on_inspected(self, int fd, ConnectionInfo info) except *
    # A connection ends before a chain took it; `fd` is closed here.
    cdef void refuse(self, int fd, ConnectionInfo info) except *

cdef void set_remote(ConnectionInfo info, const Sockaddr *peer) noexcept
cdef void set_local(ConnectionInfo info, const Sockaddr *address)
# So that `info` has it: asked of the socket when it is wanted first.
cdef void find_local(ConnectionInfo info)
