"""The system calls of `net.h`."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

cdef extern from "net.h" nogil:
    ctypedef struct Sockaddr:
        unsigned int length
    int64_t monotonic_us() noexcept
    int64_t unix_us() noexcept
    int epoll_create1(int flags) noexcept
    int epoll_set(int ep, int op, int fd, uint32_t events, uint64_t data) noexcept
    int accept_connection(int fd, Sockaddr *peer) noexcept
    int set_no_delay(int fd) noexcept
    int set_keepalive(int fd) noexcept
    int socket_error(int fd) noexcept
    int start_connect(const Sockaddr *to) noexcept
    int make_address(Sockaddr *to, const char *text, size_t length, int port) noexcept
    size_t put_ip(char *out, const Sockaddr *address) noexcept
    int put_binary_ip(uint8_t *out, const Sockaddr *address) noexcept
    size_t put_address(char *out, const Sockaddr *address) noexcept
    size_t put_decimal(char *out, uint64_t value) noexcept
    int address_port(const Sockaddr *address) noexcept
    void local_address(int fd, Sockaddr *out) noexcept
    size_t unsent_bytes(int fd) noexcept
    void peer_address(int fd, Sockaddr *out) noexcept
    void poison(void *at, size_t length) noexcept
    void unpoison(void *at, size_t length) noexcept

    struct epoll_event_data "epoll_data_t":
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_event_data data
    int epoll_wait(int ep, epoll_event *events, int count, int timeout) noexcept
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    uint32_t EPOLLIN, EPOLLOUT, EPOLLET, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLEXCLUSIVE

    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t recv(int fd, void *buf, size_t length, int flags) noexcept
    ssize_t send_slices(int fd, iovec *slices, int count) noexcept
    int shutdown(int fd, int how) noexcept
    int close(int fd) noexcept
    ssize_t getrandom(void *buf, size_t length, unsigned int flags) noexcept
    int SHUT_WR
    int errno, EAGAIN, EINTR, EMFILE, ENFILE, ECONNABORTED, EINPROGRESS, ECONNREFUSED, ECONNRESET, EPIPE, ENOMEM, ENOBUFS
