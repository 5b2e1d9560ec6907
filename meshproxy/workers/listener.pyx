"""See the .pxd. An accepted socket goes: limits, listener filters, choice of a chain, handshake, connection filters, service."""

from libc.string cimport memcpy, memset
from meshproxy.proxy.connection cimport IpPort
from meshproxy.proxy.runtime cimport CLOSE_LOCAL
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, histogram_record, sum_cell
from meshproxy.telemetry.facts cimport FLAG_NO_ROUTE_FOUND
from meshproxy.workers.net cimport *


cdef class ConnectionFilter:
    cdef bint admit(self, ConnectionInfo info, int64_t *held_ms) except *:
        return True

    cdef void leave(self, ConnectionInfo info) except *:
        pass


cdef class Secured:
    cdef Transport wrap(self, Loop loop, Protocol protocol, ConnectionInfo info):
        return None


cdef class ChainChooser:
    cdef Chain choose(self, ConnectionInfo info):
        return None


cdef class Inspector:
    cdef void inspect(self, Listener listener, int fd, ConnectionInfo info) except *:
        listener.on_inspected(fd, info)


cdef class Chain:
    def __init__(self, Loop loop, model, Region region, int slot, int64_t listener_cell, Secured tls, list filters):
        self.loop = loop
        self.model = model
        self.cells = region.page(slot) + listener_cell
        self.tls = tls
        self.filters = filters or None
        self.open = set()
        self.handshake_ms = int(model.connect_timeout_s * 1000)

    @property
    def count(self):
        """Open connections."""
        return len(self.open)

    def drain(self, bint close_idle):
        """Every connection closes when what it does is done; with `close_idle` those at rest close now."""
        cdef Protocol protocol
        self.draining = True
        for transport in list(self.open):
            protocol = (<Transport>transport).protocol       # it may let go of it
            protocol.drain(close_idle)

    cdef void take(self, int fd, ConnectionInfo info) except *:
        """`fd` is ours from now on."""
        cdef Greeting greeting
        cdef Transport transport
        if self.tls is None:
            transport = Transport(self.loop, None)
        else:
            greeting = Greeting(self, info)
            transport = self.tls.wrap(self.loop, greeting, info)
            greeting.transport = transport
            info.tls = True
        self.open.add(transport)
        self.cells[LISTENER_DOWNSTREAM_CX_ACTIVE] += 1
        self.loop.server[SERVER_TOTAL_CONNECTIONS] += 1
        info.fd = fd
        try:
            transport.open(fd, self.tls is not None)
            if self.tls is None:
                self.admit(transport, info)
            elif self.handshake_ms:
                self.loop.set_timer(transport, self.loop.now_ms + self.handshake_ms)
        except BaseException:
            if transport.protocol is None:
                transport.protocol = Greeting(self, info)
                (<Greeting>transport.protocol).transport = transport
            transport.close(CLOSE_LOCAL)
            raise

    cdef void admit(self, Transport transport, ConnectionInfo info) except *:
        """The connection filters in their order, then service. A refused connection closes, at once or after it was held for a while."""
        cdef int64_t held_ms = 0
        cdef Greeting greeting
        cdef int passed = 0
        cdef int i
        if self.filters is not None:
            for passed in range(len(self.filters)):
                if not (<ConnectionFilter>self.filters[passed]).admit(info, &held_ms):
                    for i in range(passed):
                        (<ConnectionFilter>self.filters[i]).leave(info)
                    greeting = Greeting(self, info)
                    greeting.transport = transport
                    greeting.held = True
                    transport.protocol = greeting
                    if held_ms:
                        transport.pause()
                        self.loop.set_timer(transport, self.loop.now_ms + held_ms)
                    else:
                        transport.close(CLOSE_LOCAL)
                    return
        info.admitted = True
        self.serve(transport, info)

    cdef void serve(self, Transport transport, ConnectionInfo info) except *:
        raise NotImplementedError("a chain without a terminal")

    cdef void closed(self, Transport transport, ConnectionInfo info, const Facts *known) except *:
        if info.admitted and self.filters is not None:
            info.admitted = False
            for connection_filter in self.filters:
                (<ConnectionFilter>connection_filter).leave(info)
        self.open.discard(transport)
        self.cells[LISTENER_DOWNSTREAM_CX_ACTIVE] -= 1
        self.cells[LISTENER_DOWNSTREAM_CX_DESTROY] += 1
        histogram_record(&self.cells[LISTENER_DOWNSTREAM_CX_LENGTH_MS], self.loop.now_us - info.opened_us)
        self.loop.server[SERVER_TOTAL_CONNECTIONS] -= 1
        info.fd = -1
        if self.log is not None:
            info.bytes_received, info.bytes_sent = transport.received, transport.sent
            self.log.write(info, known)
        if info.own_pools is not None:
            for pool in list(info.own_pools):
                pool.end()


