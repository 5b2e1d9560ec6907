/* The origin of benchmarks: answers every GET from memory, on one epoll loop, as cheaply as the kernel allows, so that what is
 * measured is the proxy. Paths that start with /64k and /1m get bodies of that size, all others two bytes.
 *
 *   origin PORT      listens on 127.0.0.1 until it is ended
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_LIMIT = 16384, EVENTS = 256, ANSWERS = 3 };

struct answer { char *bytes; size_t length; };
struct connection { int fd; size_t held; const struct answer *sending; size_t sent; char head[HEAD_LIMIT]; };

static struct answer answers[ANSWERS];

static struct answer make_answer(size_t body) {
    struct answer made;
    made.bytes = malloc(body + 256);
    int head = sprintf(made.bytes, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", body);
    memset(made.bytes + head, 'x', body);
    made.length = head + body;
    return made;
}

static const struct answer *choose(const char *head) {
    const char *path = strchr(head, ' ');
    if (path && strstr(path, "/64k ") && strstr(path, "/64k ") < strchr(path + 1, '\r')) return &answers[1];
    if (path && strstr(path, "/1m ") && strstr(path, "/1m ") < strchr(path + 1, '\r')) return &answers[2];
    return &answers[0];
}

/* 0 = go on, -1 = the connection is over. */
static int send_rest(struct connection *c, int epoll) {
    while (c->sending && c->sent < c->sending->length) {
        ssize_t n = send(c->fd, c->sending->bytes + c->sent, c->sending->length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            struct epoll_event want = {EPOLLIN | EPOLLOUT, {.ptr = c}};
            epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &want);
            return 0;
        }
        if (n <= 0) return -1;
        c->sent += n;
    }
    c->sending = NULL;
    return 0;
}

/* Answer the whole heads that are there; requests have no bodies. */
static int serve(struct connection *c, int epoll) {
    while (!c->sending && c->held) {
        char *end = memmem(c->head, c->held, "\r\n\r\n", 4);
        if (!end) return c->held == HEAD_LIMIT ? -1 : 0;
        c->sending = choose(c->head);
        c->sent = 0;
        size_t used = end + 4 - c->head;
        c->held -= used;
        if (c->held) memmove(c->head, c->head + used, c->held);
        if (send_rest(c, epoll)) return -1;
    }
    return 0;
}

static int on_event(struct connection *c, uint32_t events, int epoll) {
    if (events & EPOLLOUT) {
        int busy = c->sending != NULL;
        if (send_rest(c, epoll)) return -1;
        if (busy && !c->sending) {
            struct epoll_event want = {EPOLLIN, {.ptr = c}};
            epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &want);
        }
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (c->held < HEAD_LIMIT) {
            ssize_t n = recv(c->fd, c->head + c->held, HEAD_LIMIT - c->held, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) return -1;
            if (n > 0) c->held += n;
        }
    }
    return serve(c, epoll);
}

static void accept_all(int listener, int epoll) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        struct epoll_event want = {EPOLLIN, {.ptr = c}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &want);
    }
}

int main(int count, char **arguments) {
    if (count != 2) { fprintf(stderr, "usage: origin PORT\n"); return 2; }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    answers[0] = make_answer(2);
    answers[1] = make_answer(64 << 10);
    answers[2] = make_answer(1 << 20);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) { perror("origin"); return 1; }
    int epoll = epoll_create1(0);
    struct epoll_event events[EVENTS], want = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &want);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) accept_all(listener, epoll);
            else if (on_event(c, events[i].events, epoll)) { close(c->fd); free(c); }
        }
    }
}
