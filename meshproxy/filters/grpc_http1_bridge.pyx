"""Unary gRPC for HTTP/1.1 clients: they cannot be counted on to read trailers, so the whole response is held until its status is known, and
that goes into the head. A status other than 0 makes HTTP's 503, as Envoy's bridge does."""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy
from meshproxy.codecs.grpc cimport GRPC_PREFIX_BYTES, put_grpc_prefix
from meshproxy.codecs.http1 cimport (
    BODY_CHUNKED, BODY_LENGTH, HEADER_CONTENT_LENGTH, HEADER_CONTENT_TYPE, HEADER_TRAILER, Head, HeaderField,
)
from meshproxy.proxy.exchange cimport Exchange, FilterMaker, StreamFilter
from meshproxy.proxy.grpc cimport grpc_status_in_lines, is_grpc_request
from meshproxy.proxy.headers cimport decimal, drop_known
from meshproxy.proxy.lines cimport Lines, lines_add, lines_find, lines_remove
from meshproxy.proxy.outcome cimport BODY_TOO_LARGE, UPSTREAM_PROTOCOL_ERROR


cdef class GrpcHttp1BridgeMaker(FilterMaker):
    cdef bint upgrades_protobuf

    def __init__(self, model):
        self.upgrades_protobuf = model.upgrade_protobuf

    cdef StreamFilter make(self, Exchange exchange):
        cdef BridgeFilter made
        cdef bint upgrades = self.upgrades_protobuf and is_protobuf(exchange.bytes, &exchange.head)
        if exchange.downstream.http2 or not (upgrades or exchange.grpc):
            return None
        made = BridgeFilter()
        made.upgrades = upgrades
        return made


cdef bint is_protobuf(const char *bytes, const Head *head) noexcept:
    cdef int i = head.known[HEADER_CONTENT_TYPE]
    if i < 0 or head.fields[i].value_length != 22:
        return False
    return memcmp(bytes + head.fields[i].value_at, b"application/x-protobuf", 22) == 0


