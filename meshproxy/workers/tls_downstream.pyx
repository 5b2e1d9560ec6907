"""See the .pxd. A changed secret swaps the context: connections that are open keep the one they began with."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.tls_transport cimport TlsTransport
from meshproxy.workers.transport cimport Transport


cdef class DownstreamSecurity:
    def __init__(self, TlsContext context, Region region, int slot, int64_t cell, int64_t ssl_cell):
        """Where the listener's LISTENER block and its LISTENER_SSL block begin."""
        self.cells = region.page(slot) + cell
        self.ssl_cells = region.page(slot) + ssl_cell
        self.use(context)

    cdef use(self, TlsContext context):
        context.count_by(self.ssl_cells)
        self.context = context

    def renew(self, TlsContext context):
        """A secret changed: for connections that come from now on."""
        self.use(context)
        self.cells[LISTENER_SERVER_SSL_SOCKET_FACTORY_SSL_CONTEXT_UPDATE_BY_SDS] += 1

    def refuse(self):
        """A changed secret was no good; the context stays."""
        self.cells[LISTENER_SERVER_SSL_SOCKET_FACTORY_SSL_CONTEXT_UPDATE_FAILED] += 1

    cdef Transport wrap(self, Loop loop, Protocol protocol, ConnectionInfo info):
        cdef TlsTransport transport = TlsTransport(loop, protocol)
        if not self.context.ready:
            self.cells[LISTENER_SERVER_SSL_SOCKET_FACTORY_DOWNSTREAM_CONTEXT_SECRETS_NOT_READY] += 1
        transport.accept_tls(self.context, info)
        return transport
