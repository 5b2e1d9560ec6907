"""One request and its response, whatever protocol either side speaks.

    downstream codec -> Exchange -> filters -> router -> cluster -> pool -> upstream codec, and back

The two sides are abstract here; `workers` has their HTTP/1 forms. Header changes are an overlay: original fields marked as dropped, and
added lines. The exchange owns a copy of the request's head, since it has to live until the access log is written.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from meshproxy.balance.cluster cimport Cluster, Host
from meshproxy.codecs.http1 cimport Head, HeaderField
from meshproxy.proxy.client_cert cimport ClientCertRule
from meshproxy.proxy.connection cimport ConnectionInfo, UpstreamInfo
from meshproxy.proxy.lines cimport Lines
from meshproxy.proxy.request_match cimport RouteInput
from meshproxy.proxy.router cimport CompiledRoute, Edits, Router, Target
from meshproxy.proxy.runtime cimport Actor, Protocol, Runtime
from meshproxy.proxy.span cimport Span, Tracer
from meshproxy.scoreboard.region cimport Ring, SlotHead
from meshproxy.telemetry.accesslog cimport Format
from meshproxy.telemetry.facts cimport Facts

cdef enum Phase:
    PHASE_FREE = 0                       # in the pool of exchanges
    PHASE_FILTERS                        # request filters run, or wait
    PHASE_ACQUIRE                        # waiting for an upstream connection, or for the back-off of a retry
    PHASE_UPSTREAM                       # an upstream stream has the request
    PHASE_LOCAL                          # we answer
    PHASE_DONE

cdef class DownstreamStream(Protocol):
    """The client's side of an exchange."""
    cdef ConnectionInfo info
    cdef bint http2                      # the client speaks HTTP/2
    # `head`/`bytes` are the upstream's, with dropped fields marked, or NULL; exchange.response_lines are added. `end`: there is no body.
    cdef void send_response(self, Exchange exchange, int status, const char *bytes, Head *head, bint end) except *
    cdef void send_informational(self, Exchange exchange, int status, const char *bytes, Head *head) except *
    cdef void send_data(self, Exchange exchange, const char *data, size_t length) except *
    cdef void send_end(self, Exchange exchange, const char *trailers, size_t length) except *
    # Sends what was lent so far, so that the lender may free it.
    cdef void flush(self) except *
    cdef void pause_request(self) except *
    cdef void resume_request(self) except *
    cdef bint is_above(self) noexcept
    # The response cannot be finished: let the client see that.
    cdef void abort(self, Exchange exchange) except *
    # The exchange is over: the stream gives it back to its pool.
    cdef void finish(self, Exchange exchange) except *
    # A header's name has an underscore: it was dropped, or its request refused.
    cdef void count_underscores(self, bint rejected) noexcept
    cdef void describe(self, Facts *facts) noexcept

cdef class UpstreamStream(Protocol):
    """The endpoint's side of an exchange."""
    cdef Exchange exchange
    cdef Host host
    cdef UpstreamInfo info               # of its connection
    cdef void send_request(self, Exchange exchange) except *
    cdef void send_data(self, const char *data, size_t length) except *
    cdef void send_end(self, const char *trailers, size_t length) except *
    cdef void flush(self) except *
    cdef void pause_response(self) except *
    cdef void resume_response(self) except *
    cdef bint is_above(self) noexcept
    # Give the request up; no call comes back from here.
    cdef void reset(self) except *

cdef class Pools:
    """Who finds upstream connections. Answers by `on_upstream_ready` or `on_upstream_failed`, at once or later."""
    cdef Cluster find(self, str name)
    cdef void acquire(self, Exchange exchange) except *
    cdef void cancel(self, Exchange exchange) except *

cdef class FilterRunner:
    """Request filters that may wait."""
    # True: they are through, go on (or they answered). False: `on_filters_done` comes later.
    cdef bint run(self, Exchange exchange) except *
    cdef void cancel(self, Exchange exchange) except *

cdef class FilterMaker:
    """A compiled filter as it is configured."""
    # It decides who may pass, and has a part only in a request that may not. It is asked about tunnels too, which are no message to the
    # others.
    cdef bint decides
    # Its part in an exchange; None: it does not care about this request.
    cdef StreamFilter make(self, Exchange exchange)

