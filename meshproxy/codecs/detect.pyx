"""Tells HTTP from whatever else; see the .pxd for the contract.

Who speaks something else is to be known by the first byte that HTTP would not have there: nobody waits for the end of a line that is none.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

cdef extern from "http1_scan.h" nogil:
    enum: H1_TOKEN
    bint h1_is(char byte, int classes)

cdef const char *PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

cdef enum:
    PREFACE_BYTES = 24
    METHOD_BYTES_AT_MOST = 64            # as in the HTTP/1 codec
    VERSION_BYTES = 11                   # " HTTP/1.1\r\n"


cdef int detect_http(const char *data, size_t length, size_t scanned) noexcept nogil:
    cdef size_t method = 0, at
    if memcmp(data, PREFACE, min(length, <size_t>PREFACE_BYTES)) == 0:
        return DETECT_HTTP_2 if length >= PREFACE_BYTES else DETECT_MORE
    while method < length and method <= METHOD_BYTES_AT_MOST and h1_is(data[method], H1_TOKEN):
        method += 1
    if method == length:
        return DETECT_MORE if length <= METHOD_BYTES_AT_MOST else DETECT_NONE
    if method == 0 or method > METHOD_BYTES_AT_MOST or data[method] != b' ':
        return DETECT_NONE
    at = scanned - 1 if scanned > method else method     # the last byte may have been the line's CR
    while at < length and <unsigned char>data[at] >= 32 and data[at] != 127:
        at += 1
    if at == length or (at + 1 == length and data[at] == b'\r'):
        return DETECT_MORE
    if data[at] != b'\r' or data[at + 1] != b'\n':
        return DETECT_NONE
    at += 2                              # the line's length
    if at < method + 1 + VERSION_BYTES or memcmp(data + at - VERSION_BYTES, b" HTTP/1.", 8) != 0:
        return DETECT_NONE
    if data[at - 3] == b'1':
        return DETECT_HTTP_1_1
    return DETECT_HTTP_1_0 if data[at - 3] == b'0' else DETECT_NONE


def detect_http_bytes(data: bytes, scanned: int = 0) -> int:
    """For tests: the number of DETECT_*."""
    cdef size_t length = len(data)
    cdef char *block = <char *>malloc(length if length else 1)
    if block == NULL:
        raise MemoryError
    try:
        memcpy(block, <const char *>data, length)
        return detect_http(block, length, scanned)
    finally:
        free(block)
