/* Byte classes and scans for the HTTP/1 codec.
 *
 * Every scan over a head relies on one fact that the caller has established first: the head ends with CR LF CR LF inside the data, so a
 * scan that stops at CR needs no other bound. Wide loads are the exception and get `end`, which they never read past.
 */
#ifndef MESHPROXY_HTTP1_SCAN_H
#define MESHPROXY_HTTP1_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define H1_TOKEN 1      /* tchar, RFC 9110 5.6.2 */
#define H1_TARGET 2     /* what a request target may have on the wire: visible ASCII but "#", which starts a fragment (RFC 9112 3.2) */
#define H1_VALUE 4      /* HTAB, SP, VCHAR, obs-text: RFC 9110 5.5 */
#define H1_REG_NAME 8   /* unreserved and sub-delims, RFC 3986 3.2.2; "%" is looked at apart */
#define H1_HEX 16
#define H1_DIGIT 32
#define H1_IPV6 64      /* inside "[...]" */

#define H1_IN(c, low, high) ((c) >= (low) && (c) <= (high))
#define H1_IS_DIGIT(c) H1_IN(c, '0', '9')
#define H1_IS_ALPHA(c) (H1_IN(c, 'a', 'z') || H1_IN(c, 'A', 'Z'))
#define H1_IS_HEX(c) (H1_IS_DIGIT(c) || H1_IN(c, 'a', 'f') || H1_IN(c, 'A', 'F'))
#define H1_IS_TOKEN(c) (H1_IS_ALPHA(c) || H1_IS_DIGIT(c) || (c) == '!' || H1_IN(c, '#', '\'') || (c) == '*' || (c) == '+' || (c) == '-' || \
    (c) == '.' || (c) == '^' || (c) == '_' || (c) == '`' || (c) == '|' || (c) == '~')
#define H1_IS_REG_NAME(c) (H1_IS_ALPHA(c) || H1_IS_DIGIT(c) || (c) == '-' || (c) == '.' || (c) == '_' || (c) == '~' || (c) == '!' || \
    (c) == '$' || H1_IN(c, '&', ',') || (c) == ';' || (c) == '=')
#define H1_CLASS(c) ((H1_IS_TOKEN(c) ? H1_TOKEN : 0) | (H1_IN(c, 0x21, 0x7e) && (c) != '#' ? H1_TARGET : 0) | \
    ((c) == '\t' || ((c) >= 0x20 && (c) != 0x7f) ? H1_VALUE : 0) | (H1_IS_REG_NAME(c) ? H1_REG_NAME : 0) | \
    (H1_IS_HEX(c) ? H1_HEX : 0) | (H1_IS_DIGIT(c) ? H1_DIGIT : 0) | (H1_IS_HEX(c) || (c) == ':' || (c) == '.' ? H1_IPV6 : 0))
#define H1_CLASS_4(c) H1_CLASS(c), H1_CLASS((c) + 1), H1_CLASS((c) + 2), H1_CLASS((c) + 3)
#define H1_CLASS_16(c) H1_CLASS_4(c), H1_CLASS_4((c) + 4), H1_CLASS_4((c) + 8), H1_CLASS_4((c) + 12)
#define H1_CLASS_64(c) H1_CLASS_16(c), H1_CLASS_16((c) + 16), H1_CLASS_16((c) + 32), H1_CLASS_16((c) + 48)

static const uint8_t h1_class[256] = {H1_CLASS_64(0), H1_CLASS_64(64), H1_CLASS_64(128), H1_CLASS_64(192)};

static inline int h1_is(char byte, int classes) {
    return h1_class[(uint8_t)byte] & classes;
}

