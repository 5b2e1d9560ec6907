/* Moving bytes between sockets inside the kernel: a pipe in the middle holds references to pages, nothing is copied (splice(2)). */
#ifndef MESHPROXY_SPLICE_H
#define MESHPROXY_SPLICE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

static inline int open_pipe(int ends[2]) {
    return pipe2(ends, O_NONBLOCK | O_CLOEXEC);
}

static inline ssize_t splice_bytes(int from, int to, size_t most) {
    return splice(from, NULL, to, NULL, most, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
}

/* The close of this socket will be a reset. */
static inline void reset_on_close(int fd) {
    struct linger at_once = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}
#endif
