/* Both ends of the TCP loads: an origin that sends or echoes, and a client that receives or comes and goes.
 *
 *   tcp serve PORT                              until it is ended; a connection's first byte says what it wants
 *   tcp bulk PORT CONNECTIONS SECONDS           each connection receives as fast as it can
 *   tcp echo PORT CONNECTIONS SECONDS           each sends 64 bytes and waits for them, again and again
 *   tcp connect PORT CONNECTIONS SECONDS        the same, with a new connection each time
 *
 * The client prints one JSON object: what was done, in bytes and in exchanges, in how many microseconds, and what failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, MESSAGE = 64, BUFFER = 256 << 10, DESCRIPTORS = 65536 };

static char buffer[BUFFER];
static char streams[DESCRIPTORS];        /* by descriptor: 1 = it is sent as much as it takes */
static int progress[DESCRIPTORS];        /* bytes of the message received */

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return to;
}

static void watch(int ep, int op, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(ep, op, fd, &event);
}

static void serve_one(int ep, int fd, uint32_t events) {
    if (events & EPOLLIN) {
        ssize_t got = recv(fd, buffer, BUFFER, 0);
        if (got <= 0 && !(got < 0 && errno == EAGAIN)) {
            close(fd);
            return;
        }
        if (got > 0 && buffer[0] == 'b') {
            streams[fd] = 1;
            watch(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
        } else if (got > 0)
            send(fd, buffer, got, MSG_NOSIGNAL);
    }
    if (events & EPOLLOUT && streams[fd])
        send(fd, buffer, BUFFER, MSG_NOSIGNAL);
}

static int serve(int port) {
    int one = 1, ep = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = loopback(port);
    struct epoll_event events[EVENTS];
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096)) {
        perror("tcp serve");
        return 1;
    }
    watch(ep, EPOLL_CTL_ADD, listener, EPOLLIN);
    for (;;) {
        int count = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                serve_one(ep, fd, events[i].events);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                streams[fd] = 0;
                watch(ep, EPOLL_CTL_ADD, fd, EPOLLIN);
            }
        }
    }
}

static int open_one(int ep, int port) {
    struct sockaddr_in to = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    progress[fd] = -1;
    watch(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT);
    return fd;
}

static int drive(const char *what, int port, int connections, double seconds) {
    int ep = epoll_create1(0), bulk = !strcmp(what, "bulk"), comes_and_goes = !strcmp(what, "connect");
    int64_t bytes = 0, exchanges = 0, failed = 0, begun = now_us(), end = begun + (int64_t)(seconds * 1e6);
    struct epoll_event events[EVENTS];
    memset(buffer, bulk ? 'b' : 'e', BUFFER);
    for (int i = 0; i < connections; i++)
        failed += open_one(ep, port) < 0;
    while (now_us() < end) {
        int count = epoll_wait(ep, events, EVENTS, 100);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (progress[fd] < 0 && events[i].events & EPOLLOUT) {
                watch(ep, EPOLL_CTL_MOD, fd, EPOLLIN);
                progress[fd] = 0;
                memset(buffer, bulk ? 'b' : 'e', MESSAGE);
                send(fd, buffer, bulk ? 1 : MESSAGE, MSG_NOSIGNAL);
            }
            if (!(events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
                continue;
            ssize_t got = recv(fd, buffer, BUFFER, 0);
            if (got <= 0 && !(got < 0 && errno == EAGAIN)) {
                failed++;
                close(fd);
                open_one(ep, port);
                continue;
            }
            bytes += got > 0 ? got : 0;
            if (bulk || got < 0 || (progress[fd] += got) < MESSAGE)
                continue;
            exchanges++;
            progress[fd] = 0;
            if (comes_and_goes) {
                close(fd);
                failed += open_one(ep, port) < 0;
            } else
                send(fd, buffer, MESSAGE, MSG_NOSIGNAL);
        }
    }
    printf("{\"bytes\": %lld, \"exchanges\": %lld, \"failed\": %lld, \"duration_us\": %lld}\n", (long long)bytes, (long long)exchanges,
           (long long)failed, (long long)(now_us() - begun));
    return 0;
}

int main(int argc, char **argv) {
    struct rlimit files = {DESCRIPTORS, DESCRIPTORS};
    setrlimit(RLIMIT_NOFILE, &files);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return serve(atoi(argv[2]));
    if (argc == 5)
        return drive(argv[1], atoi(argv[2]), atoi(argv[3]), atof(argv[4]));
    fprintf(stderr, "usage: tcp serve PORT | tcp bulk|echo|connect PORT CONNECTIONS SECONDS\n");
    return 2;
}
