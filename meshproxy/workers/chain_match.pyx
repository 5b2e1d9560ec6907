"""Walks the tree of `model.chain_match` for a connection; see the .pxd."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy
from meshproxy.proxy.connection cimport ConnectionInfo, IpPort

from meshproxy.model.chain_match import ANY, RANGES, Fork, tree_of

cdef enum:
    BY_DESTINATION_PORT
    BY_DESTINATION
    BY_SERVER_NAME
    BY_TRANSPORT
    BY_APPLICATION_PROTOCOL
    BY_DIRECT_SOURCE
    BY_SOURCE_TYPE
    BY_SOURCE
    BY_SOURCE_PORT

CRITERIA = {
    "destination_port": BY_DESTINATION_PORT, "prefix_ranges": BY_DESTINATION, "server_names": BY_SERVER_NAME,
    "transport_protocol": BY_TRANSPORT, "application_protocols": BY_APPLICATION_PROTOCOL, "direct_source_prefix_ranges": BY_DIRECT_SOURCE,
    "source_type": BY_SOURCE_TYPE, "source_prefix_ranges": BY_SOURCE, "source_ports": BY_SOURCE_PORT,
}
LOCAL_CRITERIA = {"destination_port", "prefix_ranges", "source_type"}

cdef const uint8_t *LOOPBACK_4 = b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1"
cdef const uint8_t *LOOPBACK_6 = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1"
# For ranges, a UNIX socket has this address, as in Envoy: only ranges for everybody take it, and those around it.
cdef const uint8_t *NO_ADDRESS = b"\xff\xff\xff\xff"


cdef class Step:
    def __init__(self, fork, list chosen):
        """`chosen`: what the tree's places stand for."""
        self.criterion = CRITERIA[fork.criterion]
        branches = {key: compile_tree(tree, chosen) for key, tree in fork.branches.items()}
        if fork.criterion in RANGES:
            self.v4, self.v6 = [by_length(branches, family) for family in (4, 6)]
        else:
            self.otherwise = branches.pop(ANY[fork.criterion], None)
            self.branches = {key.encode() if isinstance(key, str) else key: branch for key, branch in branches.items()}

    cdef object branch(self, ConnectionInfo info):
        if self.criterion == BY_DESTINATION:
            return branch_by_ip(self.v4, self.v6, &info.local)
        if self.criterion == BY_SOURCE:
            return branch_by_ip(self.v4, self.v6, &info.remote)
        if self.criterion == BY_DIRECT_SOURCE:
            return branch_by_ip(self.v4, self.v6, &info.direct_remote)
        if self.criterion == BY_DESTINATION_PORT:
            return self.branches.get(info.local.port, self.otherwise)
        if self.criterion == BY_SOURCE_PORT:
            return self.branches.get(info.remote.port, self.otherwise)
        if self.criterion == BY_SERVER_NAME:
            return self.branch_by_name(info.sni)
        if self.criterion == BY_TRANSPORT:
            return self.branches.get(b"raw_buffer" if info.transport_protocol is None else info.transport_protocol, self.otherwise)
        if self.criterion == BY_APPLICATION_PROTOCOL:
            return self.branch_by_protocol(info.offered_alpn)
        return self.branches.get(b"same_ip_or_loopback" if is_of_this_host(info) else b"external", self.otherwise)

    cdef object branch_by_name(self, bytes name):
        """The name itself, then the longest suffix."""
        cdef Py_ssize_t dot
        if name is None:
            return self.otherwise
        branch = self.branches.get(name)
        dot = name.find(b".")
        while branch is None and 0 <= dot < len(name) - 1:
            branch = self.branches.get(name[dot:])
            dot = name.find(b".", dot + 1)
        return self.otherwise if branch is None else branch

    cdef object branch_by_protocol(self, list protocols):
        """The client's order decides."""
        if protocols is not None:
            for protocol in protocols:
                branch = self.branches.get(protocol)
                if branch is not None:
                    return branch
        return self.otherwise


