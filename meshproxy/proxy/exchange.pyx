"""A request's life between its two codecs. Every way that it can end is an Outcome; `complete` is the one place where it is counted and logged."""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from meshproxy.codecs.http1 cimport *
from meshproxy.proxy cimport headers
from meshproxy.proxy.grpc cimport add_grpc_message, grpc_reasons, grpc_status_of, grpc_timeout_ms, is_grpc_request, put_grpc_timeout
from meshproxy.proxy.lines cimport lines_add, lines_raw, strncasecmp
from meshproxy.proxy.outcome cimport *
from meshproxy.proxy.record cimport note_exchange, write_logs
from meshproxy.proxy.retry cimport give_retry_share, may_repeat, retry, status_reasons
from meshproxy.proxy.router cimport *
from meshproxy.proxy.trace cimport begin_trace, begin_try, end_trace, end_try, lose_try
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, histogram_record, status_cell

cdef enum:
    KEPT_MEMORY_BYTES = 16384            # of a pooled exchange's blocks; larger ones go back to the allocator
    SHORT_BODY_BYTES = 16384             # kept without a policy's retries: most of RPC's, and next to nothing of an upload
    MEMORY_BYTES = 1024                  # many heads with their tables of fields; a stream that is open for long holds it


include "exchange_sides.pxi"
include "exchange_config.pxi"


