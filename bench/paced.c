/* The load of benchmarks that change the node while it serves: requests leave at a steady rate, whatever the answers do, over keep-alive
 * connections, and each one's fate is written down. On one epoll loop, cheap enough that what is seen is the node and not its client.
 *
 *   paced PORT CONNECTIONS RATE SERVICES FILE
 *
 * Asks 127.0.0.1 for `/`, or with SERVICES > 0 for `/service-N/x` in turn, RATE times a second, until SIGTERM; then waits for what is in
 * flight and exits. Says "ready" once every connection stands. FILE gets a `struct record` for each request, each connect and each
 * connection that ended while nothing was asked on it; bench/paced.py reads them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_LIMIT = 4096, EVENTS = 256, WAITING_LIMIT = 1 << 20, RETRY_US = 10000, LATE_LIMIT_US = 1000, LAST_US = 3000000 };
enum fate { ANSWERED, OTHER_STATUS, CUT, UNANSWERED, CONNECTED, NOT_CONNECTED, ENDED_IDLE };
enum state { CLOSED, CONNECTING, IDLE, ASKED };

/* `started_us` is CLOCK_MONOTONIC; `detail` is the status or errno; `late_us`: how much later than planned the generator itself was. */
struct record { int64_t started_us; int32_t took_us, late_us, fate, detail; };
_Static_assert(sizeof(struct record) == 24, "paced.py reads records of 24 bytes");
struct connection { int fd, queued; enum state state; int64_t started_us; int32_t late_us; size_t held; char answer[ANSWER_LIMIT]; };
struct request { int64_t started_us; int32_t late_us; };

static struct sockaddr_in target = {.sin_family = AF_INET};
static struct connection *connections;
static int *idle, idle_first, idle_count, closed_count, asked_count, wanted, services, epoll;
static struct request *waiting;
static int waiting_first, waiting_count;
static FILE *records;
static volatile sig_atomic_t stopping;

static void on_stop(int signal) { (void)signal; stopping = 1; }

static void die(const char *what) { perror(what); exit(1); }

static int64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000LL + at.tv_nsec / 1000;
}

static void note(enum fate fate, int64_t started_us, int32_t late_us, int detail) {
    struct record made = {started_us, (int32_t)(now_us() - started_us), late_us, fate, detail};
    fwrite(&made, sizeof made, 1, records);
}

static void drop(struct connection *c) {
    close(c->fd);
    c->state = CLOSED;
    closed_count++;
}

/* Idle connections take turns, so that all of them are used. */
static void rest(struct connection *c) {
    c->state = IDLE;
    c->held = 0;
    if (!c->queued) idle[(idle_first + idle_count++) % wanted] = c - connections;
    c->queued = 1;
}

/* One whose end is not in the queue yet; NULL when there is none. A pool looks before it uses a connection again, so this does too. */
static struct connection *take_idle(void) {
    char byte;
    while (idle_count) {
        struct connection *c = &connections[idle[idle_first]];
        idle_first = (idle_first + 1) % wanted;
        idle_count--;
        c->queued = 0;
        if (c->state != IDLE) continue;          /* it ended while it rested */
        if (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN) return c;
        note(ENDED_IDLE, now_us(), 0, 0);
        drop(c);
    }
    return NULL;
}

static void ask(struct connection *c, struct request request) {
    static int turn;
    char text[128];
    int length = services ? sprintf(text, "GET /service-%d/x HTTP/1.1\r\nHost: bench\r\n\r\n", turn++ % services)
                          : sprintf(text, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n");
    c->state = ASKED;
    c->started_us = request.started_us;
    c->late_us = request.late_us;
    asked_count++;
    if (send(c->fd, text, length, MSG_NOSIGNAL) != length) {
        note(CUT, c->started_us, c->late_us, errno);
        asked_count--;
        drop(c);
    }
}

static void serve_waiting(void) {
    struct connection *c;
    while (waiting_count && (c = take_idle())) {
        ask(c, waiting[waiting_first]);
        waiting_first = (waiting_first + 1) % WAITING_LIMIT;
        waiting_count--;
    }
}

static void begin(int64_t at_us, int32_t late_us) {
    if (waiting_count == WAITING_LIMIT) { fprintf(stderr, "paced: %d requests wait for a connection\n", waiting_count); exit(1); }
    waiting[(waiting_first + waiting_count++) % WAITING_LIMIT] = (struct request){at_us, late_us};
}

static void connect_one(struct connection *c) {
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("paced: socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    c->state = CONNECTING;
    c->started_us = now_us();
    closed_count--;
    struct epoll_event want = {EPOLLIN | EPOLLOUT | EPOLLET, {.ptr = c}};
    if (connect(c->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS) {
        note(NOT_CONNECTED, c->started_us, 0, errno);
        drop(c);
    } else if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &want)) die("paced: epoll");
}

static void on_connected(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    note(error ? NOT_CONNECTED : CONNECTED, c->started_us, 0, error);
    if (error) drop(c);
    else rest(c);
}

/* 1 = a whole answer is there, 0 = more is to come, -1 = it does not fit. */
static int is_whole(struct connection *c) {
    c->answer[c->held] = 0;
    char *end = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "\r\ncontent-length:");
    size_t body = length && end && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (end && c->held >= (size_t)(end + 4 - c->answer) + body) return 1;
    return c->held == ANSWER_LIMIT - 1 ? -1 : 0;
}