cdef class Greeting:
    def __init__(self, Chain chain, ConnectionInfo info):
        self.chain = chain
        self.info = info

    cdef void on_connected(self) except *:
        """The handshake is done."""
        self.chain.loop.set_timer(self.transport, 0)
        self.chain.admit(self.transport, self.info)

    cdef void on_end(self) except *:
        self.transport.close(CLOSE_LOCAL)

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        if not self.held:
            self.chain.cells[LISTENER_DOWNSTREAM_CX_TRANSPORT_SOCKET_CONNECT_TIMEOUT] += 1
        self.transport.close(CLOSE_LOCAL)

    cdef void drain(self, bint close_idle) except *:
        if close_idle:
            self.transport.close(CLOSE_LOCAL)

    cdef void on_closed(self, int why, int error) except *:
        self.chain.closed(self.transport, self.info, NULL)


cdef class Listener:
    def __init__(self, Loop loop, int64_t max_worker_connections):
        self.loop = loop
        self.max_worker_connections = max_worker_connections
        self.chains = []

    def count_in(self, Region region, int slot, int64_t cell):
        """The LISTENER block begins at `cell` of every worker's page."""
        self.pages = region.pages()
        self.slots = region.slots
        self.cells = region.page(slot) + cell
        self.first_cell = cell

    def renew(self, model, list chains, ChainChooser chooser, Inspector inspector, bint wants_local, ConnectionLog log):
        """New settings for connections that come from now on. `chooser` None: the first chain takes them all."""
        self.model = model
        self.max_connections = model.max_connections
        self.chains = chains
        self.only = chains[0] if chooser is None else None
        self.chooser = chooser
        self.inspector = inspector
        self.wants_local = wants_local
        self.log = log
        for chain in chains:
            chain.log = log

    def drain(self, bint close_idle):
        for chain in self.chains:
            chain.drain(close_idle)

    @property
    def count(self):
        """Open connections."""
        return sum([chain.count for chain in self.chains])

    cdef void accept(self, int fd, const Sockaddr *peer) except *:
        """Take over an accepted socket, or close it when a limit is reached."""
        cdef ConnectionInfo info
        cdef int64_t limit = self.max_connections
        self.cells[LISTENER_DOWNSTREAM_CX_TOTAL] += 1
        if limit and sum_cell(self.pages, self.slots, self.first_cell + LISTENER_DOWNSTREAM_CX_ACTIVE) >= limit:
            self.cells[LISTENER_DOWNSTREAM_CX_OVERFLOW] += 1
            close(fd)
            return
        if self.loop.server[SERVER_TOTAL_CONNECTIONS] >= self.max_worker_connections:
            self.cells[LISTENER_DOWNSTREAM_CX_OVERLOAD_REJECT] += 1
            self.loop.server[SERVER_OVERLOAD_REJECTED_CX] += 1
            close(fd)
            return
        info = ConnectionInfo()
        info.id = self.loop.new_connection_id()
        info.opened_us = self.loop.now_us
        set_remote(info, peer)
        info.direct_remote = info.remote
        if self.wants_local:
            info.fd = fd
            find_local(info)
            info.fd = -1
        if self.inspector is None:
            self.on_inspected(fd, info)
        else:
            self.inspector.inspect(self, fd, info)

    cdef void on_inspected(self, int fd, ConnectionInfo info) except *:
        """All that can be known before the handshake is known."""
        cdef Chain chain = self.only if self.only is not None else self.chooser.choose(info)
        if chain is None:
            self.cells[LISTENER_NO_FILTER_CHAIN_MATCH] += 1
            info.flags |= FLAG_NO_ROUTE_FOUND
            info.code_details = b"filter_chain_not_found"
            self.refuse(fd, info)
        else:
            chain.take(fd, info)

    cdef void refuse(self, int fd, ConnectionInfo info) except *:
        close(fd)
        if self.log is not None:
            self.log.write(info, NULL)


cdef void set_ip(IpPort *out, const Sockaddr *address) noexcept:
    memset(out, 0, sizeof(IpPort))
    out.family = put_binary_ip(out.ip, address)
    if out.family:
        out.port = address_port(address)


cdef void set_remote(ConnectionInfo info, const Sockaddr *peer) noexcept:
    set_ip(&info.remote, peer)
    info.remote_ip_length = put_ip(info.remote_ip, peer)


cdef void set_local(ConnectionInfo info, const Sockaddr *address):
    cdef char text[128]
    set_ip(&info.local, address)
    info.local_address = text[:put_address(text, address)]


cdef void find_local(ConnectionInfo info):
    cdef Sockaddr local
    if info.local_address is None and info.fd >= 0:
        local_address(info.fd, &local)
        set_local(info, &local)