cdef class BridgeFilter(StreamFilter):
    cdef bint upgrades                   # the client speaks bare protobuf
    cdef char *held                      # the response's head, its table of fields, its body
    cdef size_t held_length, held_capacity
    cdef size_t body_at
    cdef Head head
    cdef bint holds
    cdef char *request                   # of a bare protobuf: its length has to be known first
    cdef size_t request_length, request_capacity

    def __dealloc__(self):
        self.let_go()
        free(self.request)

    cdef void on_request_head(self) except *:
        cdef Exchange x = self.exchange
        if not self.upgrades:
            return
        drop_known(&x.head, HEADER_CONTENT_TYPE)
        drop_known(&x.head, HEADER_CONTENT_LENGTH)
        lines_add(&x.request_lines, b"content-type", 12, b"application/grpc", 16)
        if x.head.body == BODY_LENGTH:
            x.head.body = BODY_CHUNKED
            x.head.content_length = -1

    cdef void on_request_data(self, const char *data, size_t length) except *:
        if not self.upgrades:
            StreamFilter.on_request_data(self, data, length)
        elif self.request_length + length > <size_t>self.exchange.body_limit:
            self.exchange.fail(BODY_TOO_LARGE)
        else:
            self.request = grown(self.request, &self.request_capacity, self.request_length + length + GRPC_PREFIX_BYTES)
            memcpy(self.request + GRPC_PREFIX_BYTES + self.request_length, data, length)
            self.request_length += length

    cdef void on_request_end(self, const char *trailers, size_t length) except *:
        if self.upgrades:
            self.request = grown(self.request, &self.request_capacity, self.request_length + GRPC_PREFIX_BYTES)
            put_grpc_prefix(self.request, 0, <uint32_t>self.request_length)
            StreamFilter.on_request_data(self, self.request, self.request_length + GRPC_PREFIX_BYTES)
            if self.exchange.upstream is not None:
                self.exchange.upstream.flush()   # what was lent goes with us
        StreamFilter.on_request_end(self, trailers, length)

    # -- the response

    cdef void on_response_head(self, const char *bytes, Head *head, bint end) except *:
        if end or not is_grpc_request(bytes, head):
            StreamFilter.on_response_head(self, bytes, head, end)
            return
        self.holds = True
        self.body_at = (head.length + 7 & ~<size_t>7) + head.count * sizeof(HeaderField)
        self.hold(NULL, self.body_at)
        memcpy(self.held, bytes, head.length)
        self.head = head[0]
        memcpy(self.held + (head.length + 7 & ~<size_t>7), head.fields, head.count * sizeof(HeaderField))

    cdef void hold(self, const char *data, size_t length) except *:
        cdef size_t before = self.held_capacity
        self.held = grown(self.held, &self.held_capacity, self.held_length + length)
        self.exchange.runtime.count_buffered(<int64_t>self.held_capacity - <int64_t>before)
        if data != NULL:
            memcpy(self.held + self.held_length, data, length)
        self.held_length += length

    cdef void let_go(self) noexcept:
        if self.held != NULL and self.exchange is not None and self.exchange.runtime is not None:
            self.exchange.runtime.count_buffered(-<int64_t>self.held_capacity)
        free(self.held)
        self.held = NULL
        self.held_length = self.held_capacity = 0

    cdef void on_response_data(self, const char *data, size_t length) except *:
        if not self.holds:
            StreamFilter.on_response_data(self, data, length)
        elif self.held_length - self.body_at + length > <size_t>self.exchange.config.buffer_limit:
            self.exchange.fail(UPSTREAM_PROTOCOL_ERROR)
        else:
            self.hold(data, length)

    cdef void on_response_end(self, const char *trailers, size_t length) except *:
        if self.holds:
            self.release(trailers, length)
            StreamFilter.on_response_end(self, NULL, 0)
        else:
            StreamFilter.on_response_end(self, trailers, length)

    cdef void release(self, const char *trailers, size_t length) except *:
        cdef Exchange x = self.exchange
        cdef char *body = self.held + self.body_at
        cdef size_t body_length = self.held_length - self.body_at
        cdef char number[24]
        cdef int status = grpc_status_in_lines(trailers, length)
        self.holds = False
        self.head.fields = <HeaderField *>(self.held + (self.head.length + 7 & ~<size_t>7))
        if length:
            if status > 0:
                self.head.status = 503
            copy_line(&x.response_lines, trailers, length, b"grpc-status", 11)
            copy_line(&x.response_lines, trailers, length, b"grpc-message", 12)
        if self.upgrades:
            if body_length >= GRPC_PREFIX_BYTES:
                body += GRPC_PREFIX_BYTES
                body_length -= GRPC_PREFIX_BYTES
        drop_known(&self.head, HEADER_CONTENT_LENGTH)
        drop_known(&self.head, HEADER_TRAILER)
        lines_add(&x.response_lines, b"content-length", 14, number, decimal(number, body_length))
        self.head.body = BODY_LENGTH
        self.head.content_length = body_length
        StreamFilter.on_response_head(self, self.held, &self.head, body_length == 0)
        if body_length:
            StreamFilter.on_response_data(self, body, body_length)
        x.downstream.flush()                     # what was lent goes with us

    cdef void on_complete(self) except *:
        self.let_go()


cdef char *grown(char *memory, size_t *capacity, size_t need) except? NULL:
    cdef char *more
    if need <= capacity[0]:
        return memory
    need = need * 2 if need > 4096 else 8192
    more = <char *>realloc(memory, need)
    if more == NULL:
        raise MemoryError(f"no room for {need} bytes of a gRPC message")
    capacity[0] = need
    return more


cdef void copy_line(Lines *out, const char *lines, size_t length, const char *name, size_t name_length) except *:
    cdef Lines view
    cdef uint32_t value_length = 0
    cdef const char *value
    view.at, view.length, view.capacity = <char *>lines, <uint32_t>length, 0
    value = lines_find(&view, name, name_length, &value_length)
    if value != NULL:
        lines_add(out, name, name_length, value, value_length)