static void on_readable(struct connection *c) {
    ssize_t got = recv(c->fd, c->answer + c->held, ANSWER_LIMIT - 1 - c->held, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (c->state == IDLE) {                      /* whatever comes unasked, it is of no more use */
        note(ENDED_IDLE, now_us(), 0, got < 0 ? errno : 0);
        drop(c);
        return;
    }
    int whole = got > 0 ? (c->held += got, is_whole(c)) : -1;
    if (whole == 0) return;
    asked_count--;
    if (whole < 0) {
        note(CUT, c->started_us, c->late_us, got < 0 ? errno : 0);
        drop(c);
        return;
    }
    int status = atoi(c->answer + 9);
    note(status == 200 ? ANSWERED : OTHER_STATUS, c->started_us, c->late_us, status);
    if (strcasestr(c->answer, "\r\nconnection: close\r\n")) drop(c);
    else rest(c);
}

static void on_event(struct connection *c, uint32_t events) {
    if (c->state == CONNECTING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) on_connected(c);
    else if (c->state >= IDLE && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) on_readable(c);
}

static void connect_missing(void) {
    for (int i = 0; closed_count && i < wanted; i++)
        if (connections[i].state == CLOSED) connect_one(&connections[i]);
}

static void raise_open_files(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int count, char **arguments) {
    if (count != 6) { fprintf(stderr, "usage: paced PORT CONNECTIONS RATE SERVICES FILE\n"); return 2; }
    target.sin_port = htons(atoi(arguments[1]));
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    wanted = closed_count = atoi(arguments[2]);
    services = atoi(arguments[4]);
    records = fopen(arguments[5], "w");
    connections = calloc(wanted, sizeof *connections);
    idle = calloc(wanted, sizeof *idle);
    waiting = calloc(WAITING_LIMIT, sizeof *waiting);
    epoll = epoll_create1(0);
    if (!records || !connections || !idle || !waiting || epoll < 0) die("paced");
    raise_open_files();
    prctl(PR_SET_TIMERSLACK, 1UL);
    signal(SIGTERM, on_stop);

    const double interval_us = 1e6 / atof(arguments[3]);
    double due_us = 0;                           /* 0 until all connections stand */
    int64_t last_us = 0, retry_us = 0;           /* 0 = no end in sight, connect at once */
    struct epoll_event events[EVENTS];
    for (;;) {
        int64_t now = now_us();
        if (stopping && !last_us) last_us = now + LAST_US;
        if (stopping && (!(asked_count + waiting_count) || now > last_us)) break;
        if (closed_count && now >= retry_us) { connect_missing(); retry_us = closed_count ? now + RETRY_US : 0; }
        if (!due_us && idle_count == wanted) { due_us = now; puts("ready"); fflush(stdout); }
        /* What this program slept through is not made up for: a burst would be its own doing, not the load's. */
        if (due_us && due_us < now - LATE_LIMIT_US) { begin(now, (int32_t)(now - due_us)); due_us = now + interval_us; }
        for (; due_us && !stopping && due_us <= now; due_us += interval_us) begin(now, (int32_t)(now - due_us));
        serve_waiting();
        double left_us = due_us ? due_us - now_us() : RETRY_US;
        left_us = left_us < 0 ? 0 : left_us > RETRY_US ? RETRY_US : left_us;
        struct timespec patience = {0, (long)(left_us * 1000)};
        int ready = epoll_pwait2(epoll, events, EVENTS, &patience, NULL);
        for (int i = 0; i < ready; i++) on_event(events[i].data.ptr, events[i].events);
    }
    for (int i = 0; i < wanted; i++)
        if (connections[i].state == ASKED) note(UNANSWERED, connections[i].started_us, connections[i].late_us, 0);
    for (; waiting_count; waiting_count--, waiting_first = (waiting_first + 1) % WAITING_LIMIT)
        note(UNANSWERED, waiting[waiting_first].started_us, waiting[waiting_first].late_us, 0);
    return fclose(records) ? 1 : 0;
}
