/* Addresses made of their parts, and those that netfilter remembers. */
#ifndef MESHPROXY_ADDRESS_H
#define MESHPROXY_ADDRESS_H
#include "net.h"

/* `family` 4 or 6, IPv4 as ::ffff:a.b.c.d; anything else gives none. */
static inline void make_ip(Sockaddr *to, int family, const uint8_t *ip, int port) {
    memset(to, 0, sizeof *to);
    if (family == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&to->storage;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, ip + 12, 4);
        to->length = sizeof *v4;
    } else if (family == 6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&to->storage;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        memcpy(&v6->sin6_addr, ip, 16);
        to->length = sizeof *v6;
    }
}

/* "1.2.3.4:5", "[::1]:5"; its length, 0 without an address. `out` holds 64 bytes. */
static inline size_t put_place(char *out, int family, const uint8_t *ip, int port) {
    Sockaddr address;
    make_ip(&address, family, ip, port);
    return address.length ? put_address(out, &address) : 0;
}

/* Where a connection was going before netfilter's REDIRECT; `length` 0 where it was not sent elsewhere. */
static inline void original_destination(int fd, int family, Sockaddr *out) {
    out->length = sizeof out->storage;
    /* SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST: both 80, in headers that do not go together with others. */
    if (getsockopt(fd, family == 4 ? SOL_IP : SOL_IPV6, 80, &out->storage, &out->length))
        out->length = 0;
}
#endif
