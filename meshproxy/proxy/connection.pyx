"""See the .pxd."""


cdef class TlsFacts:
    cdef void load(self) except *:
        self.loaded = True


cdef class ConnectionInfo:
    pass
