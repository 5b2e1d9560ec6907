"""See the .pxd. A changed secret swaps the context: connections that are open keep the one they began with, sessions do not count any more."""

import weakref

from meshproxy.proxy.runtime cimport Protocol
from meshproxy.scoreboard.region cimport Region
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.tls_transport cimport TlsTransport
from meshproxy.workers.transport cimport Transport


cdef class UpstreamSecurity:
    def __init__(self, TlsContext context, Region region, int slot, int64_t cell):
        """`cell`: where the cluster's CLUSTER_SSL block begins."""
        self.cells = region.page(slot) + cell
        self.stores = weakref.WeakKeyDictionary()
        self.renew(context)

    def renew(self, TlsContext context):
        """For connections that are made from now on."""
        context.count_by(self.cells)
        self.context = context

    @property
    def ready(self):
        """False: a secret has not come yet, and no connection can be made."""
        return self.context.ready

    cdef Transport wrap(self, Loop loop, Protocol protocol, Host host, Exchange exchange):
        cdef TlsTransport transport = TlsTransport(loop, protocol)
        transport.connect_tls(self.context, self.server_name(host, exchange), self.store_of(host))
        return transport

    cdef bytes server_name(self, Host host, Exchange exchange):
        """Envoy's order: the request's host, the endpoint's, the configured one. None = no SNI."""
        cdef object model = self.context.model
        cdef bytes name = None
        if model.auto_sni and exchange is not None and exchange.authority != NULL:
            name = without_port(exchange.authority[:exchange.authority_length])
            return None if is_ip(name) else name
        if model.auto_host_sni and host.hostname:
            return host.hostname
        return model.sni.encode() or None

    cdef SessionStore store_of(self, Host host):
        cdef SessionStore store
        if not self.context.model.max_session_keys:
            return None
        store = self.stores.get(host)
        if store is None:
            store = self.stores[host] = SessionStore(self.context.model.max_session_keys)
        return store


cdef bytes without_port(bytes authority):
    name, colon, port = authority.rpartition(b":")
    return name if colon and port.isdigit() else authority


cdef bint is_ip(bytes name):
    """SNI is for names only (RFC 6066 3)."""
    return name.startswith(b"[") or name.replace(b".", b"").isdigit()
