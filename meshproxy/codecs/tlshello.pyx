"""Reads a ClientHello as strictly as the libraries that will read it afterwards; see the .pxd for the contract.

Where a lenient reader would find another name in the same bytes than the TLS library behind it, a client could choose its filter chain by
one name and talk to it by another. So what is repeated or does not end where it says is no hello.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memchr, memcpy, memset

from hashlib import md5, sha256

cdef enum:
    HANDSHAKE = 22                       # content type (RFC 8446 5.1)
    CLIENT_HELLO = 1                     # message type
    RECORD_BYTES_AT_MOST = 16384
    RECORD_HEAD = 5
    MESSAGE_HEAD = 4
    TLS_1_0 = 0x0301
    TLS_1_3 = 0x0304

cdef enum:
    EXTENSION_SERVER_NAME = 0
    EXTENSION_GROUPS = 10
    EXTENSION_POINT_FORMATS = 11
    EXTENSION_ALGORITHMS = 13
    EXTENSION_ALPN = 16
    EXTENSION_VERSIONS = 43


# Pieces

cdef inline uint32_t number_16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef inline bint take(Piece *rest, uint32_t length, Piece *out) noexcept nogil:
    """Cut so many bytes off the front."""
    if rest.length < length:
        return False
    out.at = rest.at
    out.length = length
    rest.at += length
    rest.length -= length
    return True


cdef inline bint take_sized_8(Piece *rest, Piece *out) noexcept nogil:
    """Cut off a piece that follows its length of 8 bits."""
    cdef Piece size
    return take(rest, 1, &size) and take(rest, size.at[0], out)


cdef inline bint take_sized_16(Piece *rest, Piece *out) noexcept nogil:
    cdef Piece size
    return take(rest, 2, &size) and take(rest, number_16(size.at), out)


cdef inline bint is_grease(uint32_t value) noexcept nogil:
    """RFC 8701: 0x0a0a, 0x1a1a ... 0xfafa."""
    return (value & 0x0f0f) == 0x0a0a and (value >> 8) == (value & 255)


# The message

cdef int hello_parse(ClientHello *hello, const uint8_t *data, size_t length, uint8_t *room, size_t limit) noexcept nogil:
    cdef const uint8_t *message = NULL
    cdef size_t at = 0, have = 0, need = MESSAGE_HEAD, record, there
    memset(hello, 0, sizeof(ClientHello))
    while True:
        if at < length and data[at] != HANDSHAKE or at + 1 < length and data[at + 1] != 3:
            return HELLO_BROKEN if at else HELLO_NOT_TLS
        if length - at < RECORD_HEAD:
            break
        record = number_16(data + at + 3)
        if record > RECORD_BYTES_AT_MOST:
            return HELLO_BROKEN if at else HELLO_NOT_TLS
        at += RECORD_HEAD
        there = min(record, length - at)
        if at == RECORD_HEAD:
            message = data + at
        else:
            if message != room:
                memcpy(room, message, have)
                message = room
            # More than the limit is never needed: `need` has been checked, or the head is still short and `have` below it.
            memcpy(room + have, data + at, min(there, limit - have))
        have = min(have + there, limit)
        if have and message[0] != CLIENT_HELLO:
            return HELLO_NOT_TLS
        if have >= MESSAGE_HEAD:
            need = MESSAGE_HEAD + (<size_t>message[1] << 16 | number_16(message + 2))
            if need > limit:
                return HELLO_TOO_LARGE
        if have >= need and have >= MESSAGE_HEAD:
            return parse_message(hello, message + MESSAGE_HEAD, need - MESSAGE_HEAD)
        if there < record:
            break
        at += there
    return HELLO_TOO_LARGE if length >= limit else HELLO_MORE


cdef int parse_message(ClientHello *hello, const uint8_t *at, uint32_t length) noexcept nogil:
    cdef Piece rest, piece
    rest.at = at
    rest.length = length
    if not take(&rest, 2, &piece):
        return HELLO_BROKEN
    hello.version = hello.highest = number_16(piece.at)
    if not take(&rest, 32, &piece) or not take_sized_8(&rest, &piece) or piece.length > 32:
        return HELLO_BROKEN
    if not take_sized_16(&rest, &hello.ciphers) or hello.ciphers.length < 2 or hello.ciphers.length & 1:
        return HELLO_BROKEN
    if not take_sized_8(&rest, &piece) or piece.length == 0:
        return HELLO_BROKEN
    if rest.length:
        if not take_sized_16(&rest, &hello.extensions) or rest.length:
            return HELLO_BROKEN
        if not parse_extensions(hello):
            return HELLO_BROKEN
    return HELLO_BROKEN if hello.version < TLS_1_0 and hello.versions.at == NULL else HELLO_FOUND


cdef bint parse_extensions(ClientHello *hello) noexcept nogil:
    cdef Piece rest = hello.extensions, kind, content, name
    cdef Piece *place
    name.at = NULL
    while rest.length:
        if not take(&rest, 2, &kind) or not take_sized_16(&rest, &content):
            return False
        place = place_of(hello, &name, number_16(kind.at))
        if place == NULL:
            continue
        if place.at != NULL:             # repeated (RFC 8446 4.2 forbids it)
            return False
        place[0] = content
    if name.at != NULL and not parse_server_name(hello, name):
        return False
    parse_alpn(hello)
    parse_versions(hello)
    return True


cdef Piece *place_of(ClientHello *hello, Piece *name, uint32_t kind) noexcept nogil:
    """Where an extension's content is kept; NULL = nowhere."""
    if kind == EXTENSION_SERVER_NAME:
        return name
    if kind == EXTENSION_ALPN:
        return &hello.alpn_extension
    if kind == EXTENSION_VERSIONS:
        return &hello.versions
    if kind == EXTENSION_GROUPS:
        return &hello.groups
    if kind == EXTENSION_POINT_FORMATS:
        return &hello.formats
    if kind == EXTENSION_ALGORITHMS:
        return &hello.algorithms
    return NULL


