"""See the .pxd."""


from libc.string cimport memset


cdef class TlsFacts:
    def __cinit__(self):
        memset(self.told, 0, sizeof(self.told))

    cdef void load(self) except *:
        self.loaded = True


cdef class UpstreamInfo:
    cdef void describe(self, Facts *facts, bint whole) except *:
        """What certificates say only if the `whole` is asked for."""
        facts.upstream_connection_id = self.id
        facts.upstream_version = self.http_version
        if self.local_address is not None:
            facts.upstream_local.at = <const char *>self.local_address
            facts.upstream_local.length = len(self.local_address)
        if whole and self.tls is not None:
            if not self.tls.loaded:
                self.tls.load()
            facts.upstream_tls = self.tls.told


cdef class ConnectionInfo:
    def __cinit__(self):
        self.fd = self.http_version = -1
