# What an exchange talks to, as it sees them: two streams, the pools, the filters. `workers` and `filters` have the real ones.

cdef class DownstreamStream:
    cdef void send_response(self, Exchange exchange, int status, const char *bytes, Head *head, bint end) except *:
        pass

    cdef void send_informational(self, Exchange exchange, int status, const char *bytes, Head *head) except *:
        pass

    cdef void send_data(self, Exchange exchange, const char *data, size_t length) except *:
        pass

    cdef void send_end(self, Exchange exchange, const char *trailers, size_t length) except *:
        pass

    cdef void flush(self) except *:
        pass

    cdef void pause_request(self) except *:
        pass

    cdef void resume_request(self) except *:
        pass

    cdef bint is_above(self) noexcept:
        return False

    cdef void abort(self, Exchange exchange) except *:
        pass

    cdef void finish(self, Exchange exchange) except *:
        pass

    cdef void count_underscores(self, bint rejected) noexcept:
        pass

    cdef void describe(self, Facts *facts) noexcept:
        pass


cdef class UpstreamStream:
    cdef void send_request(self, Exchange exchange) except *:
        pass

    cdef void send_data(self, const char *data, size_t length) except *:
        pass

    cdef void send_end(self, const char *trailers, size_t length) except *:
        pass

    cdef void flush(self) except *:
        pass

    cdef void pause_response(self) except *:
        pass

    cdef void resume_response(self) except *:
        pass

    cdef bint is_above(self) noexcept:
        return False

    cdef void reset(self) except *:
        pass


cdef class Pools:
    cdef Cluster find(self, str name):
        return None

    cdef void acquire(self, Exchange exchange) except *:
        pass

    cdef void cancel(self, Exchange exchange) except *:
        pass


cdef class FilterRunner:
    cdef bint run(self, Exchange exchange) except *:
        return True

    cdef void cancel(self, Exchange exchange) except *:
        pass


cdef class FilterMaker:
    cdef StreamFilter make(self, Exchange exchange):
        return None


cdef class StreamFilter:
    cdef void on_request_head(self) except *:
        pass

    cdef void on_request_data(self, const char *data, size_t length) except *:
        if self.upward is not None:
            self.upward.on_request_data(data, length)
        else:
            self.exchange.pass_request_data(data, length)

    cdef void on_request_end(self, const char *trailers, size_t length) except *:
        if self.upward is not None:
            self.upward.on_request_end(trailers, length)
        else:
            self.exchange.pass_request_end(trailers, length)

    cdef void on_response_head(self, const char *bytes, Head *head, bint end) except *:
        if self.downward is not None:
            self.downward.on_response_head(bytes, head, end)
        else:
            self.exchange.pass_response_head(bytes, head, end)

    cdef void on_response_data(self, const char *data, size_t length) except *:
        if self.downward is not None:
            self.downward.on_response_data(data, length)
        else:
            self.exchange.pass_response_data(data, length)

    cdef void on_response_end(self, const char *trailers, size_t length) except *:
        if self.downward is not None:
            self.downward.on_response_end(trailers, length)
        else:
            self.exchange.pass_response_end(trailers, length)

    cdef void on_answer(self) except *:
        pass

    cdef void on_complete(self) except *:
        pass
