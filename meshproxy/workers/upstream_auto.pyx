"""See the .pxd. Before the first handshake with a host one connection is made for all who wait; what it speaks tells how many more are needed."""

from meshproxy.proxy.runtime cimport CLOSE_CONNECT_FAILED
from meshproxy.workers.pool cimport HostPool
from meshproxy.workers.tls_transport cimport TlsTransport


cdef class AutoDialer(Dialer):
    def __init__(self, Dialer http1, Dialer http2):
        self.http1, self.http2 = http1, http2
        self.streams = http2.streams

    cdef UpstreamConnection dial(self, HostPool pool):
        cdef AutoConnection connection = AutoConnection(pool)
        connection.dialer = self
        return connection


cdef class AutoConnection(UpstreamConnection):
    cdef void established(self) except *:
        cdef bint http2 = isinstance(self.transport, TlsTransport) and (<TlsTransport>self.transport).alpn == b"h2"
        cdef Dialer dialer = self.dialer.http2 if http2 else self.dialer.http1
        cdef UpstreamConnection successor = dialer.dial(self.pool)
        successor.transport = self.transport
        successor.info = self.info
        successor.opened_us, successor.expires_ms = self.opened_us, self.expires_ms
        successor.priority, successor.promised = self.priority, self.promised
        self.transport.protocol = successor
        if http2 != (self.pool.streams > 1):
            self.pool.streams = dialer.streams
        successor.established()

    cdef void lost(self, int why, int error) except *:
        cdef HostPool pool = self.pool
        pool.on_gone(self)
        if why == CLOSE_CONNECT_FAILED:
            pool.on_connect_failed(self, error)
        pool.refill()

    cdef void on_protocol_timer(self, int64_t now_ms) except *:
        self.transport.shut(CLOSE_CONNECT_FAILED, 0)
