"""What each listener filter makes of a connection's first bytes; counted under Envoy's names."""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from meshproxy.codecs.detect cimport *
from meshproxy.codecs.proxyproto cimport *
from meshproxy.codecs.tlshello cimport *
from meshproxy.proxy.connection cimport ConnectionInfo, IpPort
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region
from meshproxy.workers.inspect cimport *
from meshproxy.workers.listener cimport set_local, set_remote
from meshproxy.workers.loop cimport Loop
from meshproxy.workers.net cimport *

from meshproxy.model import connection_filters as model_filters

# Where a hello that came in several records is put together, for the length of one look.
cdef uint8_t hello_room[HELLO_BYTES_AT_MOST]


cdef class TlsInspector(ListenerFilter):
    def __init__(self, model, Region region, int slot, dict blocks):
        self.most = HELLO_BYTES_AT_MOST
        self.cells = region.page(slot) + <int64_t>blocks["tls_inspector"]
        self.ja3 = model.ja3
        self.ja4 = model.ja4

    cdef int look(self, Inspection inspection, const char *data, size_t length, bint ended) except *:
        cdef ClientHello hello
        cdef ConnectionInfo info = inspection.info
        cdef int said = hello_parse(&hello, <const uint8_t *>data, length, hello_room, HELLO_BYTES_AT_MOST)
        if said == HELLO_MORE and not ended:
            return LOOK_MORE
        if said == HELLO_TOO_LARGE:
            self.cells[TLS_INSPECTOR_CLIENT_HELLO_TOO_LARGE] += 1
            return LOOK_REFUSED
        if said != HELLO_FOUND:
            self.cells[TLS_INSPECTOR_TLS_NOT_FOUND] += 1
            return LOOK_DONE
        info.transport_protocol = b"tls"
        info.sni = hello_sni(&hello)
        info.offered_alpn = hello_alpn(&hello) or None
        info.alpn = None if info.offered_alpn is None else info.offered_alpn[0]
        if self.ja3:
            info.ja3 = hello_ja3(&hello)
        if self.ja4:
            info.ja4 = hello_ja4(&hello)
        self.cells[TLS_INSPECTOR_TLS_FOUND] += 1
        self.cells[TLS_INSPECTOR_SNI_NOT_FOUND if info.sni is None else TLS_INSPECTOR_SNI_FOUND] += 1
        self.cells[TLS_INSPECTOR_ALPN_NOT_FOUND if info.offered_alpn is None else TLS_INSPECTOR_ALPN_FOUND] += 1
        return LOOK_DONE


cdef class HttpInspector(ListenerFilter):
    def __init__(self, Region region, int slot, dict blocks):
        self.most = DETECT_BYTES_AT_MOST
        self.cells = region.page(slot) + <int64_t>blocks["http_inspector"]

    cdef bint wants_bytes(self, ConnectionInfo info) noexcept:
        return info.transport_protocol is None           # what TLS hides is told by ALPN

    cdef int look(self, Inspection inspection, const char *data, size_t length, bint ended) except *:
        cdef ConnectionInfo info = inspection.info
        cdef int said
        if length == 0:
            return LOOK_DONE
        said = detect_http(data, length, inspection.scanned)
        if said == DETECT_MORE and not ended:
            if length < DETECT_BYTES_AT_MOST:
                return LOOK_MORE
            self.cells[HTTP_INSPECTOR_READ_ERROR] += 1
            return LOOK_REFUSED
        if said == DETECT_HTTP_1_1:
            self.cells[HTTP_INSPECTOR_HTTP11_FOUND] += 1
            info.offered_alpn = [b"http/1.1"]
        elif said == DETECT_HTTP_1_0:
            self.cells[HTTP_INSPECTOR_HTTP10_FOUND] += 1
            info.offered_alpn = [b"http/1.0"]
        elif said == DETECT_HTTP_2:
            self.cells[HTTP_INSPECTOR_HTTP2_FOUND] += 1
            info.offered_alpn = [b"h2c"]
        else:
            self.cells[HTTP_INSPECTOR_HTTP_NOT_FOUND] += 1
        return LOOK_DONE


