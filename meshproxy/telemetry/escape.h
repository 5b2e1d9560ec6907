/* Bytes from strangers made harmless on their way into a log line. Nothing here allocates; what does not fit sets `full`. */

#ifndef MESHPROXY_ESCAPE_H
#define MESHPROXY_ESCAPE_H

#include <stdint.h>
#include <string.h>

typedef struct {
    char *at;
    char *end;
    int full;
} Out;

static inline void out_put(Out *out, const char *bytes, size_t length)
{
    if ((size_t)(out->end - out->at) < length) {
        out->full = 1;
        return;
    }
    memcpy(out->at, bytes, length);
    out->at += length;
}

static inline void out_number(Out *out, int64_t number)
{
    char digits[20];
    int at = sizeof digits;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        digits[--at] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (number < 0)
        out_put(out, "-", 1);
    out_put(out, digits + at, sizeof digits - at);
}

static const char HEX_UPPER[] = "0123456789ABCDEF";
static const char HEX_LOWER[] = "0123456789abcdef";

/* 1: a control byte, `"` or `\`: what could end a line or a quoted field, or be taken for an escape. */
static inline int is_awkward(unsigned char byte) { return byte < 0x20 || byte == 0x7f || byte == '"' || byte == '\\'; }

/* Text lines: awkward bytes become \xHH, as nginx has it; everything else, UTF-8 or not, stays. */
static void out_text(Out *out, const char *bytes, size_t length)
{
    size_t from = 0, at;
    for (at = 0; at < length; at++) {
        unsigned char byte = (unsigned char)bytes[at];
        if (is_awkward(byte)) {
            char escaped[4] = {'\\', 'x', HEX_UPPER[byte >> 4], HEX_UPPER[byte & 15]};
            out_put(out, bytes + from, at - from);
            out_put(out, escaped, sizeof escaped);
            from = at + 1;
        }
    }
    out_put(out, bytes + from, at - from);
}

static inline int continues(const unsigned char *bytes, size_t room, int count)
{
    int at;
    if (room <= (size_t)count)
        return 0;
    for (at = 1; at <= count; at++)
        if ((bytes[at] & 0xc0) != 0x80)
            return 0;
    return 1;
}

/* Length of the well-formed UTF-8 sequence (RFC 3629) that starts with a byte over 0x7f; 0 = none does. */
static inline size_t utf8_length(const unsigned char *bytes, size_t room)
{
    unsigned char first = bytes[0];
    if (first >= 0xc2 && first <= 0xdf)
        return continues(bytes, room, 1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) {
        if (!continues(bytes, room, 2) || (first == 0xe0 && bytes[1] < 0xa0) || (first == 0xed && bytes[1] > 0x9f))
            return 0;
        return 3;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        if (!continues(bytes, room, 3) || (first == 0xf0 && bytes[1] < 0x90) || (first == 0xf4 && bytes[1] > 0x8f))
            return 0;
        return 4;
    }
    return 0;
}

/* Inside a JSON string (RFC 8259, section 7): awkward bytes become \u00HH, and so does each byte that is no UTF-8, as Envoy has it. */
static void out_json(Out *out, const char *bytes, size_t length)
{
    const unsigned char *in = (const unsigned char *)bytes;
    size_t from = 0, at = 0;
    while (at < length) {
        size_t good = in[at] < 0x80 ? !is_awkward(in[at]) : utf8_length(in + at, length - at);
        if (!good) {
            char escaped[6] = {'\\', 'u', '0', '0', HEX_LOWER[in[at] >> 4], HEX_LOWER[in[at] & 15]};
            out_put(out, bytes + from, at - from);
            out_put(out, escaped, sizeof escaped);
            from = at + 1;
            good = 1;
        }
        at += good;
    }
    out_put(out, bytes + from, at - from);
}

/* Percent-decoding of a query parameter (RFC 3986, section 2.1); "%" without two digits stays. At most `room` bytes; returns how many. */
static size_t percent_decode(const char *bytes, size_t length, char *to, size_t room)
{
    size_t at = 0, made = 0;
    while (at < length && made < room) {
        const char *high = at + 2 < length ? strchr(HEX_UPPER, bytes[at + 1] & (bytes[at + 1] >= 'a' ? 0xdf : 0xff)) : NULL;
        const char *low = high ? strchr(HEX_UPPER, bytes[at + 2] & (bytes[at + 2] >= 'a' ? 0xdf : 0xff)) : NULL;
        if (bytes[at] == '%' && high && *high && low && *low) {
            to[made++] = (char)((high - HEX_UPPER) << 4 | (low - HEX_UPPER));
            at += 3;
        } else {
            to[made++] = bytes[at++];
        }
    }
    return made;
}

#endif
