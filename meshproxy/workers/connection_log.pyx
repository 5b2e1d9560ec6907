"""See the .pxd."""

from libc.stdint cimport uint8_t
from libc.string cimport memset, strlen
from meshproxy.proxy.exchange cimport LogTarget
from meshproxy.proxy.record cimport describe_tls, write_lines
from meshproxy.scoreboard.region cimport Region
from meshproxy.telemetry.facts cimport LINE_OF_CONNECTION

cdef extern from "address.h":
    size_t put_place(char *out, int family, const uint8_t *ip, int port) noexcept

cdef enum:
    EVERY_STATUS = 1000                  # a connection has none: a log of failures has its line too

# For the length of a call to the log.
cdef char remote_text[64]
cdef char direct_text[64]


cdef class ConnectionLog:
    def __init__(self, Loop loop, Region region, int slot, str listener, list targets):
        self.loop = loop
        self.ring = region.ring(slot)
        self.listener = listener.encode()
        self.targets = targets
        self.tells_tls = any([(<LogTarget>target).format.tells_tls for target in targets])

    cdef void write(self, ConnectionInfo info, const Facts *known) except *:
        cdef Facts facts
        if known != NULL:
            facts = known[0]
        else:
            memset(&facts, 0, sizeof(Facts))
            facts.start_unix_us = info.opened_us + self.loop.unix_offset_us
            facts.request_end_us = facts.upstream_start_us = facts.response_start_us = facts.response_end_us = facts.downstream_start_us = -1
            facts.duration_us = self.loop.now_us - info.opened_us
            facts.flags = info.flags
            facts.connection_id = info.id
            facts.minor_version = info.http_version
            facts.listener.at, facts.listener.length = <const char *>self.listener, len(self.listener)
            if info.termination is not None:
                facts.termination_details.at, facts.termination_details.length = <const char *>info.termination, len(info.termination)
            if info.code_details != NULL:
                facts.code_details.at, facts.code_details.length = info.code_details, strlen(info.code_details)
            facts.bytes_received, facts.bytes_sent = info.bytes_received, info.bytes_sent
            describe_addresses(info, &facts)
        facts.line_type = LINE_OF_CONNECTION
        describe_tls(info, &facts, self.tells_tls)
        write_lines(self.targets, self.ring, &facts, EVERY_STATUS, self.loop)


cdef void describe_addresses(ConnectionInfo info, Facts *facts) noexcept:
    """Where listener filters found the client behind its peer, the two differ."""
    facts.downstream_remote.at = remote_text
    facts.downstream_remote.length = put_place(remote_text, info.remote.family, info.remote.ip, info.remote.port)
    facts.downstream_direct_remote.at = direct_text
    facts.downstream_direct_remote.length = put_place(direct_text, info.direct_remote.family, info.direct_remote.ip, info.direct_remote.port)
    if info.local_address is not None:
        facts.downstream_local.at = <const char *>info.local_address
        facts.downstream_local.length = len(info.local_address)