cdef class Exchange(Actor):
    def __dealloc__(self):
        free(self.bytes)
        free(self.path_memory)
        free(self.body)
        free(self.request_lines.at)
        free(self.response_lines.at)
        free(self.response_copy.at)

    # -- from the downstream codec

    cdef void load(self, const char *bytes, const Head *head, int64_t start_us) except *:
        """Copy the head and its table of fields into memory of our own; everything after reads from there."""
        cdef size_t fields_at = (head.length + 7) & ~<size_t>7
        cdef size_t need = fields_at + head.count * sizeof(HeaderField)
        cdef char *grown
        if need > self.bytes_capacity:
            need = need if need > MEMORY_BYTES else MEMORY_BYTES
            grown = <char *>realloc(self.bytes, need)
            if grown == NULL:
                raise MemoryError(f"no room for a head of {need} bytes")
            self.bytes = grown
            self.bytes_capacity = need
        memcpy(self.bytes, bytes, head.length)
        self.head = head[0]
        self.head.fields = <HeaderField *>(self.bytes + fields_at)
        self.head.capacity = head.count
        memcpy(self.head.fields, head.fields, head.count * sizeof(HeaderField))
        self.start_us = start_us
        if head.upgrade and (self.is_h2c() or head.body != BODY_NONE):
            # h2c is never carried on, as in Envoy. With a body, its end and the tunnel's beginning would be a guess. HTTP/1 goes on.
            self.head.upgrade = False
        self.wants_upgrade = self.head.upgrade or head.method == METHOD_CONNECT
        self.body_limit = self.config.buffer_limit

    cdef bint is_h2c(self) noexcept:
        cdef HeaderField *field = &self.head.fields[self.head.known[HEADER_UPGRADE]]
        return field.value_length == 3 and strncasecmp(self.bytes + field.value_at, b"h2c", 3) == 0

    cdef void begin(self) except *:
        """The head is here: check it, run the filters, route it."""
        cdef HttpConfig config = self.config
        cdef Runtime runtime = self.runtime
        config.cells[HTTP_DOWNSTREAM_RQ_TOTAL] += 1
        config.cells[HTTP_DOWNSTREAM_RQ_ACTIVE] += 1
        self.grpc = is_grpc_request(self.bytes, &self.head)
        self.progress_ms = runtime.now_ms
        self.idle_ms = config.stream_idle_timeout_ms
        self.phase = PHASE_FILTERS
        headers.locate(self)
        note_exchange(self)
        if runtime.is_full():
            runtime.server[SERVER_OVERLOAD_REJECTED_RQ] += 1
            config.cells[HTTP_DOWNSTREAM_RQ_OVERLOAD_CLOSE] += 1
            self.fail(OVERLOADED)
            return
        if self.head.expect_other:
            self.fail(EXPECTATION_FAILED)
            return
        if config.max_body_bytes and self.head.content_length > config.max_body_bytes:
            config.cells[HTTP_DOWNSTREAM_RQ_TOO_LARGE] += 1
            self.fail(BODY_TOO_LARGE)
            return
        if config.underscores and self.refuses_underscores():
            self.fail(BAD_REQUEST)
            return
        if config.request_timeout_ms:
            self.request_deadline_ms = runtime.now_ms + config.request_timeout_ms
        if config.max_stream_duration_ms:
            self.life_deadline_ms = runtime.now_ms + config.max_stream_duration_ms
        headers.receive_request(self)
        self.expects_continue = self.head.expect_continue and not config.proxy_100_continue
        self.arm()
        if config.filters is None or config.filters.run(self):
            self.on_filters_done()

    cdef void load_nothing(self, int64_t start_us) noexcept:
        """In place of `load` when no head could be read."""
        memset(&self.head, 0, sizeof(Head))
        memset(self.head.known, 0xff, sizeof(self.head.known))
        self.start_us = start_us

    cdef void begin_refused(self) except *:
        """In place of `begin` for what the connection refuses: only `fail` follows."""
        self.config.cells[HTTP_DOWNSTREAM_RQ_TOTAL] += 1
        self.config.cells[HTTP_DOWNSTREAM_RQ_ACTIVE] += 1
        self.idle_ms = 0
        self.phase = PHASE_LOCAL
        if self.head.length:
            headers.locate(self)

    cdef bint refuses_underscores(self) except *:
        """Envoy's `headers_with_underscores_action`: some servers read `a_b` and `a-b` as one name."""
        cdef int i, j
        cdef HeaderField *field
        for i in range(self.head.count):
            field = &self.head.fields[i]
            for j in range(field.name_length):
                if self.bytes[field.name_at + j] == b'_':
                    self.downstream.count_underscores(self.config.underscores == 1)
                    if self.config.underscores == 1:
                        return True
                    field.hop_by_hop = 1
                    break
        return False

    cdef void on_request_data(self, const char *data, size_t length) except *:
        """A piece of the body, borrowed: straight on when the upstream has the head, else kept."""
        cdef StreamFilter first = self.first_filter
        cdef HttpConfig config = self.config
        if self.phase == PHASE_DONE or self.phase == PHASE_LOCAL:
            return
        self.bytes_received += length
        self.progress_ms = self.runtime.now_ms
        if config.max_body_bytes and self.bytes_received > config.max_body_bytes:
            config.cells[HTTP_DOWNSTREAM_RQ_TOO_LARGE] += 1
            self.fail(BODY_TOO_LARGE)
            return
        if first is not None:
            first.on_request_data(data, length)
        else:
            self.pass_request_data(data, length)

    cdef void pass_request_data(self, const char *data, size_t length) except *:
        if self.upstream is None or (self.wants_upgrade and not self.tunnel):
            # What follows an upgrade that is not granted would be read as a request that nobody routed: it waits for the 101.
            self.keep_body(data, length)
            if self.body_length >= self.body_limit:
                self.pause_request()
            elif self.runtime.is_nearly_full() and not self.request_paused:
                self.runtime.server[SERVER_OVERLOAD_PAUSED_READING] += 1
                self.pause_request()
            return
        if may_keep(self, length):
            self.keep_body(data, length)
        else:
            self.drop_body()
        self.upstream.send_data(data, length)
        if self.upstream is not None and self.upstream.is_above():
            self.pause_request()

    cdef void on_request_end(self, const char *trailers, size_t length) except *:
        cdef StreamFilter first = self.first_filter
        if self.phase == PHASE_DONE or self.request_complete:
            return
        self.request_complete = True
        self.request_end_us = self.runtime.now_us
        self.request_deadline_ms = 0
        if self.route_timeout_ms and self.phase != PHASE_LOCAL:
            self.route_deadline_ms = self.runtime.now_ms + self.route_timeout_ms
            self.arm()
        if first is not None:
            first.on_request_end(trailers, length)
        else:
            self.pass_request_end(trailers, length)

    cdef void pass_request_end(self, const char *trailers, size_t length) except *:
        cdef UpstreamStream upstream = self.upstream
        self.request_passed = True
        if length:
            self.request_trailers = trailers[:length]
        if upstream is not None:
            self.start_try_timeout()
            upstream.send_end(trailers, length)

    cdef void on_downstream_drained(self) except *:
        self.progress_ms = self.runtime.now_ms
        if self.response_paused:
            self.response_paused = False
            if self.upstream is not None:
                self.cluster.cells[CLUSTER_UPSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL] += 1
                self.upstream.resume_response()

    cdef void on_downstream_gone(self) except *:
        """The client closed or reset. What is under way upstream is given up."""
        if self.phase == PHASE_DONE or self.phase == PHASE_FREE:
            return
        self.config.cells[HTTP_DOWNSTREAM_RQ_RX_RESET] += 1
        self.end_with(CLIENT_GONE)
        self.release_upstream()
        self.complete()

    # -- keeping the body

    cdef void keep_body(self, const char *data, size_t length) except *:
        cdef size_t need = self.body_length + length
        cdef char *grown
        if need > self.body_capacity:
            need = need * 2 if need > 512 else 1024
            grown = <char *>realloc(self.body, need)
            if grown == NULL:
                raise MemoryError(f"no room for {need} bytes of a body")
            self.runtime.count_buffered(need - self.body_capacity)
            self.body = grown
            self.body_capacity = need
        memcpy(self.body + self.body_length, data, length)
        self.body_length += length

    cdef void drop_body(self) noexcept:
        if self.body_capacity:
            self.runtime.count_buffered(-<int64_t>self.body_capacity)
            free(self.body)
            self.body = NULL
            self.body_length = self.body_capacity = 0
        self.body_kept = False

    cdef void pause_request(self) except *:
        if not self.request_paused:
            self.request_paused = True
            self.config.cells[HTTP_DOWNSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL] += 1
            self.downstream.pause_request()

    cdef void resume_request(self) except *:
        if self.request_paused:
            self.request_paused = False
            self.config.cells[HTTP_DOWNSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL] += 1
            self.downstream.resume_request()

    # -- routing

    cdef void on_filters_done(self) except *:
        """The filters are through; unless one of them answered, find the route."""
        cdef RouteInput request
        if self.phase != PHASE_FILTERS:
            return
        if self.config.stream_filters is not None and not self.begin_stream_filters():
            return
        self.config.cells[HTTP_RQ_TOTAL] += 1
        headers.fill_input(self, &request)
        self.route = self.config.routes.router.find(&request, self.request_lines.at, self.request_lines.length) if self.config.routes.router is not None else None
        if self.config.tracer is not None:
            begin_trace(self)
        if self.route is None:
            self.config.cells[HTTP_NO_ROUTE] += 1
            self.fail(NO_ROUTE)
        elif self.route.virtual_host.require_tls and not self.downstream.info.tls:
            self.redirect_to_https()
        elif self.route.action == ACTION_FORWARD:
            self.forward()
        elif self.route.action == ACTION_DIRECT:
            self.config.cells[HTTP_RQ_DIRECT_RESPONSE] += 1
            headers.edit_response(self, self.route.response_edits, NULL, NULL)
            self.answer(DIRECT, self.route.status, <const char *>self.route.body, len(self.route.body), <const char *>self.route.content_type)
        else:
            self.redirect(&request)

    cdef bint begin_stream_filters(self) except *:
        """Make those that care, and let them see what is here of the request; False when one of them answered."""
        cdef StreamFilter each
        cdef char *early = self.body
        cdef size_t length = self.body_length, capacity = self.body_capacity
        cdef bytes trailers = self.request_trailers
        for maker in self.config.stream_filters:
            if self.wants_upgrade and not (<FilterMaker>maker).decides:
                continue                         # a tunnel is not a message
            each = (<FilterMaker>maker).make(self)
            if each is None:
                continue
            each.exchange = self
            each.downward = self.last_filter
            if self.last_filter is None:
                self.first_filter = each
            else:
                self.last_filter.upward = each
            self.last_filter = each
            if (<FilterMaker>maker).decides:
                break                            # it says no: the others never hear of the request
        each = self.first_filter
        if each is None:
            return True
        while each is not None:
            each.on_request_head()
            if self.phase != PHASE_FILTERS:
                return False
            each = each.upward
        if length:                               # it came while users' filters waited
            self.body = NULL
            self.body_length = self.body_capacity = 0
            try:
                self.first_filter.on_request_data(early, length)
            finally:
                self.runtime.count_buffered(-<int64_t>capacity)
                free(early)
        if self.request_complete and self.phase == PHASE_FILTERS:
            self.request_trailers = None
            self.request_passed = False
            self.first_filter.on_request_end(<const char *>trailers if trailers is not None else NULL, 0 if trailers is None else len(trailers))
        return self.phase == PHASE_FILTERS

    cdef void redirect(self, const RouteInput *request) except *:
        cdef size_t capacity = self.path_length + self.authority_length + 8192
        cdef char *location = <char *>malloc(capacity)
        cdef int64_t length
        if location == NULL:
            raise MemoryError("no room for a Location")
        try:
            length = self.route.location(request, location, capacity)
            if length < 0:
                self.fail(BAD_REQUEST)
                return
            self.config.cells[HTTP_RQ_REDIRECT] += 1
            lines_add(&self.response_lines, b"location", 8, location, length)
        finally:
            free(location)
        headers.edit_response(self, self.route.response_edits, NULL, NULL)
        self.answer(REDIRECTED, self.route.status, b"", 0, NULL)

    cdef void redirect_to_https(self) except *:
        cdef bytes location = b"https://" + self.authority[:self.authority_length] + self.path[:self.path_length]
        self.config.cells[HTTP_RQ_REDIRECT] += 1
        lines_add(&self.response_lines, b"location", 8, <const char *>location, len(location))
        self.answer(HTTPS_REQUIRED, 301, b"", 0, NULL)

    cdef void forward(self) except *:
        cdef CompiledRoute route = self.route
        cdef Runtime runtime = self.runtime
        self.target = route.pick(runtime.random() if route.total_weight else 0)
        self.cluster = self.config.pools.find(self.target.cluster)
        if self.cluster is None:
            self.config.cells[HTTP_NO_CLUSTER] += 1
            self.end_with(NO_CLUSTER)
            self.answer(NO_CLUSTER, route.cluster_not_found_status, b"", 0, NULL)
            return
        if self.wants_upgrade and not self.may_upgrade():
            self.config.cells[HTTP_DOWNSTREAM_RQ_WS_ON_NON_WS_ROUTE] += 1
            self.fail(UPGRADE_REFUSED)
            return
        self.priority = route.high_priority
        self.route_timeout_ms = route.timeout_ms
        self.try_timeout_ms = route.per_try_timeout_ms
        self.retry_on = route.retry_on
        self.retries_left = route.num_retries
        if route.virtual_host.buffer_limit >= 0:
            self.body_limit = route.virtual_host.buffer_limit
        if route.idle_timeout_ms >= 0:
            self.idle_ms = route.idle_timeout_ms
        if route.max_duration_ms >= 0:
            self.life_deadline_ms = runtime.now_ms + route.max_duration_ms if route.max_duration_ms else 0
        if route.max_duration_ms >= 0 or route.grpc_timeout_max_ms >= 0:
            self.take_grpc_timeout()
            if self.phase != PHASE_FILTERS:
                return
        self.take_timeout_headers()
        if self.wants_upgrade:
            self.route_timeout_ms = 0            # a tunnel is not a response that ends; Envoy's router does the same
        elif self.request_complete and self.route_timeout_ms:
            self.route_deadline_ms = runtime.now_ms + self.route_timeout_ms
        headers.route_request(self)
        self.base_lines = self.request_lines.length
        self.body_kept = True
        if route.virtual_host.block >= 0:
            self.virtual_host_cells()[VHOST_UPSTREAM_RQ_TOTAL] += 1
        if self.expects_continue and self.head.body != BODY_NONE:
            self.downstream.send_informational(self, 100, NULL, NULL)
        self.arm()
        self.start_try()

    cdef int64_t *virtual_host_cells(self) noexcept:
        return self.runtime.server + self.route.virtual_host.block

    cdef bint may_upgrade(self) except *:
        """Whether the route, or else the connection manager, lets this kind of upgrade pass."""
        cdef bytes kind = b"connect"
        cdef HeaderField *field
        if self.head.method != METHOD_CONNECT:
            field = &self.head.fields[self.head.known[HEADER_UPGRADE]]
            kind = (<const char *>(self.bytes + field.value_at))[:field.value_length].lower()
        if self.route.upgrades and kind in self.route.upgrades:
            return self.route.upgrades[kind]
        return kind in self.config.upgrades

    cdef void take_timeout_headers(self) except *:
        """`x-envoy-upstream-rq-timeout-ms` and its per-try sister: what trusted clients may ask; untrusted ones' were cleaned before."""
        cdef int64_t value = self.take_number(HEADER_X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS)
        if value >= 0:
            self.route_timeout_ms = value
        value = self.take_number(HEADER_X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS)
        if value >= 0:
            self.try_timeout_ms = value
        if self.route_timeout_ms and self.try_timeout_ms >= self.route_timeout_ms:
            self.try_timeout_ms = 0

    cdef void take_grpc_timeout(self) except *:
        """The client's own deadline, at most the route's; told a little before the client gives up by itself.

        The endpoint of a gRPC call is told which deadline holds, were it that of the route.
        """
        cdef CompiledRoute route = self.route
        cdef char text[24]
        cdef int64_t wanted = grpc_timeout_ms(self.bytes, &self.head) if route.grpc_timeout_max_ms >= 0 else -1
        if wanted >= 0:
            if route.grpc_timeout_max_ms and wanted > route.grpc_timeout_max_ms:
                wanted = route.grpc_timeout_max_ms
            if wanted > route.grpc_timeout_offset_ms:
                wanted -= route.grpc_timeout_offset_ms
            self.life_deadline_ms = self.runtime.now_ms + wanted
        elif route.max_duration_ms >= 0:
            wanted = route.max_duration_ms
        else:
            wanted = self.config.max_stream_duration_ms
        if self.grpc and self.life_deadline_ms:
            headers.drop_fields(self.bytes, &self.head, b"grpc-timeout", 12)
            lines_add(&self.request_lines, b"grpc-timeout", 12, text, put_grpc_timeout(text, wanted))
        if wanted == 0 and self.life_deadline_ms:
            self.config.cells[HTTP_DOWNSTREAM_RQ_MAX_DURATION_REACHED] += 1
            self.fail(MAX_DURATION)

    cdef int64_t take_number(self, int id) noexcept:
        """A header's decimal value, the header dropped; -1 = not there or no number."""
        cdef int i = self.head.known[id]
        cdef int64_t value = 0
        cdef uint32_t j
        cdef char digit
        if i < 0 or self.head.fields[i].hop_by_hop:
            return -1
        self.head.fields[i].hop_by_hop = 1
        if not 0 < self.head.fields[i].value_length < 12:
            return -1
        for j in range(self.head.fields[i].value_length):
            digit = self.bytes[self.head.fields[i].value_at + j]
            if not b'0' <= digit <= b'9':
                return -1
            value = value * 10 + digit - c'0'
        return value

    # -- tries

    cdef void start_try(self) except *:
        self.attempts += 1
        self.phase = PHASE_ACQUIRE
        self.request_sent = False
        self.host = None
        if self.config.tracer is not None:
            begin_try(self)
        self.config.pools.acquire(self)

    cdef void on_upstream_ready(self, UpstreamStream stream) except *:
        """A connection is ours: send what we have, let the rest follow."""
        cdef size_t length = self.body_length
        self.upstream = stream
        self.host = stream.host
        self.upstream_info = stream.info
        self.phase = PHASE_UPSTREAM
        self.upstream_start_us = self.runtime.now_us
        headers.try_request(self)
        self.request_sent = True
        stream.send_request(self)
        if length and self.upstream is stream and not self.wants_upgrade:
            stream.send_data(self.body, length)
            stream.flush()                       # what was lent is our own memory: it may move or go before the event ends
            if not self.retry_on and not may_keep(self, 0):
                self.drop_body()
        if self.upstream is not stream:
            return
        if self.request_passed:
            self.start_try_timeout()
            if self.request_trailers is None:
                stream.send_end(NULL, 0)
            else:
                stream.send_end(<const char *>self.request_trailers, len(self.request_trailers))
        elif not stream.is_above():
            self.resume_request()

    cdef void start_try_timeout(self) except *:
        if self.try_timeout_ms:
            self.try_deadline_ms = self.runtime.now_ms + self.try_timeout_ms
            self.arm()

    cdef void on_upstream_failed(self, int outcome, bytes reason) except *:
        """The pool has no connection for us."""
        self.failure_reason = reason
        self.on_upstream_lost(outcome)

    cdef void on_upstream_reset(self, int outcome, bytes reason) except *:
        """The upstream stream is gone; it has let go of us."""
        self.upstream = None
        self.failure_reason = reason
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_RX_RESET] += 1
        if self.response_started:
            self.config.cells[HTTP_DOWNSTREAM_RQ_TX_RESET] += 1
            self.end_with(cut_outcome(outcome))
            if self.config.tracer is not None:
                lose_try(self, cut_outcome(outcome))
            self.count_host_error()
            self.downstream.abort(self)
            self.complete()
        else:
            self.on_upstream_lost(outcome)

    cdef void on_upstream_lost(self, int outcome) except *:
        cdef bint traced = self.config.tracer is not None
        self.count_host_error()
        if traced:
            lose_try(self, outcome)
        if retry(self, outcome_row(outcome).retry_on):
            if traced:
                end_try(self, False)
            return
        self.fail(outcome)

    cdef void count_host_error(self) noexcept:
        if self.host is not None:
            self.host.cells[HOST_RQ_ERROR] += 1

    # -- the response

    cdef void on_informational(self, const char *bytes, Head *head) except *:
        self.progress_ms = self.runtime.now_ms
        if head.status == 100 and not self.config.proxy_100_continue:
            return                               # the client had ours, or did not ask
        self.downstream.send_informational(self, head.status, bytes, head)
        if not self.response_paused and self.downstream.is_above():
            self.pause_response()

    cdef void on_response_head(self, const char *bytes, Head *head) except *:
        """The final head from upstream; `head.body` tells whether a body follows."""
        cdef StreamFilter first = self.first_filter
        cdef UpstreamStream upstream
        cdef uint32_t reasons
        self.response_start_us = self.runtime.now_us
        self.progress_ms = self.runtime.now_ms
        self.try_deadline_ms = 0
        self.span.try_status = head.status
        if self.retry_on:
            upstream = self.upstream
            reasons = status_reasons(self, head.status)
            if self.retry_on & RETRY_GRPC:
                reasons |= grpc_reasons(bytes, head) & self.retry_on
            if reasons and retry(self, reasons):
                self.upstream = None
                self.count_host_error()
                self.count_upstream_status(head.status)
                if self.config.tracer is not None:
                    end_try(self, not self.request_passed or (head.body != BODY_NONE and head.content_length != 0))
                upstream.reset()
                return
        if self.holds_retry_share:
            give_retry_share(self)
            if head.status < 500:
                self.cluster.cells[CLUSTER_UPSTREAM_RQ_RETRY_SUCCESS] += 1
        self.host.cells[HOST_RQ_ERROR if head.status >= 500 else HOST_RQ_SUCCESS] += 1
        self.count_upstream_status(head.status)
        self.response_started = True
        if not self.wants_upgrade:
            self.drop_body()
        self.tunnel = self.wants_upgrade and (head.status == 101 or (self.head.method == METHOD_CONNECT and 200 <= head.status < 300))
        if self.tunnel:
            self.config.cells[HTTP_DOWNSTREAM_CX_UPGRADES_TOTAL] += 1
            self.config.cells[HTTP_DOWNSTREAM_CX_UPGRADES_ACTIVE] += 1
            self.route_deadline_ms = 0
        if first is not None:
            self.last_filter.on_response_head(bytes, head, head.body == BODY_NONE)
        else:
            self.pass_response_head(bytes, head, head.body == BODY_NONE and not self.tunnel)
        if self.wants_upgrade:
            self.start_tunnel()

    cdef void pass_response_head(self, const char *bytes, Head *head, bint end) except *:
        self.status = head.status
        headers.send_response(self, bytes, head)
        self.downstream_start_us = self.runtime.now_us
        self.downstream.send_response(self, head.status, bytes, head, end)

    cdef void start_tunnel(self) except *:
        """Granted: what the client sent ahead goes on. Refused: it goes nowhere."""
        if self.tunnel and self.body_length:
            self.upstream.send_data(self.body, self.body_length)
            self.upstream.flush()
        self.drop_body()
        if self.tunnel and not self.upstream.is_above():
            self.resume_request()

    cdef void count_upstream_status(self, int status) noexcept:
        cdef int64_t *cells = self.cluster.cells
        cdef int cell = status_cell(status)
        cells[CLUSTER_UPSTREAM_RQ_COMPLETED] += 1
        if 100 <= status < 600:
            cells[CLUSTER_UPSTREAM_RQ_1XX + status // 100 - 1] += 1
        if cell >= 0:
            cells[CLUSTER_UPSTREAM_RQ_100 + cell] += 1

    cdef void on_response_data(self, const char *data, size_t length) except *:
        cdef StreamFilter first = self.first_filter
        self.progress_ms = self.runtime.now_ms
        if first is not None:
            self.last_filter.on_response_data(data, length)
        else:
            self.pass_response_data(data, length)

    cdef void pass_response_data(self, const char *data, size_t length) except *:
        self.bytes_sent += length
        self.downstream.send_data(self, data, length)
        if self.upstream is not None and not self.response_paused and self.downstream.is_above():
            self.pause_response()

    cdef void pause_response(self) except *:
        self.response_paused = True
        self.cluster.cells[CLUSTER_UPSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL] += 1
        self.upstream.pause_response()

    cdef void on_response_end(self, const char *trailers, size_t length) except *:
        """The last byte from upstream; the upstream stream has let go of us."""
        cdef StreamFilter first = self.first_filter
        self.upstream = None
        self.response_complete = True
        self.response_end_us = self.runtime.now_us
        histogram_record(&self.cluster.cells[CLUSTER_UPSTREAM_RQ_TIME], self.response_end_us - self.upstream_start_us)
        if self.route.virtual_host.block >= 0:
            self.count_virtual_host()
        if first is not None:
            self.last_filter.on_response_end(trailers, length)
        else:
            self.pass_response_end(trailers, length)

    cdef void pass_response_end(self, const char *trailers, size_t length) except *:
        self.trailers, self.trailers_length = trailers, length
        self.downstream.send_end(self, trailers, length)
        self.complete()

    cdef void count_virtual_host(self) noexcept:
        cdef int64_t *cells = self.virtual_host_cells()
        cells[VHOST_UPSTREAM_RQ_COMPLETED] += 1
        if 100 <= self.status < 600:
            cells[VHOST_UPSTREAM_RQ_1XX + self.status // 100 - 1] += 1
        histogram_record(&cells[VHOST_UPSTREAM_RQ_TIME], self.response_end_us - self.upstream_start_us)

    cdef void on_upstream_drained(self) except *:
        self.progress_ms = self.runtime.now_ms
        self.resume_request()

    # -- answers of our own, and the end

    cdef void end_with(self, int outcome) noexcept:
        self.outcome = outcome
        self.flags |= outcome_row(outcome).flag

    cdef void fail(self, int outcome) except *:
        """End by a row of the table: an answer when none has begun, else a cut."""
        cdef const OutcomeRow *row = outcome_row(outcome)
        cdef int status
        if self.phase == PHASE_DONE:
            return
        if outcome == UPSTREAM_TIMEOUT or outcome == PER_TRY_TIMEOUT:
            self.count_timeout(outcome)
        if self.response_started or row.status == 0:
            self.end_with(outcome)
            self.release_upstream()
            self.config.cells[HTTP_DOWNSTREAM_RQ_TX_RESET] += 1
            self.downstream.abort(self)
            self.complete()
            return
        if outcome == UPSTREAM_OVERFLOW or outcome == OVERLOADED:
            lines_raw(&self.response_lines, b"x-envoy-overloaded: true\r\n", 26)
        status = row.status
        if self.request_complete and (outcome == STREAM_IDLE or outcome == MAX_DURATION):
            status = 504                         # it is not the client who was slow
        self.answer(outcome, status, body_after_retries(outcome) if self.attempts > 1 else row.body, 0, b"text/plain")

    cdef void count_timeout(self, int outcome) noexcept:
        self.cluster.cells[CLUSTER_UPSTREAM_RQ_TIMEOUT if outcome == UPSTREAM_TIMEOUT else CLUSTER_UPSTREAM_RQ_PER_TRY_TIMEOUT] += 1
        if self.host is not None:
            self.host.cells[HOST_RQ_TIMEOUT] += 1
            self.host.cells[HOST_RQ_ERROR] += 1
        if self.route.virtual_host.block >= 0:
            self.virtual_host_cells()[VHOST_UPSTREAM_RQ_TIMEOUT] += 1

    cdef void answer(self, int outcome, int status, const char *body, size_t length, const char *content_type) except *:
        """Our own response. `length` 0 takes `body` up to its NUL; a HEAD gets the length alone."""
        cdef char number[24]
        cdef bint has_body
        self.end_with(outcome)
        self.release_upstream()
        self.drop_body()
        self.phase = PHASE_LOCAL
        if length == 0:
            length = len(body)
        if self.grpc:
            self.add_grpc_status(outcome, status, body, length)
            status = 200
            length = 0
        elif status < 200 or status == 204 or status == 304:
            length = 0
        elif length:
            lines_add(&self.response_lines, b"content-length", 14, number, headers.decimal(number, length))
            if content_type != NULL:
                lines_add(&self.response_lines, b"content-type", 12, content_type, len(content_type))
        if self.route is not None and self.target is not None:
            headers.edit_response(self, self.target.response_edits, NULL, NULL)
        headers.send_response(self, NULL, NULL)
        self.let_filters_answer()
        self.status = status
        self.response_started = True
        self.downstream_start_us = self.runtime.now_us
        has_body = length > 0 and self.head.method != METHOD_HEAD
        self.downstream.send_response(self, status, NULL, NULL, not has_body)
        if has_body:
            self.bytes_sent += length
            self.downstream.send_data(self, body, length)
            if outcome == BY_FILTER:
                self.downstream.flush()          # the filter's bytes go with its request
        self.response_complete = True
        self.downstream.send_end(self, NULL, 0)
        self.complete()

    cdef void add_grpc_status(self, int outcome, int status, const char *message, size_t length) except *:
        """For a head that is trailers too: the status of gRPC in it, whatever HTTP's would have been."""
        cdef char number[24]
        lines_add(&self.response_lines, b"content-type", 12, b"application/grpc", 16)
        lines_add(&self.response_lines, b"grpc-status", 11, number, headers.decimal(number, grpc_status_of(outcome, status)))
        if length:
            add_grpc_message(&self.response_lines, message, length)

    cdef void let_filters_answer(self) except *:
        cdef StreamFilter each = self.last_filter
        while each is not None:
            each.on_answer()
            each = each.downward

    cdef void release_upstream(self) except *:
        """Let go of whatever was asked for upstream."""
        cdef UpstreamStream upstream = self.upstream
        self.upstream = None
        if upstream is not None:
            self.cluster.cells[CLUSTER_UPSTREAM_RQ_TX_RESET] += 1
            self.span.canceled = True
            upstream.reset()
        elif self.phase == PHASE_ACQUIRE and self.pending is not None:
            self.span.canceled = True
            self.cluster.cells[CLUSTER_UPSTREAM_RQ_CANCELLED] += 1
            self.config.pools.cancel(self)
        elif self.phase == PHASE_FILTERS and self.filter_state is not None:
            self.config.filters.cancel(self)

    cdef void complete(self) except *:
        """Count, log, hand back. Nothing of this exchange happens after."""
        cdef DownstreamStream downstream = self.downstream       # `finish` clears ours
        cdef HttpConfig config = self.config
        cdef int64_t *cells = config.cells
        cdef StreamFilter each
        if self.phase == PHASE_DONE:
            return
        self.phase = PHASE_DONE
        self.runtime.set_timer(self, 0)
        if self.cluster is not None:
            give_retry_share(self)
        if self.tunnel:
            cells[HTTP_DOWNSTREAM_CX_UPGRADES_ACTIVE] -= 1
        cells[HTTP_DOWNSTREAM_RQ_ACTIVE] -= 1
        if self.status:
            cells[HTTP_DOWNSTREAM_RQ_COMPLETED] += 1
            if self.status < 600:
                cells[HTTP_DOWNSTREAM_RQ_1XX + self.status // 100 - 1] += 1
        if self.response_complete and not self.request_complete:
            cells[HTTP_DOWNSTREAM_RQ_RESPONSE_BEFORE_RQ_COMPLETE] += 1
        histogram_record(&cells[HTTP_DOWNSTREAM_RQ_TIME], self.runtime.now_us - self.start_us)
        try:
            each = self.first_filter
            while each is not None:
                each.on_complete()
                each = each.upward
            if config.tracer is not None:
                end_trace(self)
            if config.logs is not None:
                write_logs(self)
        finally:
            downstream.finish(self)

    # -- time

    cdef void arm(self) except *:
        """The timer stands at the earliest deadline, or earlier: it looks at all of them when it fires."""
        cdef int64_t at = 0
        if self.idle_ms:
            at = self.progress_ms + self.idle_ms
        at = earlier(at, self.route_deadline_ms)
        at = earlier(at, self.try_deadline_ms)
        at = earlier(at, self.request_deadline_ms)
        at = earlier(at, self.life_deadline_ms)
        at = earlier(at, self.backoff_deadline_ms)
        self.runtime.set_timer(self, at)

    cdef void on_timer(self, int64_t now_ms) except *:
        if self.phase == PHASE_DONE or self.phase == PHASE_FREE:
            return
        if is_due(self.backoff_deadline_ms, now_ms):
            self.backoff_deadline_ms = 0
            self.start_try()
        elif is_due(self.try_deadline_ms, now_ms):
            self.try_deadline_ms = 0
            self.on_try_timeout()
        elif is_due(self.route_deadline_ms, now_ms):
            self.fail(UPSTREAM_TIMEOUT)
        elif is_due(self.request_deadline_ms, now_ms):
            self.config.cells[HTTP_DOWNSTREAM_RQ_TIMEOUT] += 1
            self.fail(REQUEST_TIMEOUT)
        elif is_due(self.life_deadline_ms, now_ms):
            self.config.cells[HTTP_DOWNSTREAM_RQ_MAX_DURATION_REACHED] += 1
            self.fail(MAX_DURATION)
        elif self.idle_ms and now_ms >= self.progress_ms + self.idle_ms:
            self.config.cells[HTTP_DOWNSTREAM_RQ_IDLE_TIMEOUT] += 1
            self.fail(STREAM_IDLE)
        if self.phase != PHASE_DONE and self.phase != PHASE_FREE:
            self.arm()

    cdef void on_try_timeout(self) except *:
        cdef UpstreamStream upstream = self.upstream
        if self.response_started or upstream is None:
            return
        if self.config.tracer is not None:
            lose_try(self, PER_TRY_TIMEOUT)
        if retry(self, outcome_row(PER_TRY_TIMEOUT).retry_on):
            self.count_timeout(PER_TRY_TIMEOUT)
            if self.config.tracer is not None:
                end_try(self, True)
            self.upstream = None
            upstream.reset()
        else:
            self.fail(PER_TRY_TIMEOUT)

    cdef void on_crash(self) except *:
        """An exception of our own: the client sees a cut connection, the upstream is let go."""
        if self.phase != PHASE_DONE and self.phase != PHASE_FREE:
            self.release_upstream()
            self.downstream.abort(self)
            self.complete()

    cdef void clear(self) noexcept:
        """Ready for the next request: memory of a usual size is kept, everything else is let go."""
        cdef StreamFilter each, below
        self.drop_body()
        if self.bytes_capacity > KEPT_MEMORY_BYTES:
            free(self.bytes)
            self.bytes = NULL
            self.bytes_capacity = 0
        if self.path_memory != NULL:
            free(self.path_memory)
            self.path_memory = NULL
        clear_lines(&self.request_lines)
        clear_lines(&self.response_lines)
        clear_lines(&self.response_copy)
        self.phase = PHASE_FREE
        self.config = None
        self.downstream = None
        self.upstream = None
        self.route = None
        self.target = None
        self.cluster = None
        self.host = None
        self.upstream_info = None
        self.tried = None
        self.pending = None
        self.filter_state = None
        # A step may be what ends the exchange: the filters stay while their steps run, and refer to each other one way only afterwards.
        each = self.last_filter
        while each is not None:
            below = each.downward
            each.downward = None
            each = below
        self.first_filter = self.last_filter = None
        self.request_trailers = None
        self.failure_reason = self.details = None
        self.grpc_status = self.grpc_message = None
        self.grpc = self.request_complete = self.request_passed = self.request_paused = self.expects_continue = False
        self.response_started = self.response_complete = self.response_paused = self.tunnel = self.wants_upgrade = False
        self.holds_retry_share = self.stale_retry_used = self.needs_new_connection = self.request_sent = False
        self.span.begun = False
        self.head.length = 0
        self.client_ip_length = self.trailers_length = 0
        self.trailers = NULL
        self.status = self.outcome = self.attempts = self.retries_left = self.priority = 0
        self.flags = self.retry_on = 0
        self.request_end_us = self.upstream_start_us = self.response_start_us = self.response_end_us = self.downstream_start_us = 0
        self.route_deadline_ms = self.try_deadline_ms = self.request_deadline_ms = self.life_deadline_ms = self.backoff_deadline_ms = 0
        self.route_timeout_ms = self.try_timeout_ms = 0
        self.bytes_received = self.bytes_sent = 0


cdef bint may_keep(Exchange x, size_t length) noexcept:
    """Whether so much more of a body that went upstream stays here: for the policy's retries, or a short one for the one try more that a stale
    pooled connection or a refused stream may cost. Near the worker's total room is worth more."""
    if not x.body_kept or x.response_started or x.body_length + length > x.body_limit:
        return False
    if not x.retry_on and (x.body_length + length > SHORT_BODY_BYTES or not may_repeat(x)):
        return False
    return not x.runtime.is_nearly_full()


cdef void clear_lines(Lines *lines) noexcept:
    lines.length = 0
    if lines.capacity > KEPT_MEMORY_BYTES:
        free(lines.at)
        lines.at = NULL
        lines.capacity = 0


cdef inline int64_t earlier(int64_t a, int64_t b) noexcept:
    return b if a == 0 or (b and b < a) else a


cdef inline bint is_due(int64_t deadline_ms, int64_t now_ms) noexcept:
    return deadline_ms != 0 and now_ms >= deadline_ms
