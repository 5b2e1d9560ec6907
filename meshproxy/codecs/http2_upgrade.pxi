"""Part of http2.pyx: HTTP2-Settings, with which a HTTP/1 client asks for h2c (RFC 7540 3.2.1)."""

cdef int64_t base64url(uint8_t *out, size_t capacity, const char *text, size_t length) noexcept:
    """RFC 4648 5, without padding (RFC 7540 3.2.1); -1 when it is not that, or too long."""
    cdef uint32_t bits = 0
    cdef int have = 0, value
    cdef size_t i, at = 0
    cdef char c
    for i in range(length):
        c = text[i]
        if b'A' <= c <= b'Z': value = c - c'A'
        elif b'a' <= c <= b'z': value = c - c'a' + 26
        elif b'0' <= c <= b'9': value = c - c'0' + 52
        elif c == b'-': value = 62
        elif c == b'_': value = 63
        else: return -1
        bits = bits << 6 | value
        have += 6
        if have >= 8:
            have -= 8
            if at == capacity:
                return -1
            out[at] = (bits >> have) & 255
            at += 1
    return -1 if length % 4 == 1 else <int64_t>at


cdef bint is_settings(const char *text, size_t length) noexcept:
    cdef uint8_t payload[1024]
    return base64url(payload, sizeof(payload), text, length) % 6 == 0
