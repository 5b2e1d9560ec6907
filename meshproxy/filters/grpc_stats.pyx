"""Counts gRPC calls by cluster, service and method: `cluster.<cluster>.grpc.<service>.<method>.*`, and without a
name of its own `cluster.<cluster>.grpc.*`.

As in Envoy, a call is one that ended with a status, were it of our own making.

Which methods there are shows when they are called, so a method's place in the scoreboard is asked for at its first call; until the master
has given it, calls are counted here.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memchr, memset
from meshproxy.codecs.grpc cimport GrpcFrames, grpc_step
from meshproxy.codecs.http1 cimport Head
from meshproxy.proxy.exchange cimport Exchange, FilterMaker, StreamFilter
from meshproxy.proxy.grpc cimport grpc_status_in, grpc_status_in_lines, is_grpc_request
from meshproxy.scoreboard.cells cimport (
    GRPC_0, GRPC_CELLS, GRPC_FAILURE, GRPC_REQUEST_MESSAGE_COUNT, GRPC_RESPONSE_MESSAGE_COUNT, GRPC_SUCCESS, GRPC_TOTAL, GRPC_UPSTREAM_RQ_TIME,
)
from meshproxy.scoreboard.region cimport Region, histogram_record

cdef enum:
    MOST_METHODS = 1000                  # names come from clients: what is more is counted under one
    LAST_STATUS = 16

cdef class MethodCounts:
    """The counts of one method at one cluster."""
    cdef int64_t *cells
    cdef int64_t own[GRPC_CELLS]         # until a block is there

    def __cinit__(self):
        memset(self.own, 0, sizeof(self.own))
        self.cells = self.own

    def move(self, Region region, int slot, int64_t cell):
        """The block is there: what was counted so far goes into it."""
        cdef int64_t *page = region.page(slot) + cell
        cdef int i
        for i in range(GRPC_CELLS):
            page[i] += self.own[i]
        self.cells = page


cdef class GrpcStatsMaker(FilterMaker):
    cdef object late_blocks              # workers.late_blocks.LateBlocks
    cdef bint all_methods, times
    cdef frozenset methods
    cdef dict counts                     # (cluster, b"service/method"): MethodCounts

    def __init__(self, model, late_blocks):
        self.late_blocks = late_blocks
        self.all_methods = model.all_methods
        self.times = model.upstream_stats
        self.methods = frozenset(method.encode() for method in model.methods)
        self.counts = {}

    cdef StreamFilter make(self, Exchange exchange):
        cdef GrpcStatsFilter made
        if not exchange.grpc:
            return None
        made = GrpcStatsFilter()
        made.maker = self
        return made

    cdef MethodCounts counts_of(self, Exchange x):
        """None: this call is not counted."""
        cdef bytes method = method_of(x.path, x.path_length)
        cdef MethodCounts counts
        if method is None or x.cluster is None:
            return None
        if not self.all_methods and method not in self.methods:
            method = b""                         # those that nobody named are counted together
        counts = self.counts.get((x.cluster.name, method))
        if counts is None and len(self.counts) >= MOST_METHODS:
            method = b""
            counts = self.counts.get((x.cluster.name, method))
        if counts is None:
            counts = self.counts[x.cluster.name, method] = MethodCounts()
            self.late_blocks.want("GRPC", thing_of(x.cluster.model.stat_name, method), counts.move)
        return counts


cdef str thing_of(str cluster, bytes method):
    """The name in metrics, with its last dot; a dot in a service's name stays, as in Envoy."""
    return f"{cluster}.grpc.{method.decode('latin-1').replace('/', '.')}." if method else f"{cluster}.grpc."


cdef bytes method_of(const char *path, uint32_t length):
    """`service/method` of "/service/method"; None for any other path."""
    cdef const char *slash
    if length < 4 or path[0] != b'/' or memchr(path, b'?', length) != NULL:
        return None
    slash = <const char *>memchr(path + 1, b'/', length - 1)
    if slash == NULL or slash == path + 1 or slash == path + length - 1 or memchr(slash + 1, b'/', path + length - slash - 1) != NULL:
        return None
    return path[1:length]


cdef class GrpcStatsFilter(StreamFilter):
    cdef GrpcStatsMaker maker
    cdef GrpcFrames requests, responses
    cdef int status                      # -1 = has not come

    def __cinit__(self):
        self.status = -1

    cdef void on_request_data(self, const char *data, size_t length) except *:
        count(&self.requests, data, length)
        StreamFilter.on_request_data(self, data, length)

    cdef void on_response_head(self, const char *bytes, Head *head, bint end) except *:
        self.status = grpc_status_in(bytes, head)
        StreamFilter.on_response_head(self, bytes, head, end)

    cdef void on_response_data(self, const char *data, size_t length) except *:
        count(&self.responses, data, length)
        StreamFilter.on_response_data(self, data, length)

    cdef void on_response_end(self, const char *trailers, size_t length) except *:
        if length:
            self.status = grpc_status_in_lines(trailers, length)
        StreamFilter.on_response_end(self, trailers, length)

    cdef void on_answer(self) except *:
        cdef Exchange x = self.exchange
        self.status = grpc_status_in_lines(x.response_lines.at, x.response_lines.length)

    cdef void on_complete(self) except *:
        cdef Exchange x = self.exchange
        cdef MethodCounts counts = self.maker.counts_of(x)
        cdef int64_t *cells
        if counts is None:
            return
        cells = counts.cells
        if self.status >= 0:
            cells[GRPC_TOTAL] += 1
            cells[GRPC_SUCCESS if self.status == 0 else GRPC_FAILURE] += 1
        if 0 <= self.status <= LAST_STATUS:
            cells[GRPC_0 + self.status] += 1
        cells[GRPC_REQUEST_MESSAGE_COUNT] += self.requests.count
        cells[GRPC_RESPONSE_MESSAGE_COUNT] += self.responses.count
        if self.maker.times and x.response_end_us:
            histogram_record(&cells[GRPC_UPSTREAM_RQ_TIME], x.response_end_us - x.upstream_start_us)


cdef void count(GrpcFrames *frames, const char *data, size_t length) noexcept:
    cdef size_t used
    cdef bint ended
    while length:
        used = grpc_step(frames, data, length, &ended)
        data += used
        length -= used
