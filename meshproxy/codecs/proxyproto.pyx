"""Reads and writes PROXY headers; see the .pxd for the contract.

What a header says decides who a client is taken for, so it is read by the letter of the specification: one space between words, no
leading zeros, nothing that is left over. Addresses that no TCP connection has (multicast, unspecified) are wrong, as in Envoy.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

cdef extern from "<arpa/inet.h>" nogil:
    enum: AF_INET, AF_INET6
    int inet_pton(int family, const char *text, void *out)
    const char *inet_ntop(int family, const void *address, char *out, unsigned int room)

cdef const char *SIGNATURE_V1 = b"PROXY "
cdef const uint8_t *SIGNATURE_V2 = b"\r\n\r\n\0\r\nQUIT\n"
cdef const uint8_t *MAPPED = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"

cdef enum:
    SIGNATURE_V1_BYTES = 6
    SIGNATURE_V2_BYTES = 12
    HEAD_V2 = 16
    COMMAND_LOCAL = 0
    COMMAND_PROXY = 1
    FAMILY_UNSPEC = 0
    FAMILY_INET = 1
    FAMILY_INET6 = 2
    FAMILY_UNIX = 3
    INET_BYTES = 12
    INET6_BYTES = 36
    UNIX_BYTES = 216
    TLV_HEAD = 3
    TLV_CRC32C = 3
    IP_TEXT_AT_MOST = 45

cdef uint32_t crc_table[256]


cdef void fill_crc_table() noexcept:
    """CRC-32C (Castagnoli; RFC 3720 B.4), reflected."""
    cdef uint32_t value
    cdef int i, bit
    for i in range(256):
        value = i
        for bit in range(8):
            value = value >> 1 ^ (<uint32_t>0x82f63b78 if value & 1 else 0)
        crc_table[i] = value


fill_crc_table()


# Reading

cdef int proxy_parse(ProxyHeader *header, const uint8_t *data, size_t length) noexcept nogil:
    memset(header, 0, sizeof(ProxyHeader))
    if memcmp(data, SIGNATURE_V2, min(length, <size_t>SIGNATURE_V2_BYTES)) == 0:
        header.version = 2
        return parse_v2(header, data, length) if length >= HEAD_V2 else PROXY_MORE
    if memcmp(data, SIGNATURE_V1, min(length, <size_t>SIGNATURE_V1_BYTES)) == 0:
        header.version = 1
        return parse_v1(header, <const char *>data, length)
    return PROXY_NONE


cdef int parse_v1(ProxyHeader *header, const char *data, size_t length) noexcept nogil:
    cdef size_t there = min(length, <size_t>PROXY_V1_BYTES_AT_MOST)
    cdef const char *end = <const char *>memchr(data, b'\n', there)
    cdef const char *at = data + SIGNATURE_V1_BYTES
    if end == NULL:
        return PROXY_BROKEN if there == PROXY_V1_BYTES_AT_MOST else PROXY_MORE
    if end - data < SIGNATURE_V1_BYTES + 5 or end[-1] != b'\r':
        return PROXY_BROKEN
    header.length = end + 1 - data
    end -= 1                             # at the CR: every word ends there at the latest
    if end - at >= 7 and memcmp(at, b"UNKNOWN", 7) == 0 and (at[7] == b' ' or at + 7 == end):
        return PROXY_FOUND               # what follows is to be ignored
    if memcmp(at, b"TCP4 ", 5) == 0:
        header.family = 4
    elif memcmp(at, b"TCP6 ", 5) == 0:
        header.family = 6
    else:
        return PROXY_BROKEN
    at += 5
    if not take_ip(header, &at, end, header.source) or not take_ip(header, &at, end, header.destination):
        return PROXY_BROKEN
    if not take_port(&at, end, b' ', &header.source_port) or not take_port(&at, end, b'\r', &header.destination_port):
        return PROXY_BROKEN
    return PROXY_FOUND if at == end + 1 else PROXY_BROKEN


cdef bint take_ip(ProxyHeader *header, const char **at, const char *end, uint8_t *ip) noexcept nogil:
    """One address and the space after it."""
    cdef char text[IP_TEXT_AT_MOST + 1]
    cdef const char *stop = <const char *>memchr(at[0], b' ', end - at[0])
    cdef size_t length
    if stop == NULL or stop - at[0] > IP_TEXT_AT_MOST or memchr(at[0], 0, stop - at[0]) != NULL:     # inet_pton would stop at a NUL
        return False
    length = stop - at[0]
    memcpy(text, at[0], length)
    text[length] = 0
    at[0] = stop + 1
    if header.family == 4:
        memcpy(ip, MAPPED, 12)
        return inet_pton(AF_INET, text, ip + 12) == 1 and is_of_one_host(ip)
    return inet_pton(AF_INET6, text, ip) == 1 and is_of_one_host(ip)


cdef bint take_port(const char **at, const char *end, char after, uint16_t *port) noexcept nogil:
    cdef const char *begin = at[0]
    cdef uint32_t value = 0
    while at[0] < end and b'0' <= at[0][0] <= b'9' and at[0] - begin < 5:
        value = value * 10 + (at[0][0] - 48)
        at[0] += 1
    if at[0] == begin or value > 65535 or (begin[0] == b'0' and at[0] - begin > 1) or at[0][0] != after:
        return False
    at[0] += 1
    port[0] = value
    return True


cdef bint is_of_one_host(const uint8_t *ip) noexcept nogil:
    """Not unspecified, multicast or the broadcast address."""
    cdef uint32_t v4
    if memcmp(ip, MAPPED, 12) == 0:
        v4 = <uint32_t>ip[12] << 24 | <uint32_t>ip[13] << 16 | <uint32_t>ip[14] << 8 | ip[15]
        return v4 != 0 and v4 != <uint32_t>0xffffffff and v4 >> 28 != 14
    return ip[0] != 0xff and (memcmp(ip, MAPPED, 10) != 0 or ip[10] or ip[11] or memcmp(ip + 12, MAPPED, 4) != 0)


cdef int parse_v2(ProxyHeader *header, const uint8_t *data, size_t length) noexcept nogil:
    cdef uint8_t command = data[12] & 15, family = data[13] >> 4, transport = data[13] & 15
    cdef uint32_t rest = number_16(data + 14), addresses = 0
    header.length = HEAD_V2 + rest
    if data[12] >> 4 != 2 or command > COMMAND_PROXY or header.length > PROXY_BYTES_AT_MOST:
        return PROXY_BROKEN
    if command == COMMAND_LOCAL:
        header.local = True
        return PROXY_FOUND if length >= header.length else PROXY_MORE
    if transport > 2 or family > FAMILY_UNIX:
        return PROXY_BROKEN
    if family == FAMILY_INET:
        addresses = INET_BYTES
    elif family == FAMILY_INET6:
        addresses = INET6_BYTES
    elif family == FAMILY_UNIX:
        addresses = UNIX_BYTES
    if rest < addresses:
        return PROXY_BROKEN
    if length < header.length:
        return PROXY_MORE
    header.tlvs = data + HEAD_V2 + addresses
    header.tlvs_length = rest - addresses
    # UNSPEC, as family or as transport: "the receiver should ignore the address information".
    if transport and family == FAMILY_INET:
        take_inet(header, data + HEAD_V2)
    elif transport and family == FAMILY_INET6:
        take_inet6(header, data + HEAD_V2)
    if header.family and not (is_of_one_host(header.source) and is_of_one_host(header.destination)):
        return PROXY_BROKEN
    return PROXY_FOUND if tlvs_hold(header, data) else PROXY_BROKEN


cdef inline uint32_t number_16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef void take_inet(ProxyHeader *header, const uint8_t *at) noexcept nogil:
    header.family = 4
    memcpy(header.source, MAPPED, 12)
    memcpy(header.source + 12, at, 4)
    memcpy(header.destination, MAPPED, 12)
    memcpy(header.destination + 12, at + 4, 4)
    header.source_port = number_16(at + 8)
    header.destination_port = number_16(at + 10)


cdef void take_inet6(ProxyHeader *header, const uint8_t *at) noexcept nogil:
    header.family = 6
    memcpy(header.source, at, 16)
    memcpy(header.destination, at + 16, 16)
    header.source_port = number_16(at + 32)
    header.destination_port = number_16(at + 34)


cdef bint next_tlv(const ProxyHeader *header, uint32_t *at, Tlv *tlv) noexcept nogil:
    if at[0] == header.tlvs_length:
        return False
    tlv.type = header.tlvs[at[0]]
    tlv.length = number_16(header.tlvs + at[0] + 1)
    tlv.value = header.tlvs + at[0] + TLV_HEAD
    at[0] += TLV_HEAD + tlv.length
    return True


cdef bint tlvs_hold(const ProxyHeader *header, const uint8_t *data) noexcept nogil:
    """Whether the TLVs fill their room exactly, and the checksum among them, if there is one, is right."""
    cdef uint32_t at = 0, left = header.tlvs_length
    cdef Tlv tlv
    while left:
        if left < TLV_HEAD or left - TLV_HEAD < number_16(header.tlvs + at + 1):
            return False
        next_tlv(header, &at, &tlv)
        left = header.tlvs_length - at
        if tlv.type == TLV_CRC32C and (tlv.length != 4 or not checksum_holds(header, data, tlv.value)):
            return False
    return True


cdef bint checksum_holds(const ProxyHeader *header, const uint8_t *data, const uint8_t *sum) noexcept nogil:
    """Of the whole header, the sum itself taken as zeros."""
    cdef uint32_t crc = <uint32_t>0xffffffff, place = sum - data, i
    cdef uint8_t byte
    for i in range(header.length):
        byte = 0 if place <= i < place + 4 else data[i]
        crc = crc >> 8 ^ crc_table[(crc ^ byte) & 255]
    crc ^= <uint32_t>0xffffffff
    return crc == (number_16(sum) << 16 | number_16(sum + 2))


# Writing

cdef inline size_t put(char *out, const void *data, size_t length) noexcept nogil:
    memcpy(out, data, length)
    return length


cdef size_t put_ip_text(char *out, int family, const uint8_t *ip) noexcept nogil:
    cdef size_t length = 0
    if family == 4:
        inet_ntop(AF_INET, ip + 12, out, IP_TEXT_AT_MOST + 1)
    else:
        inet_ntop(AF_INET6, ip, out, IP_TEXT_AT_MOST + 1)
    while out[length]:
        length += 1
    return length


cdef size_t put_port(char *out, uint16_t port, char after) noexcept nogil:
    cdef uint32_t unit = 10000
    cdef size_t length = 0
    while unit > 1 and port < unit:
        unit //= 10
    while unit:
        out[length] = 48 + port // unit % 10
        length += 1
        unit //= 10
    out[length] = after
    return length + 1


cdef size_t proxy_compose_v1(
    char *out, int family, const uint8_t *source, uint16_t source_port, const uint8_t *destination, uint16_t destination_port,
) noexcept nogil:
    cdef size_t at = put(out, SIGNATURE_V1, SIGNATURE_V1_BYTES)
    if family == 0:
        return at + put(out + at, b"UNKNOWN\r\n", 9)
    at += put(out + at, b"TCP4 " if family == 4 else b"TCP6 ", 5)
    at += put_ip_text(out + at, family, source)
    out[at] = b' '
    at += 1
    at += put_ip_text(out + at, family, destination)
    out[at] = b' '
    at += 1
    at += put_port(out + at, source_port, b' ')
    at += put_port(out + at, destination_port, b'\r')
    out[at] = b'\n'
    return at + 1


cdef size_t proxy_v2_length(int family, list tlvs) except 0:
    cdef size_t length = HEAD_V2 + (INET_BYTES if family == 4 else INET6_BYTES if family == 6 else 0)
    if family and tlvs is not None:
        for _, value in tlvs:
            length += TLV_HEAD + len(<bytes>value)
    return length


cdef size_t proxy_compose_v2(
    char *out, int family, const uint8_t *source, uint16_t source_port, const uint8_t *destination, uint16_t destination_port, list tlvs,
) except 0:
    """Without addresses it says LOCAL: receivers ignore what else would be in it."""
    cdef size_t length = proxy_v2_length(family, tlvs), at = put(out, SIGNATURE_V2, SIGNATURE_V2_BYTES)
    out[12] = 0x20 | (COMMAND_PROXY if family else COMMAND_LOCAL)
    out[13] = (FAMILY_INET if family == 4 else FAMILY_INET6) << 4 | 1 if family else 0
    at = 14 + put_16(out + 14, length - HEAD_V2)
    if family == 0:
        return at
    if family == 4:
        at += put(out + at, source + 12, 4)
        at += put(out + at, destination + 12, 4)
    else:
        at += put(out + at, source, 16)
        at += put(out + at, destination, 16)
    at += put_16(out + at, source_port)
    at += put_16(out + at, destination_port)
    if tlvs is not None:
        for kind, value in tlvs:
            out[at] = <char><int>kind
            at += 1 + put_16(out + at + 1, len(<bytes>value))
            at += put(out + at, <const char *>(<bytes>value), len(<bytes>value))
    return at


cdef inline size_t put_16(char *out, size_t value) noexcept nogil:
    out[0] = <char>(value >> 8)
    out[1] = <char>(value & 255)
    return 2


# As Python sees it, for tests and tools. The input is copied to a block of just its size, so that a sanitizer sees a read beyond it.

def parse_proxy_bytes(data: bytes) -> dict | int:
    """What a header says; 1 = more is needed, negative = PROXY_NONE or PROXY_BROKEN."""
    cdef ProxyHeader header
    cdef Tlv tlv
    cdef uint32_t at = 0
    cdef int said
    cdef size_t length = len(data)
    cdef uint8_t *block = <uint8_t *>malloc(length if length else 1)
    if block == NULL:
        raise MemoryError
    try:
        memcpy(block, <const char *>data, length)
        said = proxy_parse(&header, block, length)
        if said:
            return said
        tlvs = []
        while next_tlv(&header, &at, &tlv):
            tlvs.append((tlv.type, tlv.value[:tlv.length]))
        return {
            "length": header.length, "version": header.version, "family": header.family, "local": bool(header.local), "tlvs": tlvs,
            "source": (header.source[:16], header.source_port) if header.family else None,
            "destination": (header.destination[:16], header.destination_port) if header.family else None,
        }
    finally:
        free(block)


def compose_proxy_bytes(
    version: int, family: int, source: tuple[bytes, int], destination: tuple[bytes, int], tlvs: list[tuple[int, bytes]] | None = None,
) -> bytes:
    """The header; addresses are (16 bytes, port)."""
    cdef size_t length = PROXY_V1_BYTES_AT_MOST if version == 1 else proxy_v2_length(family, tlvs)
    cdef char *block
    cdef const char *source_ip = source[0]
    cdef const char *destination_ip = destination[0]
    if len(source[0]) != 16 or len(destination[0]) != 16:
        raise ValueError("an address is 16 bytes")
    block = <char *>malloc(length)
    if block == NULL:
        raise MemoryError
    try:
        if version == 1:
            length = proxy_compose_v1(block, family, <uint8_t *>source_ip, source[1], <uint8_t *>destination_ip, destination[1])
        else:
            length = proxy_compose_v2(block, family, <uint8_t *>source_ip, source[1], <uint8_t *>destination_ip, destination[1], tlvs)
        return block[:length]
    finally:
        free(block)
