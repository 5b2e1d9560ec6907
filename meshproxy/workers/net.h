/* System calls of the data path, shaped so that Cython can call them in one expression. Every socket is non-blocking and close-on-exec. */
#ifndef MESHPROXY_NET_H
#define MESHPROXY_NET_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* An address as the kernel has it. `length` 0 = none. */
typedef struct {
    struct sockaddr_storage storage;
    socklen_t length;
} Sockaddr;

static inline int64_t monotonic_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline int64_t unix_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static inline int epoll_set(int ep, int op, int fd, uint32_t events, uint64_t data) {
    struct epoll_event ev;
    memset(&ev, 0, sizeof ev);
    ev.events = events;
    ev.data.u64 = data;
    return epoll_ctl(ep, op, fd, &ev);
}

/* An accepted connection, its peer in `from`; -1 with errno. */
static inline int accept_connection(int fd, Sockaddr *from) {
    from->length = sizeof from->storage;
    return accept4(fd, (struct sockaddr *)&from->storage, &from->length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static inline int set_no_delay(int fd) {
    int one = 1;
    return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline int set_keepalive(int fd) {
    int one = 1;
    return setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

static inline int socket_error(int fd) {
    int error = 0;
    socklen_t length = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) ? errno : error;
}

/* A connect under way; the fd, or -1 with errno. */
static inline int start_connect(const Sockaddr *to) {
    int fd = socket(to->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (to->storage.ss_family != AF_UNIX)
        set_no_delay(fd);
    if (connect(fd, (const struct sockaddr *)&to->storage, to->length) && errno != EINPROGRESS) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* Fill `to`; 0, or -1 when the text is no address. `port` < 0: `text` is a UNIX path. */
static inline int make_address(Sockaddr *to, const char *text, size_t length, int port) {
    char host[INET6_ADDRSTRLEN + 1];
    memset(to, 0, sizeof *to);
    if (port < 0) {
        struct sockaddr_un *un = (struct sockaddr_un *)&to->storage;
        if (length >= sizeof un->sun_path)
            return -1;
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, text, length);
        to->length = offsetof(struct sockaddr_un, sun_path) + length + 1;
        return 0;
    }
    if (length >= sizeof host)
        return -1;
    memcpy(host, text, length);
    host[length] = 0;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&to->storage;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        to->length = sizeof *v4;
        return 0;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&to->storage;
    memset(to, 0, sizeof *to);
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        to->length = sizeof *v6;
        return 0;
    }
    return -1;
}

static inline size_t put_decimal(char *out, uint64_t value) {
    char digits[20];
    size_t n = 0, i;
    do {
        digits[n++] = '0' + value % 10;
        value /= 10;
    } while (value);
    for (i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    return n;
}

/* The IP alone, as people write it ("127.0.0.1", "::1"; v4-mapped as v4); its length. `out` holds 64 bytes. A UNIX peer gives 0. */
static inline size_t put_ip(char *out, const Sockaddr *from) {
    const uint8_t *b = NULL;
    if (from->storage.ss_family == AF_INET)
        b = (const uint8_t *)&((const struct sockaddr_in *)&from->storage)->sin_addr;
    else if (from->storage.ss_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)&from->storage)->sin6_addr;
        if (!IN6_IS_ADDR_V4MAPPED(a))
            return inet_ntop(AF_INET6, a, out, 64) ? strlen(out) : 0;
        b = (const uint8_t *)a + 12;
    }
    if (!b)
        return 0;
    size_t n = put_decimal(out, b[0]);
    for (int i = 1; i < 4; i++) {
        out[n++] = '.';
        n += put_decimal(out + n, b[i]);
    }
    return n;
}

/* The IP in 16 bytes, IPv4 as ::ffff:a.b.c.d; its family, 4 or 6, or 0 for a UNIX address. */
static inline int put_binary_ip(uint8_t *out, const Sockaddr *from) {
    if (from->storage.ss_family == AF_INET) {
        memset(out, 0, 10);
        out[10] = out[11] = 0xff;
        memcpy(out + 12, &((const struct sockaddr_in *)&from->storage)->sin_addr, 4);
        return 4;
    }
    if (from->storage.ss_family != AF_INET6)
        return 0;
    memcpy(out, &((const struct sockaddr_in6 *)&from->storage)->sin6_addr, 16);
    return IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)&from->storage)->sin6_addr) ? 4 : 6;
}

static inline int address_port(const Sockaddr *from) {
    if (from->storage.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)&from->storage)->sin_port);
    if (from->storage.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&from->storage)->sin6_port);
    return -1;
}

/* "ip:port", "[ip6]:port" or the UNIX path; its length. `out` holds 128 bytes. */
static inline size_t put_address(char *out, const Sockaddr *from) {
    int port = address_port(from);
    if (port < 0) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&from->storage;
        size_t room = from->length > offsetof(struct sockaddr_un, sun_path) ? from->length - offsetof(struct sockaddr_un, sun_path) : 0;
        size_t n = strnlen(un->sun_path, room);
        n = n > 108 ? 108 : n;
        memcpy(out, un->sun_path, n);
        return n;
    }
    char ip[64];
    size_t ip_length = put_ip(ip, from), n = 0;
    int brackets = memchr(ip, ':', ip_length) != NULL;
    if (brackets)
        out[n++] = '[';
    memcpy(out + n, ip, ip_length);
    n += ip_length;
    if (brackets)
        out[n++] = ']';
    out[n++] = ':';
    return n + put_decimal(out + n, port);
}

static inline void local_address(int fd, Sockaddr *out) {
    out->length = sizeof out->storage;
    if (getsockname(fd, (struct sockaddr *)&out->storage, &out->length))
        out->length = 0;
}

/* One system call for all slices; the cheaper one where there is one slice. */
static inline ssize_t send_slices(int fd, struct iovec *slices, int count) {
    struct msghdr message = {0};
    if (count == 1)
        return send(fd, slices[0].iov_base, slices[0].iov_len, MSG_NOSIGNAL);
    message.msg_iov = slices;
    message.msg_iovlen = count;
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

/* What the kernel still holds for the peer: not sent, or not acknowledged. */
static inline size_t unsent_bytes(int fd) {
    int held = 0;
    return ioctl(fd, SIOCOUTQ, &held) || held < 0 ? 0 : held;
}

/* The peer of a connection; the socket is made non-blocking, wherever it came from. */
static inline void peer_address(int fd, Sockaddr *out) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    out->length = sizeof out->storage;
    if (getpeername(fd, (struct sockaddr *)&out->storage, &out->length))
        out->length = 0;
}

#ifdef MESHPROXY_SANITIZE
#include <sanitizer/asan_interface.h>
#define poison(p, n) __asan_poison_memory_region(p, n)
#define unpoison(p, n) __asan_unpoison_memory_region(p, n)
#else
#define poison(p, n) ((void)0)
#define unpoison(p, n) ((void)0)
#endif
#endif
