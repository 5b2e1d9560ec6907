"""The ClientHello (RFC 8446 4.1.2, RFC 5246 7.4.1.2) of a connection that nobody decrypts: bytes in, names and fingerprints out.

Nothing here keeps a pointer after the call; what a `ClientHello` points at lies in the caller's `data` or `room`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    HELLO_BYTES_AT_MOST = 16384          # Envoy's, and the longest message that TLS libraries take for one

# What `hello_parse` says.
cdef enum:
    HELLO_FOUND = 0
    HELLO_MORE = 1                       # a hello so far
    HELLO_NOT_TLS = -1                   # the bytes begin no handshake
    HELLO_BROKEN = -2                    # they do, but no TLS library would take this hello
    HELLO_TOO_LARGE = -3                 # it says that it is longer than the limit, or is not there in full at the limit

# A piece of the message; `at` NULL = the hello has none.
ctypedef struct Piece:
    const uint8_t *at
    uint32_t length

ctypedef struct ClientHello:
    uint16_t version                     # legacy_version
    uint16_t highest                     # the highest version offered, GREASE left out; `version` where the extension is missing
    Piece ciphers                        # 16 bits each
    Piece extensions                     # the whole block
    Piece sni                            # the host name, as sent
    Piece alpn                           # names, each after its length of 8 bits; NULL as well where the extension is broken
    Piece alpn_extension, versions, groups, formats, algorithms    # contents of extensions, with their own length in front

# Parse what a connection begins with. `room` takes a message that comes in several records: `limit` bytes, 64 at least.
cdef int hello_parse(ClientHello *hello, const uint8_t *data, size_t length, uint8_t *room, size_t limit) noexcept nogil

# The names of `hello.alpn`, in the client's order.
cdef list hello_alpn(const ClientHello *hello)
# The host name in lower case (RFC 4343: names compare so); None = no name.
cdef bytes hello_sni(const ClientHello *hello)
# MD5 of "version,ciphers,extensions,groups,point formats", 32 hex digits.
cdef bytes hello_ja3(const ClientHello *hello)
# "t13d1516h2_8daaf6152771_b186095e22b6": FoxIO's JA4, 36 characters.
cdef bytes hello_ja4(const ClientHello *hello)
