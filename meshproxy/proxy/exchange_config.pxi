# A compiled connection manager, and what of it may be swapped under its requests.

cdef class RouterSlot:
    def __init__(self, Router router):
        self.router = router

    def swap(self, Router router):
        """Requests that begin from now on take `router`; those under way keep the route that they have."""
        self.router = router


cdef class LogTarget:
    def __init__(self, Format format, int sink, int min_status):
        self.format = format
        self.sink = sink
        self.min_status = min_status


cdef class HttpConfig:
    def __init__(self, model, str listener, int listener_port, int64_t buffer_limit, RouterSlot routes, Pools pools, FilterRunner filters,
                 list stream_filters, list logs, Tracer tracer,
                 Region region, int slot, int64_t cell):
        self.model = model
        self.listener = listener.encode()
        self.listener_port = listener_port
        self.routes = routes
        self.pools = pools
        self.filters = filters
        self.stream_filters = stream_filters or None
        self.logs = logs or None
        self.tracer = tracer
        self.ring = region.ring(slot)
        self.slot_head = region.head(slot)
        self.cells = region.page(slot) + cell
        self.client_cert = ClientCertRule(model.client_cert_header)
        self.tells_tls = any([(<LogTarget>log).format.tells_tls for log in logs])
        self.server_name = model.server_name.encode()
        self.via = model.via.encode()
        self.server_header = ("overwrite", "append_if_absent", "pass_through").index(model.server_header)
        self.use_remote_address = model.use_remote_address
        self.skip_xff_append = model.skip_xff_append
        self.xff_trusted_hops = model.xff_trusted_hops
        self.generate_request_id = model.generate_request_id
        self.preserve_external_request_id = model.preserve_external_request_id
        self.request_id_in_response = model.always_set_request_id_in_response
        self.suppress_envoy_headers = model.suppress_envoy_headers
        self.proxy_100_continue = model.proxy_100_continue
        self.normalize_path = model.normalize_path
        self.merge_slashes = model.merge_slashes
        self.user_agent = model.user_agent.encode()
        self.service_node = model.service_node.encode()
        self.strip_port = ("none", "matching", "any").index(model.strip_port)
        self.underscores = ("allow", "reject", "drop").index(model.underscores_in_headers)
        self.max_head_bytes = model.max_head_bytes
        self.max_headers = model.max_headers
        self.accept_http_10 = model.accept_http_10
        self.default_host_for_http_10 = model.default_host_for_http_10.encode()
        self.allow_absolute_url = model.allow_absolute_url
        self.max_body_bytes = model.max_body_bytes
        self.max_requests_per_connection = model.max_requests_per_connection
        self.buffer_limit = buffer_limit
        self.upgrades = frozenset(kind.lower().encode() for kind in model.upgrades)
        self.idle_timeout_ms = milliseconds(model.idle_timeout_s)
        self.request_timeout_ms = milliseconds(model.request_timeout_s)
        self.request_headers_timeout_ms = milliseconds(model.request_headers_timeout_s)
        self.stream_idle_timeout_ms = milliseconds(model.stream_idle_timeout_s)
        self.max_connection_duration_ms = milliseconds(model.max_connection_duration_s)
        self.max_stream_duration_ms = milliseconds(model.max_stream_duration_s)
        self.delayed_close_timeout_ms = milliseconds(model.delayed_close_timeout_s)


def milliseconds(double seconds):
    """At least 1 for what is not 0: a timeout that is set is never off."""
    return max(int(seconds * 1000), 1) if seconds > 0 else 0
