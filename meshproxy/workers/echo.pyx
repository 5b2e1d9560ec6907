"""See the .pxd."""

cdef enum:
    GRACE_MS = 10000                     # for each step of an end: a peer that takes nothing holds no connection for ever


cdef class Echoing:
    cdef void on_data(self, const char *data, size_t length) except *:
        cdef Transport transport = self.transport
        transport.write(data, length)
        transport.loop.flush()
        if transport.fd >= 0 and transport.is_above():
            transport.pause()

    cdef void on_drained(self) except *:
        self.transport.resume()

    cdef void on_end(self) except *:
        self.transport.close_flushed(GRACE_MS)

    cdef void drain(self, bint close_idle) except *:
        if close_idle:
            self.transport.close_flushed(GRACE_MS)

    cdef void on_closed(self, int why, int error) except *:
        self.chain.closed(self.transport, self.info, NULL)


cdef class EchoChain:
    def renew(self, model, terminal):
        self.model = model

    cdef void serve(self, Transport transport, ConnectionInfo info) except *:
        begin(self, transport, info)


cdef class ResponseChain:
    """What the client sends is thrown away: closed over it, the connection would be reset, and the response lost."""

    def renew(self, model, terminal):
        self.model = model
        self.body = terminal.body

    cdef void serve(self, Transport transport, ConnectionInfo info) except *:
        begin(self, transport, info)
        transport.write(<const char *>self.body, len(self.body))
        transport.linger(GRACE_MS)


cdef void begin(Chain chain, Transport transport, ConnectionInfo info) except *:
    cdef Echoing protocol = Echoing.__new__(Echoing)
    protocol.chain = chain
    protocol.transport = transport
    protocol.info = info
    transport.protocol = protocol