static inline uint64_t h1_load_8(const char *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

static inline uint32_t h1_load_4(const char *at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

/* Whether `name` is `lower` in any case. Both have `length` bytes and are made of letters, digits and "-" (a token compared with a name of
 * ours): for these setting bit 0x20 folds case and nothing else, because no other tchar becomes a letter, a digit or "-" by it. */
static inline int h1_same(const char *name, const char *lower, size_t length) {
    size_t i = 0;
    for (; i + 8 <= length; i += 8)
        if ((h1_load_8(name + i) | 0x2020202020202020u) != h1_load_8(lower + i)) return 0;
    if (i + 4 <= length) {
        if ((h1_load_4(name + i) | 0x20202020u) != h1_load_4(lower + i)) return 0;
        i += 4;
    }
    for (; i < length; i++)
        if ((name[i] | 0x20) != lower[i]) return 0;
    return 1;
}

/* The same for two names off the wire. */
static inline int h1_same_name(const char *one, const char *other, size_t length) {
    for (size_t i = 0; i < length; i++) {
        uint8_t a = (uint8_t)one[i], b = (uint8_t)other[i];
        if (a != b && !((a ^ b) == 0x20 && H1_IS_ALPHA(a))) return 0;
    }
    return 1;
}

/* "Content_Length" and "Transfer_Encoding": CGI and WSGI servers cannot tell them from the real ones (RFC 3875 4.1.18). */
static inline int h1_underscored_framing(const char *name, size_t length) {
    if (length == 14) return name[7] == '_' && h1_same(name, "content", 7) && h1_same(name + 8, "length", 6);
    if (length == 17) return name[8] == '_' && h1_same(name, "transfer", 8) && h1_same(name + 9, "encoding", 8);
    return 0;
}

/* One LF of a head: -1 = it has no CR before it, 1 = it ends an empty line, 0 = it ends another line. */
static inline int h1_line_feed(const char *data, size_t start, size_t at, size_t *last) {
    if (at == start || data[at - 1] != '\r') return -1;
    if (at - *last == 2) return 1;
    *last = at;
    return 0;
}

/* The length of the head that begins at `start` (its first line is not empty), looking at data[from..length); what lies before `from` was
 * looked at by an earlier call. 0 = its end is not there, -1 = a LF without CR. */
static inline int64_t h1_head_end(const char *data, size_t start, size_t from, size_t length) {
    size_t last = start - 1, at;
    int said;
    if (from > start) {
        if (data[from - 1] == '\n') last = from - 1;
        else if (from - 1 > start && data[from - 2] == '\n') last = from - 2;
    } else {
        from = start;
    }
    at = from;
#ifdef __SSE2__
    const __m128i feed = _mm_set1_epi8('\n');
    for (; at + 16 <= length; at += 16) {
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(data + at)), feed));
        for (; mask; mask &= mask - 1) {
            size_t found = at + (size_t)__builtin_ctz(mask);
            said = h1_line_feed(data, start, found, &last);
            if (said) return said < 0 ? -1 : (int64_t)found + 1;
        }
    }
#endif
    for (; at < length; at++) {
        if (data[at] != '\n') continue;
        said = h1_line_feed(data, start, at, &last);
        if (said) return said < 0 ? -1 : (int64_t)at + 1;
    }
    return 0;
}

static inline uint32_t h1_skip_token(const char *data, uint32_t at) {
    while (h1_is(data[at], H1_TOKEN)) at++;
    return at;
}

static inline uint32_t h1_skip_space(const char *data, uint32_t at) {
    while (data[at] == ' ' || data[at] == '\t') at++;
    return at;
}

/* To the first byte that a request target may not have. */
static inline uint32_t h1_skip_target(const char *data, uint32_t at, uint32_t end) {
#ifdef __SSE2__
    const __m128i space = _mm_set1_epi8(' '), rubout = _mm_set1_epi8(0x7f), hash = _mm_set1_epi8('#');
    for (; at + 16 <= end; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(data + at));
        __m128i bad = _mm_or_si128(_mm_cmpeq_epi8(bytes, rubout), _mm_cmpeq_epi8(bytes, hash));
        /* signed: bytes of 0x80 and more are below the space, as controls are */
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_andnot_si128(bad, _mm_cmpgt_epi8(bytes, space))) ^ 0xffffu;
        if (mask) return at + (uint32_t)__builtin_ctz(mask);
    }
