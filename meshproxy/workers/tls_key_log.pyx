"""See the .pxd."""

import ipaddress
import os

from libc.string cimport strlen
from meshproxy.workers.net cimport Sockaddr, close, local_address, peer_address, put_binary_ip


cdef class KeyLogFile:
    def __init__(self, model):
        self.fd = os.open(model.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.local_ranges = [address_range(text) for text in model.local_ranges]
        self.remote_ranges = [address_range(text) for text in model.remote_ranges]

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    cdef bint covers(self, int fd) noexcept:
        cdef Sockaddr local, remote
        local_address(fd, &local)
        peer_address(fd, &remote)
        return in_ranges(self.local_ranges, &local) and in_ranges(self.remote_ranges, &remote)

    cdef void log(self, const char *line) noexcept:
        """One write a line, so that lines of several workers do not mix."""
        try:
            os.write(self.fd, line[:strlen(line)] + b"\n")
        except OSError:
            pass                                 # a full disk is no reason to end a connection


def address_range(str text):
    """A CIDR range as 16 bytes (IPv4 as ::ffff:a.b.c.d) and the length of its prefix."""
    network = ipaddress.ip_network(text, strict=False)
    if network.version == 4:
        return b"\0" * 10 + b"\xff\xff" + network.network_address.packed, 96 + network.prefixlen
    return network.network_address.packed, network.prefixlen


cdef bint in_ranges(list ranges, const Sockaddr *address) noexcept:
    cdef unsigned char ip[16]
    cdef bytes network
    cdef int prefix, at
    if not ranges:
        return True
    if not put_binary_ip(ip, address):
        return False
    for network, prefix in ranges:
        at = 0
        while at < prefix >> 3 and ip[at] == <unsigned char>network[at]:
            at += 1
        if at == prefix >> 3 and (prefix & 7 == 0 or (ip[at] ^ <unsigned char>network[at]) >> (8 - (prefix & 7)) == 0):
            return True
    return False
