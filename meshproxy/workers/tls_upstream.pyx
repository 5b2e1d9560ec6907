"""See the .pxd. A changed secret swaps the context: connections that are open keep the one they began with, sessions do not count any more."""

import weakref

from meshproxy.proxy.runtime cimport Protocol
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.tls_transport cimport TlsTransport
from meshproxy.workers.transport cimport Transport


cdef class UpstreamSecurity:
    def __init__(self, TlsContext context, Region region, int slot, int64_t cell, int64_t ssl_cell):
        """Where the cluster's CLUSTER block and its CLUSTER_SSL block begin."""
        self.cells = region.page(slot) + cell
        self.ssl_cells = region.page(slot) + ssl_cell
        self.stores = weakref.WeakKeyDictionary()
        self.use(context)

    cdef use(self, TlsContext context):
        context.count_by(self.ssl_cells)
        self.context = context

    def renew(self, TlsContext context):
        """A secret changed: for connections that are made from now on."""
        self.use(context)
        self.cells[CLUSTER_CLIENT_SSL_SOCKET_FACTORY_SSL_CONTEXT_UPDATE_BY_SDS] += 1

    def refuse(self):
        """A changed secret was no good; the context stays."""
        self.cells[CLUSTER_CLIENT_SSL_SOCKET_FACTORY_SSL_CONTEXT_UPDATE_FAILED] += 1

    cdef Transport wrap(self, Loop loop, Protocol protocol, Host host, Exchange exchange):
        cdef TlsTransport transport = TlsTransport(loop, protocol)
        if not self.context.ready:
            self.cells[CLUSTER_CLIENT_SSL_SOCKET_FACTORY_UPSTREAM_CONTEXT_SECRETS_NOT_READY] += 1
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