#endif
    while (h1_is(data[at], H1_TARGET)) at++;
    return at;
}

/* To the first byte that a field value may not have. */
static inline uint32_t h1_skip_value(const char *data, uint32_t at, uint32_t end) {
#ifdef __SSE2__
    const __m128i space = _mm_set1_epi8(' '), rubout = _mm_set1_epi8(0x7f), tab = _mm_set1_epi8('\t');
    for (; at + 16 <= end; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(data + at));
        __m128i text = _mm_or_si128(_mm_cmpeq_epi8(_mm_max_epu8(bytes, space), bytes), _mm_cmpeq_epi8(bytes, tab));
        unsigned mask = (unsigned)_mm_movemask_epi8(_mm_andnot_si128(_mm_cmpeq_epi8(bytes, rubout), text)) ^ 0xffffu;
        if (mask) return at + (uint32_t)__builtin_ctz(mask);
    }
#endif
    while (h1_is(data[at], H1_VALUE)) at++;
    return at;
}

/* 1*DIGIT without a leading zero and at most 2**62, else -1. RFC 9110 8.6 allows leading zeros, but a reader that takes "010" for octal
 * would find another end of the message, and no sender writes them; HAProxy refuses them too. */
static inline int64_t h1_decimal(const char *text, size_t length) {
    int64_t number = 0;
    if (length == 0 || length > 19 || (length > 1 && text[0] == '0')) return -1;
    for (size_t i = 0; i < length; i++) {
        if (!h1_is(text[i], H1_DIGIT) || number > ((INT64_C(1) << 62) - (text[i] - '0')) / 10) return -1;
        number = number * 10 + (text[i] - '0');
    }
    return number;
}

/* A port of at most 65535, -1 when it is none. An empty one is none: RFC 3986 tells senders to leave out the colon as well, and "host:"
 * would be one name for us and another for the server behind. */
static inline int64_t h1_port(const char *text, size_t length) {
    int64_t port = 0;
    if (length == 0 || length > 5) return -1;
    for (size_t i = 0; i < length; i++) {
        if (!h1_is(text[i], H1_DIGIT)) return -1;
        port = port * 10 + (text[i] - '0');
    }
    return port <= 65535 ? port : -1;
}

/* The length of the host at the start of `text` (RFC 3986 3.2.2: reg-name, IPv4 or "[" IPv6 "]"), 0 = none. No user information, no
 * IPvFuture, no zone: none has a use in a Host, and each is read differently by different servers. */
static inline size_t h1_host_length(const char *text, size_t length) {
    size_t at = 0, colons = 0;
    if (length && text[0] == '[') {
        for (at = 1; at < length && h1_is(text[at], H1_IPV6); at++) colons += text[at] == ':';
        return at < length && text[at] == ']' && colons >= 2 && at <= 46 ? at + 1 : 0;
    }
    while (at < length) {
        if (h1_is(text[at], H1_REG_NAME)) at++;
        else if (text[at] == '%' && at + 2 < length && h1_is(text[at + 1], H1_HEX) && h1_is(text[at + 2], H1_HEX)) at += 3;
        else break;
    }
    return at;
}

/* Whether `text` is host [":" port]; with `port_wanted` the port has to be there and not 0 (RFC 9110 9.3.6). */
static inline int h1_authority_ok(const char *text, size_t length, int port_wanted) {
    size_t host = h1_host_length(text, length);
    if (host == 0) return 0;
    if (host == length) return !port_wanted;
    return text[host] == ':' && h1_port(text + host + 1, length - host - 1) >= port_wanted;
}

static inline int h1_digit(char byte) {
    return byte - '0';
}

static inline int h1_hex_value(char byte) {
    return h1_is(byte, H1_DIGIT) ? byte - '0' : (byte | 0x20) - 'a' + 10;
}

#endif