cdef class ProxyProtocol(ListenerFilter):
    def __init__(self, model, Region region, int slot, dict blocks):
        self.most = PROXY_BYTES_AT_MOST
        self.cells = region.page(slot) + <int64_t>blocks[f"proxy_proto:{model.stat_prefix}"]
        self.optional = model.allow_without_header
        self.allowed[1] = 1 in model.versions
        self.allowed[2] = 2 in model.versions
        self.kept = None if model.pass_tlvs is None else set(model.pass_tlvs)

    cdef int look(self, Inspection inspection, const char *data, size_t length, bint ended) except *:
        cdef ProxyHeader header
        cdef int said = proxy_parse(&header, <const uint8_t *>data, length)
        cdef bint is_first = header.version == 1
        if said == PROXY_NONE or (self.optional and not self.allowed[header.version]):
            return self.without_header()
        if said == PROXY_MORE:
            if not ended:
                return LOOK_MORE
            if self.optional:
                return self.without_header()
            said = PROXY_BROKEN
        if not self.allowed[header.version]:
            self.cells[PROXY_PROTO_VERSIONS_V1_DISALLOWED if is_first else PROXY_PROTO_VERSIONS_V2_DISALLOWED] += 1
            return LOOK_REFUSED
        if said == PROXY_BROKEN:
            self.cells[PROXY_PROTO_VERSIONS_V1_ERROR if is_first else PROXY_PROTO_VERSIONS_V2_ERROR] += 1
            return LOOK_REFUSED
        self.cells[PROXY_PROTO_VERSIONS_V1_FOUND if is_first else PROXY_PROTO_VERSIONS_V2_FOUND] += 1
        if header.family:
            self.take_addresses(inspection.info, &header)
        inspection.info.proxy_tlvs = self.take_tlvs(&header)
        inspection.taken = header.length
        return LOOK_DONE

    cdef int without_header(self) noexcept:
        self.cells[PROXY_PROTO_NOT_FOUND_ALLOWED if self.optional else PROXY_PROTO_NOT_FOUND_DISALLOWED] += 1
        return LOOK_DONE if self.optional else LOOK_REFUSED

    cdef void take_addresses(self, ConnectionInfo info, const ProxyHeader *header) except *:
        cdef Sockaddr address
        make_ip(&address, header.family, header.source, header.source_port)
        set_remote(info, &address)
        make_ip(&address, header.family, header.destination, header.destination_port)
        set_local(info, &address)

    cdef list take_tlvs(self, const ProxyHeader *header):
        cdef Tlv tlv
        cdef uint32_t at = 0
        cdef list kept = []
        while next_tlv(header, &at, &tlv):
            if self.kept is None or tlv.type in self.kept:
                kept.append((tlv.type, (<const char *>tlv.value)[:tlv.length]))
        return kept


cdef class OriginalDst(ListenerFilter):
    cdef int look(self, Inspection inspection, const char *data, size_t length, bint ended) except *:
        """With REDIRECT the kernel remembers where the client wanted to go; with TPROXY that is the socket's own address."""
        cdef ConnectionInfo info = inspection.info
        cdef Sockaddr own, meant
        cdef IpPort place
        local_address(inspection.fd, &own)
        place.family = put_binary_ip(place.ip, &own)
        if place.family == 0:
            return LOOK_DONE
        original_destination(inspection.fd, place.family, &meant)
        set_local(info, &meant if meant.length else &own)
        return LOOK_DONE


def listener_filters_of(model, Loop loop, Region region, int slot, dict blocks, Waiting waiting, Destinations destinations):
    """What looks at a listener's connections; None = nothing does. `waiting` and `destinations` are the worker's own."""
    cdef list filters = []
    for row in model.filters:
        if isinstance(row, model_filters.TlsInspector):
            filters.append(TlsInspector(row, region, slot, blocks))
        elif isinstance(row, model_filters.HttpInspector):
            filters.append(HttpInspector(region, slot, blocks))
        elif isinstance(row, model_filters.ProxyProtocol):
            filters.append(ProxyProtocol(row, region, slot, blocks))
        else:
            filters.append(OriginalDst())
    return ListenerFilters(loop, waiting, filters, model, destinations) if filters else None