cdef class StreamFilter:
    """A compiled filter's part in one exchange, both ways. It does not wait. What it does not keep goes to its neighbour, `upward` to the
    upstream or `downward` to the client; the base's steps just do that. Filters stand in the order of the configuration, the client first.
    """
    cdef Exchange exchange
    cdef StreamFilter upward, downward
    # Before routing: fields may be dropped and `request_lines` added, or the exchange answered.
    cdef void on_request_head(self) except *
    cdef void on_request_data(self, const char *data, size_t length) except *
    cdef void on_request_end(self, const char *trailers, size_t length) except *
    # Fields may be dropped and `response_lines` added.
    cdef void on_response_head(self, const char *bytes, Head *head, bint end) except *
    cdef void on_response_data(self, const char *data, size_t length) except *
    cdef void on_response_end(self, const char *trailers, size_t length) except *
    # An answer of our own goes out: `response_lines` may be edited.
    cdef void on_answer(self) except *
    # The exchange is over, however it ended; before it is logged.
    cdef void on_complete(self) except *

cdef class RouterSlot:
    """Where a connection manager finds its route table: one pointer, swapped when the table changes."""
    cdef readonly Router router

cdef class LogTarget:
    cdef Format format
    cdef uint32_t sink
    cdef int min_status

cdef class HttpConfig:
    """A compiled HttpConnectionManager."""
    cdef object __weakref__
    cdef readonly object model
    cdef RouterSlot routes
    cdef Pools pools
    cdef FilterRunner filters            # users' filters, which may wait and run first; None = none
    cdef list stream_filters             # of FilterMaker; None = none
    cdef list logs                       # of LogTarget
    cdef Ring *ring
    cdef SlotHead *slot_head
    cdef int64_t *cells                  # the HTTP block
    cdef ClientCertRule client_cert
    cdef Tracer tracer                   # None = requests are not traced
    cdef bint tells_tls                  # a log asks for what TLS handshakes told
    cdef bytes server_name, via, listener
    cdef bytes user_agent, service_node  # empty = not sent
    cdef int server_header               # 0 overwrite, 1 append if absent, 2 pass through
    cdef bint use_remote_address, skip_xff_append, generate_request_id, preserve_external_request_id, request_id_in_response
    cdef bint suppress_envoy_headers, proxy_100_continue, normalize_path, merge_slashes
    cdef int strip_port                  # 0 none, 1 matching, 2 any
    cdef int underscores                 # 0 allow, 1 reject, 2 drop
    cdef int xff_trusted_hops
    cdef int listener_port
    cdef uint32_t max_head_bytes, max_headers
    cdef bint accept_http_10
    cdef bytes default_host_for_http_10
    cdef bint allow_absolute_url
    cdef int64_t max_body_bytes, max_requests_per_connection
    cdef int64_t idle_timeout_ms, request_timeout_ms, request_headers_timeout_ms, stream_idle_timeout_ms
    cdef int64_t max_connection_duration_ms, max_stream_duration_ms, delayed_close_timeout_ms
    cdef int64_t buffer_limit
    cdef frozenset upgrades              # of bytes, lower case
    cdef bint draining                   # the listener goes: answers tell clients to close