cdef bint parse_server_name(ClientHello *hello, Piece content) noexcept nogil:
    """One name of type host_name (RFC 6066 3), 1 to 255 bytes, none of them NUL."""
    cdef Piece names, kind, name
    if not take_sized_16(&content, &names) or content.length or not take(&names, 1, &kind) or kind.at[0] != 0:
        return False
    if not take_sized_16(&names, &name) or names.length or name.length == 0 or name.length > 255:
        return False
    if memchr(name.at, 0, name.length) != NULL:
        return False
    hello.sni = name
    return True


cdef void parse_alpn(ClientHello *hello) noexcept nogil:
    """RFC 7301 3.1. A broken list is the handshake's to refuse; here it only offers nothing."""
    cdef Piece content = hello.alpn_extension, names, rest, name
    if not take_sized_16(&content, &names) or content.length or names.length < 2:
        return
    rest = names
    while rest.length:
        if not take_sized_8(&rest, &name) or name.length == 0:
            return
    hello.alpn = names


cdef void parse_versions(ClientHello *hello) noexcept nogil:
    """The highest version of the list, known or not. As with ALPN, what is wrong with it is the handshake's to say."""
    cdef Piece content = hello.versions, versions, version
    cdef uint32_t highest = 0
    if not take_sized_8(&content, &versions):
        return
    while take(&versions, 2, &version):
        if not is_grease(number_16(version.at)):
            highest = max(highest, number_16(version.at))
    if highest:
        hello.highest = highest


# What Python objects are made of it

cdef list hello_alpn(const ClientHello *hello):
    cdef Piece rest = hello.alpn, name
    cdef list names = []
    while rest.length and take_sized_8(&rest, &name):
        names.append(PyBytes_FromStringAndSize(<const char *>name.at, name.length))
    return names


cdef bytes hello_sni(const ClientHello *hello):
    if hello.sni.at == NULL:
        return None
    return PyBytes_FromStringAndSize(<const char *>hello.sni.at, hello.sni.length).lower()


include "tlshello_fingerprints.pxi"


# As Python sees it, for tests and tools. The input is copied to a block of just its size, so that a sanitizer sees a read beyond it.

def parse_hello_bytes(data: bytes, *, limit: int = HELLO_BYTES_AT_MOST) -> dict | int:
    """What a hello says; 1 = more is needed, negative = what it is not (HELLO_*)."""
    cdef ClientHello hello
    cdef size_t length = len(data)
    cdef int said
    cdef uint8_t *block = <uint8_t *>malloc(length if length else 1)
    cdef uint8_t *room = <uint8_t *>malloc(limit if limit > 0 else 1)
    try:
        if block == NULL or room == NULL:
            raise MemoryError
        memcpy(block, <const char *>data, length)
        said = hello_parse(&hello, block, length, room, limit)
        if said:
            return said
        return {
            "version": hello.version, "highest": hello.highest, "sni": hello_sni(&hello), "alpn": hello_alpn(&hello),
            "ja3": hello_ja3(&hello).decode(), "ja4": hello_ja4(&hello).decode(),
        }
    finally:
        free(block)
        free(room)
