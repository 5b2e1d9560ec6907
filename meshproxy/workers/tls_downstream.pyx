"""See the .pxd. A changed secret swaps the context: connections that are open keep the one they began with."""

from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.runtime cimport Protocol
from meshproxy.scoreboard.region cimport Region
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.tls_transport cimport TlsTransport
from meshproxy.workers.transport cimport Transport


cdef class DownstreamSecurity:
    def __init__(self, TlsContext context, Region region, int slot, int64_t cell):
        """`cell`: where the listener's LISTENER_SSL block begins."""
        self.cells = region.page(slot) + cell
        self.renew(context)

    def renew(self, TlsContext context):
        """For connections that come from now on."""
        context.count_by(self.cells)
        self.context = context

    @property
    def ready(self):
        """False: a secret has not come yet, and no connection can be served."""
        return self.context.ready

    cdef Transport wrap(self, Loop loop, Protocol protocol, ConnectionInfo info):
        cdef TlsTransport transport = TlsTransport(loop, protocol)
        transport.accept_tls(self.context, info)
        return transport
