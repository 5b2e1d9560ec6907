"""The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): a connection's first bytes tell whose connection it is."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    PROXY_V1_BYTES_AT_MOST = 107         # the specification's, with its CR LF
    # Version 2 may have 64 KiB of TLVs. HAProxy reads what fits its buffer of 16 KiB, which holds certificates and tokens too.
    PROXY_BYTES_AT_MOST = 16384

# What `proxy_parse` says.
cdef enum:
    PROXY_FOUND = 0
    PROXY_MORE = 1                       # a header so far
    PROXY_NONE = -1                      # the bytes begin no header
    PROXY_BROKEN = -2                    # they do, but it is wrong

ctypedef struct ProxyHeader:
    uint32_t length                      # of the whole header
    uint8_t version                      # 1 or 2; also of one that is broken
    # 4 or 6. 0 = it names no IP addresses (LOCAL, UNKNOWN, UNSPEC, UNIX): those of the socket hold.
    uint8_t family
    bint local                           # LOCAL: the proxy speaks for itself (a health check)
    uint8_t source[16]                   # IPv4 as ::ffff:a.b.c.d
    uint8_t destination[16]
    uint16_t source_port, destination_port
    const uint8_t *tlvs                  # inside `data`, checked: `next_tlv` walks them; none with LOCAL
    uint32_t tlvs_length

ctypedef struct Tlv:
    uint8_t type
    const uint8_t *value
    uint32_t length

cdef int proxy_parse(ProxyHeader *header, const uint8_t *data, size_t length) noexcept nogil
# The next TLV from `at[0]` on; False at the end.
cdef bint next_tlv(const ProxyHeader *header, uint32_t *at, Tlv *tlv) noexcept nogil

# Compose a header at `out`; its length. `family` 0: no addresses (UNKNOWN, LOCAL). Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d.
cdef size_t proxy_compose_v1(
    char *out, int family, const uint8_t *source, uint16_t source_port, const uint8_t *destination, uint16_t destination_port,
) noexcept nogil
# How long the header of version 2 with these TLVs, pairs of (type, bytes), is; more than PROXY_BYTES_AT_MOST should not be sent.
cdef size_t proxy_v2_length(int family, list tlvs) except 0
cdef size_t proxy_compose_v2(
    char *out, int family, const uint8_t *source, uint16_t source_port, const uint8_t *destination, uint16_t destination_port, list tlvs,
) except 0
