"""See the .pxd."""


from libc.string cimport memset


cdef class TlsFacts:
    def __cinit__(self):
        memset(self.told, 0, sizeof(self.told))

    cdef void load(self) except *:
        self.loaded = True


cdef class ConnectionInfo:
    def __cinit__(self):
        self.fd = self.http_version = -1