cdef class Exchange(Actor):
    cdef Runtime runtime
    cdef HttpConfig config
    cdef DownstreamStream downstream
    cdef UpstreamStream upstream
    cdef CompiledRoute route
    cdef Target target
    cdef Cluster cluster
    cdef Host host
    cdef UpstreamInfo upstream_info      # of the last connection to an endpoint; None = there was none
    cdef list tried                      # hosts of earlier tries
    cdef object pending                  # the pool's own mark while we wait for a connection
    cdef object filter_state             # the filter runner's
    cdef StreamFilter first_filter       # nearest to the client; None = none
    cdef StreamFilter last_filter        # nearest to the upstream
    cdef readonly int phase

    # the request
    cdef char *bytes                     # its head, then its table of fields
    cdef size_t bytes_capacity
    cdef Head head
    cdef Lines request_lines
    cdef uint32_t base_lines             # length of request_lines before a try adds its own
    cdef const char *path
    cdef uint32_t path_length
    cdef char *path_memory               # of a path that is not a part of `bytes`
    cdef const char *authority
    cdef uint32_t authority_length
    cdef const char *client_ip           # as a trusted X-Forwarded-For has it, inside `bytes`
    cdef uint32_t client_ip_length
    cdef char request_id[40]             # of our own making
    cdef bint grpc                       # answers of our own are gRPC's
    cdef bint request_complete
    cdef bint request_passed             # its end has passed the filters
    cdef bint request_paused
    cdef bint expects_continue           # the client waits for 100 before it sends the body
    cdef char *body                      # what waits for an upstream, and what is kept for a retry
    cdef size_t body_length, body_capacity, body_limit
    cdef bint body_kept                  # all of the body so far is in `body`
    cdef bytes request_trailers

    # the response
    cdef Lines response_lines
    cdef Lines response_copy             # the head as sent, when a log may ask for it
    cdef const char *trailers            # the response's, lent for the length of its end
    cdef uint32_t trailers_length
    cdef bint response_started, response_complete
    cdef bint response_paused
    cdef bint tunnel                     # both sides are raw bytes now
    cdef bint wants_upgrade
    cdef readonly int status
    cdef int outcome
    cdef uint64_t flags
    cdef bytes failure_reason            # of the transport, for the log
    cdef bytes details                   # the log's words where an answer has words of its own; None = the outcome's

    # tries
    cdef int attempts, retries_left
    cdef uint32_t retry_on
    cdef bint holds_retry_share
    cdef bint stale_retry_used
    cdef bint needs_new_connection       # the present try: where one pooled connection was stale, the others may be
    cdef bint request_sent               # the present try has the request's head
    cdef int priority

    # time
    cdef int64_t start_us, request_end_us, upstream_start_us, response_start_us, response_end_us, downstream_start_us
    cdef int64_t progress_ms
    cdef int64_t idle_ms
    cdef int64_t route_deadline_ms, try_deadline_ms, request_deadline_ms, life_deadline_ms, backoff_deadline_ms
    cdef int64_t route_timeout_ms, try_timeout_ms

    cdef int64_t bytes_received, bytes_sent
    cdef int64_t connection_id
    cdef Span span                       # of meaning where the configuration has a tracer
    cdef bytes grpc_status, grpc_message         # of a head that is trailers too, where a span will tell them

    # from the downstream codec
    cdef void load(self, const char *bytes, const Head *head, int64_t start_us) except *
    cdef void begin(self) except *
    cdef void load_nothing(self, int64_t start_us) noexcept
    cdef void begin_refused(self) except *
    cdef void on_request_data(self, const char *data, size_t length) except *
    cdef void on_request_end(self, const char *trailers, size_t length) except *
    # From the last filter, toward the upstream.
    cdef void pass_request_data(self, const char *data, size_t length) except *
    cdef void pass_request_end(self, const char *trailers, size_t length) except *
    cdef void on_downstream_drained(self) except *
    cdef void on_downstream_gone(self) except *
    cdef void fail(self, int outcome) except *

    # from filters
    cdef void on_filters_done(self) except *
    cdef void answer(self, int outcome, int status, const char *body, size_t length, const char *content_type) except *

    # from the pool and the upstream codec
    cdef void on_upstream_ready(self, UpstreamStream stream) except *
    cdef void on_upstream_failed(self, int outcome, bytes reason) except *
    cdef void on_upstream_drained(self) except *
    cdef void on_informational(self, const char *bytes, Head *head) except *
    cdef void on_response_head(self, const char *bytes, Head *head) except *
    cdef void on_response_data(self, const char *data, size_t length) except *
    cdef void on_response_end(self, const char *trailers, size_t length) except *
    cdef void on_upstream_reset(self, int outcome, bytes reason) except *
    # From the first filter, toward the client.
    cdef void pass_response_head(self, const char *bytes, Head *head, bint end) except *
    cdef void pass_response_data(self, const char *data, size_t length) except *
    cdef void pass_response_end(self, const char *trailers, size_t length) except *

    cdef void clear(self) noexcept

    cdef bint begin_stream_filters(self) except *
    cdef void take_grpc_timeout(self) except *
    cdef void add_grpc_status(self, int outcome, int status, const char *message, size_t length) except *
    cdef void let_filters_answer(self) except *
    cdef bint is_h2c(self) noexcept
    cdef bint refuses_underscores(self) except *
    cdef void keep_body(self, const char *data, size_t length) except *
    cdef void drop_body(self) noexcept
    cdef void pause_request(self) except *
    cdef void resume_request(self) except *
    cdef void redirect(self, const RouteInput *request) except *
    cdef void redirect_to_https(self) except *
    cdef void forward(self) except *
    cdef int64_t *virtual_host_cells(self) noexcept
    cdef bint may_upgrade(self) except *
    cdef void take_timeout_headers(self) except *
    cdef int64_t take_number(self, int id) noexcept
    cdef void start_try(self) except *
    cdef void start_try_timeout(self) except *
    cdef void on_upstream_lost(self, int outcome) except *
    cdef void count_host_error(self) noexcept
    cdef void count_upstream_status(self, int status) noexcept
    cdef void start_tunnel(self) except *
    cdef void pause_response(self) except *
    cdef void count_virtual_host(self) noexcept
    cdef void end_with(self, int outcome) noexcept
    cdef void count_timeout(self, int outcome) noexcept
    cdef void release_upstream(self) except *
    cdef void complete(self) except *
    cdef void arm(self) except *
    cdef void on_try_timeout(self) except *