cdef object branch_by_ip(list v4, list v6, IpPort *place):
    cdef const uint8_t *ip = &place.ip[0]
    cdef list lengths = v6 if place.family == 6 else v4
    cdef int size = 16 if place.family == 6 else 4, bits
    if place.family == 4:
        ip = &place.ip[12]
    elif place.family == 0:
        ip = NO_ADDRESS
    for bits, table in lengths:
        branch = (<dict>table).get(prefix_of(ip, size, bits))
        if branch is not None:
            return branch
    return None


cdef bytes prefix_of(const uint8_t *ip, int size, int bits):
    """The address with all behind its first bits zero."""
    cdef uint8_t masked[16]
    cdef int i
    memcpy(masked, ip, size)
    for i in range(bits >> 3, size):
        masked[i] &= <uint8_t>(0xff00 >> (bits & 7)) if i == bits >> 3 else 0
    return PyBytes_FromStringAndSize(<char *>masked, size)


cdef list by_length(dict branches, int wanted):
    cdef dict lengths = {}
    for (family, bits, prefix), branch in branches.items():
        if family == wanted:
            lengths.setdefault(bits, {})[prefix] = branch
    return sorted(lengths.items(), reverse=True)


cdef bint is_of_this_host(ConnectionInfo info):
    """Envoy's "same IP or loopback": from a UNIX socket, from 127.0.0.1 or ::1, or from the address that it came to."""
    cdef IpPort *remote = &info.remote
    if remote.family == 0:
        return True
    if memcmp(remote.ip, LOOPBACK_4 if remote.family == 4 else LOOPBACK_6, 16) == 0:
        return True
    return remote.family == info.local.family and memcmp(remote.ip, info.local.ip, 16) == 0


cdef object compile_tree(tree, list chosen):
    return Step(tree, chosen) if isinstance(tree, Fork) else None if tree is None else chosen[tree]


cdef object walk(object at, ConnectionInfo info):
    while isinstance(at, Step):
        at = (<Step>at).branch(info)
    return at


cdef class MatchChooser:
    def __init__(self, model, list chains):
        """`chains` are the compiled chains of the listener's, in its order, the default one last."""
        self.root = compile_tree(tree_of([chain.match for chain in model.chains]), chains)
        self.default = None if model.default_chain is None else chains[-1]

    cdef Chain choose(self, ConnectionInfo info):
        chain = walk(self.root, info)
        return self.default if chain is None else <Chain>chain


def chooser_of(model, list chains):
    """The chooser of a listener; None when its first chain takes every connection."""
    if not model.chains and model.default_chain is not None:
        return None
    return None if tree_of([chain.match for chain in model.chains]) == 0 else MatchChooser(model, chains)


def looks_at_local(model) -> bool:
    """Whether the choice needs the connection's local address."""
    return decides(tree_of([chain.match for chain in model.chains]), LOCAL_CRITERIA)


cdef bint decides(tree, criteria):
    if not isinstance(tree, Fork):
        return False
    return tree.criterion in criteria or any([decides(branch, criteria) for branch in tree.branches.values()])


def try_choice(matches: list, connections: list) -> list:
    """For tests: which match's place each connection gets, None for no match. A connection is a dict of ConnectionInfo's fields; an
    address is (family, 16 bytes, port)."""
    cdef ConnectionInfo info
    cdef object root = compile_tree(tree_of(matches), list(range(len(matches))))
    cdef list places = []
    for connection in connections:
        info = ConnectionInfo()
        fill(&info.local, connection["local"])
        fill(&info.remote, connection["remote"])
        fill(&info.direct_remote, connection["direct_remote"])
        info.sni = connection["sni"]
        info.transport_protocol = connection["transport_protocol"]
        info.offered_alpn = connection["offered_alpn"]
        places.append(walk(root, info))
    return places


cdef void fill(IpPort *out, place) except *:
    cdef bytes ip = place[1]
    if len(ip) != 16:
        raise ValueError("an address is 16 bytes")
    out.family = place[0]
    memcpy(out.ip, <const char *>ip, 16)
    out.port = place[2]
