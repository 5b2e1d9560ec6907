"""Route tables, compiled.

What a table says is turned into arrays once, when it changes; a request then costs one look-up of its host, one search for its path
(`route_list`), and the conditions of the few routes that come into question. Order and precedence are Envoy's, and compared with Envoy's.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from meshproxy import model
from meshproxy.errors import ConfigError

from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy

from meshproxy.codecs.http1 cimport header_id
from meshproxy.proxy.host_table cimport length_without_port
from meshproxy.proxy.request_match cimport Offer
from meshproxy.proxy.route_list cimport PathView, bare_length, view_of
from meshproxy.proxy.sample_request cimport SampleRequest
from meshproxy.proxy.text_match cimport PatternSource

RETRY_BITS = {
    "5xx": RETRY_5XX, "gateway-error": RETRY_GATEWAY_ERROR, "reset": RETRY_RESET, "reset-before-request": RETRY_RESET_BEFORE_REQUEST,
    "connect-failure": RETRY_CONNECT_FAILURE, "retriable-4xx": RETRY_RETRIABLE_4XX, "retriable-status-codes": RETRY_STATUS_CODES,
    "refused-stream": RETRY_REFUSED_STREAM, "cancelled": RETRY_CANCELLED, "deadline-exceeded": RETRY_DEADLINE_EXCEEDED,
    "internal": RETRY_INTERNAL, "resource-exhausted": RETRY_RESOURCE_EXHAUSTED, "unavailable": RETRY_UNAVAILABLE,
}
MUTATIONS = {
    "append": MUTATE_APPEND, "add_if_absent": MUTATE_ADD_IF_ABSENT, "overwrite": MUTATE_OVERWRITE,
    "overwrite_if_exists": MUTATE_OVERWRITE_IF_EXISTS,
}
REQUIRE_TLS = {"none": 0, "external": 1, "all": 2}
# What would end a header line or a request line early.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")      # RFC 9110 5.6.2

# How many routes are compiled between two looks at the clock: some 100 us.
cdef enum:
    ROUTES_A_LOOK = 16


cdef int64_t milliseconds(double seconds) noexcept:
    """At least 1 for what is not 0, since 0 means none."""
    return <int64_t>(seconds * 1000 + 0.5) or (1 if seconds > 0 else 0)


cdef class Edits:
    def __cinit__(self) -> None:
        self.keep = []

    def __dealloc__(self) -> None:
        free(self.removes)
        free(self.adds)

    @property
    def removed(self) -> list[bytes]:
        return [self.removes[i].name[:self.removes[i].name_length] for i in range(self.remove_count)]

    @property
    def added(self) -> list[tuple[bytes, bytes, str]]:
        words = {number: word for word, number in MUTATIONS.items()}
        return [
            (self.adds[i].name[:self.adds[i].name_length], self.adds[i].value[:self.adds[i].value_length], words[self.adds[i].how])
            for i in range(self.add_count)
        ]


cdef Edits edits_of(list removes, list adds):
    """`removes` are names, `adds` are (name, value, how)."""
    cdef Edits edits = Edits.__new__(Edits)
    edits.removes = <HeaderEdit *>calloc(len(removes) + 1, sizeof(HeaderEdit))
    edits.adds = <HeaderEdit *>calloc(len(adds) + 1, sizeof(HeaderEdit))
    if edits.removes == NULL or edits.adds == NULL:
        raise MemoryError("no room for header mutations")
    for name in removes:
        fill_edit(edits, &edits.removes[edits.remove_count], name.encode(), b"", MUTATE_APPEND)
        edits.remove_count += 1
    for name, value, how in adds:
        fill_edit(edits, &edits.adds[edits.add_count], name.encode(), value.encode(), how)
        edits.add_count += 1
    return edits


cdef int fill_edit(Edits edits, HeaderEdit *edit, bytes name, bytes value, int how) except -1:
    edits.keep.append(name)
    edits.keep.append(value)
    edit.name, edit.name_length = <const char *>name, <uint32_t>len(name)
    edit.value, edit.value_length = <const char *>value, <uint32_t>len(value)
    edit.id = header_id(edit.name, edit.name_length)
    edit.how = how
    return 0


cdef class Target:
    pass


cdef class CompiledVirtualHost:
    pass


cdef class CompiledRoute:
    cdef Target pick(self, uint64_t random):
        cdef Target target
        cdef uint64_t at
        if len(self.targets) == 1:
            return <Target>self.targets[0]
        at = random % self.total_weight
        for target in self.targets:
            if at < target.weight:
                return target
            at -= target.weight
        return target

    cdef int64_t rewrite_path(self, const RouteInput *request, char *out, size_t capacity) except? -2:
        return self.write_path(request, out, capacity)

    cdef int64_t write_path(self, const RouteInput *request, char *out, size_t capacity) except? -2:
        """The query stays, whatever becomes of the path. A path that a pattern has emptied is "/" on the wire (RFC 9112 3.2.1)."""
        cdef uint32_t replaced = 0
        cdef bytes fresh = b""
        cdef size_t length
        if self.regex_rewrite is not None:
            replaced = bare_length(request.path, request.path_length)
            fresh = self.regex_rewrite.apply(request.path[:replaced]) or b"/"
        elif self.prefix_rewrite:
            replaced = bare_length(request.path, request.path_length)
            if not self.matches_whole_path:
                replaced = min(replaced, self.matched_length)
            fresh = self.prefix_rewrite
        length = len(fresh) + request.path_length - replaced
        if length > capacity:
            return -1
        memcpy(out, <const char *>fresh, len(fresh))
        memcpy(out + len(fresh), request.path + replaced, request.path_length - replaced)
        return length

    cdef int64_t write_host(self, const RouteInput *request, bytes scheme, char *out, size_t capacity) noexcept:
        """The request's own host. Its port goes when another is given, or when it was the default of a scheme that is left (Envoy)."""
        cdef uint32_t length = request.authority_length
        cdef uint32_t host_length = length_without_port(request.authority, length)
        cdef bytes port = request.authority[host_length:length]
        cdef bytes own = b"https" if request.tls else b"http"
        if self.port or (scheme != own and port == (b":443" if request.tls else b":80")):
            length = host_length
        if length > capacity:
            return -1
        memcpy(out, request.authority, length)
        return length

    cdef int64_t location(self, const RouteInput *request, char *out, size_t capacity) except? -2:
        cdef bytes scheme = self.scheme or (b"https" if request.tls else b"http")
        cdef bytes start = scheme + b"://" + self.host
        cdef size_t at = len(start), path_at
        cdef int64_t more
        cdef const char *query
        if at + len(self.port) > capacity:
            return -1
        memcpy(out, <const char *>start, at)
        if not self.host:
            more = self.write_host(request, scheme, out + at, capacity - at)
            if more < 0:
                return -1
            at += more
        if at + len(self.port) + len(self.path) + request.path_length > capacity:
            return -1
        memcpy(out + at, <const char *>self.port, len(self.port))
        path_at = at = at + len(self.port)
        if self.path:
            more = self.write_redirect_path(request, out + at)
        else:
            more = self.write_path(request, out + at, capacity - at)
            if more < 0:
                return -1
        at += more
        if self.strip_query and not self.path_has_query:
            query = <const char *>memchr(out + path_at, b'?', at - path_at)
            if query != NULL:
                at = query - out
        return -1 if has_control(out, at) else <int64_t>at

    cdef int64_t write_redirect_path(self, const RouteInput *request, char *out) noexcept:
        """A path that was set keeps the request's query, unless it brings one of its own (Envoy)."""
        cdef size_t length = len(self.path)
        cdef const char *query = <const char *>memchr(request.path, b'?', request.path_length)
        memcpy(out, <const char *>self.path, length)
        if query == NULL or self.path_has_query:
            return length
        memcpy(out + length, query, request.path + request.path_length - query)
        return length + (request.path + request.path_length - query)

    def rewritten(self, str path) -> bytes:
        """The path and query that go upstream."""
        cdef bytes raw = path.encode()
        cdef RouteInput request
        request.path, request.path_length = <const char *>raw, <uint32_t>len(raw)
        out = bytearray(len(raw) + 65536)
        length = self.rewrite_path(&request, <char *>out, len(out))
        return bytes(out[:length])

    def location_for(self, str authority, str path, bint tls=False) -> bytes | None:
        """A redirect's Location; None when it cannot be one."""
        cdef bytes raw = path.encode()
        cdef bytes host = authority.encode()
        cdef RouteInput request
        request.path, request.path_length = <const char *>raw, <uint32_t>len(raw)
        request.authority, request.authority_length = <const char *>host, <uint32_t>len(host)
        request.tls = tls
        out = bytearray(len(raw) + len(host) + 65536)
        length = self.location(&request, <char *>out, len(out))
        return None if length < 0 else bytes(out[:length])

    def target_for(self, random: int) -> Target:
        """The weighted cluster for that draw."""
        return self.pick(random)


cdef bint has_control(const char *text, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(length):
        if <unsigned char>text[i] < 0x20 or text[i] == 0x7f:
            return True
    return False


cdef class Router:
    cdef CompiledRoute find(self, const RouteInput *request, const char *added=NULL, uint32_t added_length=0):
        cdef uint32_t host_length = request.authority_length
        cdef PathView view
        cdef Offer offer
        cdef int virtual_host, number
        if self.ignore_port_in_host:
            host_length = length_without_port(request.authority, host_length)
        virtual_host = self.hosts.find(request.authority, host_length)
        if virtual_host < 0:
            return None
        view = view_of(request.path, request.path_length)
        offer.request = request
        offer.added, offer.added_length = added, added_length
        offer.query, offer.query_length = NULL, 0
        if view.length < request.path_length and request.path[view.length] == b'?':
            offer.query, offer.query_length = request.path + view.length + 1, request.path_length - view.length - 1
        number = (<RouteList>self.route_lists[virtual_host]).first(&view, &offer)
        return <CompiledRoute>(<list>self.routes[virtual_host])[number] if number >= 0 else None

    def route_of(
        self, str method, str authority, str path, headers: Iterable[tuple[str, str]] = (), bint tls=False,
    ) -> CompiledRoute | None:
        """The route of a request made up for the purpose. Raises ValueError when it is no valid HTTP/1.1 request."""
        cdef SampleRequest request = SampleRequest(method, authority, path, headers, tls)
        return self.find(&request.input)

    def pieces(self) -> list:
        """All that takes long to free, for who lets go of it a few at a time."""
        cdef RouteList routes
        cdef list found = []
        for listed in self.routes:
            found += listed
        for routes in self.route_lists:
            found += routes.values
        return found

    def repeat_find(self, str method, str authority, str path, headers: Iterable[tuple[str, str]], int times) -> int:
        """For measuring: find the same route so often; how often there was one."""
        cdef SampleRequest request = SampleRequest(method, authority, path, headers, False)
        cdef int i, found = 0
        for i in range(times):
            found += self.find(&request.input) is not None
        return found


cdef class Compiler:
    """Makes a Router, a route at a time. What is wrong is collected and raised at the end."""

    cdef object table
    cdef Router router
    cdef PatternSource source
    cdef dict edits                      # (id of each level's mutations, direction) -> Edits or None

    def __init__(self, table: model.RouteTable) -> None:
        router = Router.__new__(Router)
        self.table, self.router, self.source, self.edits = table, router, PatternSource(), {}
        self.router.name = table.name
        self.router.ignore_port_in_host = table.ignore_port_in_host
        self.router.internal_only_headers = tuple(name.lower().encode() for name in table.internal_only_headers)
        self.router.virtual_hosts, self.router.route_lists, self.router.routes = [], [], []
        self.router.conditions = Conditions()
        self.router.hosts = HostTable()
        self.router.hosts.open(sum(len(host.domains) for host in table.virtual_hosts))

    cdef CompiledVirtualHost open_host(self, object host):
        cdef CompiledVirtualHost compiled = CompiledVirtualHost.__new__(CompiledVirtualHost)
        cdef RouteList routes = RouteList()
        compiled.name = host.name
        compiled.name_bytes = host.name.encode()
        compiled.stats = host.stats
        compiled.block = -1
        compiled.attempt_count_request = host.include_request_attempt_count
        compiled.attempt_count_response = host.include_attempt_count_in_response
        compiled.buffer_limit = -1 if host.per_request_buffer_limit_bytes is None else host.per_request_buffer_limit_bytes
        compiled.require_tls = REQUIRE_TLS[host.require_tls]
        place = f"route table {self.table.name!r}, virtual host {host.name!r}"
        for domain in host.domains:
            self.router.hosts.add(domain, len(self.router.virtual_hosts), self.source, place)
        routes.open(len(host.routes), self.router.conditions)
        self.router.virtual_hosts.append(compiled)
        self.router.route_lists.append(routes)
        self.router.routes.append([])
        return compiled

    cdef int add_route(self, object host, CompiledVirtualHost compiled_host, object route) except -1:
        cdef RouteList routes = self.router.route_lists[-1 + len(self.router.route_lists)]
        cdef CompiledRoute compiled = CompiledRoute.__new__(CompiledRoute)
        cdef str place = f"route table {self.table.name!r}, virtual host {host.name!r}, route {routes.count}"
        if route.name:
            place = f"{place} ({route.name})"
        compiled.virtual_host = compiled_host
        compiled.model = route
        compiled.name = route.name.encode()
        compiled.trace = RouteTrace(route) if route.decorator is not None or route.tracing is not None else None
        compiled.matches_whole_path = route.path.kind in ("exact", "regex", "connect")
        compiled.matched_length = <uint32_t>len(route.path.value.encode())
        if route.path.kind == "segment_prefix" and route.path.value.endswith("/"):
            compiled.matched_length -= 1
        compiled.body = compiled.content_type = b""
        compiled.prefix_rewrite = compiled.scheme = compiled.host = compiled.port = compiled.path = b""
        compiled.targets = []
        compiled.idle_timeout_ms = compiled.max_duration_ms = compiled.grpc_timeout_max_ms = -1
        compiled.retriable_status_codes = frozenset()
        if isinstance(route.action, model.ForwardAction):
            self.add_forward(compiled, host, route, place)
        else:
            compiled.response_edits = self.edits_for(False, model.route.NO_MUTATIONS, route, host, place)
            compiled.status = route.action.status
            if isinstance(route.action, model.Redirect):
                self.add_redirect(compiled, route.action, place)
            else:
                compiled.action = ACTION_DIRECT
                compiled.body = route.action.body
                compiled.content_type = self.clean(route.action.content_type, "content type", place)
        routes.add(route, self.source, place)
        (<list>self.router.routes[-1 + len(self.router.routes)]).append(compiled)
        return 0

    cdef int add_forward(self, CompiledRoute compiled, object host, object route, str place) except -1:
        action = route.action
        compiled.action = ACTION_FORWARD
        for weighted in action.clusters:
            compiled.targets.append(self.target(weighted, host, route, place))
            compiled.total_weight += weighted.weight
        if not compiled.total_weight:
            self.source.refuse("forwards to no cluster: name one with a weight of 1 or more", place)
        compiled.auto_host_rewrite = action.auto_host_rewrite
        compiled.append_forwarded_host = action.append_x_forwarded_host
        compiled.high_priority = action.high_priority
        compiled.timeout_ms = milliseconds(action.timeout_s)
        if action.idle_timeout_s is not None:
            compiled.idle_timeout_ms = milliseconds(action.idle_timeout_s)
        if action.max_stream_duration_s is not None:
            compiled.max_duration_ms = milliseconds(action.max_stream_duration_s)
        if action.grpc_timeout_max_s is not None:
            compiled.grpc_timeout_max_ms = milliseconds(action.grpc_timeout_max_s)
            compiled.grpc_timeout_offset_ms = milliseconds(action.grpc_timeout_offset_s)
        compiled.cluster_not_found_status = action.cluster_not_found_status
        compiled.upgrades = {name.lower().encode(): enabled for name, enabled in action.upgrades} or None
        self.add_rewrite(compiled, action, place)
        compiled.rewrites_path = compiled.regex_rewrite is not None or bool(compiled.prefix_rewrite)
        retry = action.retry or host.retry
        if retry is not None:
            self.add_retry(compiled, retry)
        return 0

    cdef Target target(self, object weighted, object host, object route, str place):
        cdef Target target = Target.__new__(Target)
        target.cluster = weighted.name
        target.weight = weighted.weight
        # Envoy sets the target's host first and the route's after it.
        target.host_rewrite = self.clean(route.action.host_rewrite or weighted.host_rewrite, "host rewrite", place)
        target.request_edits = self.edits_for(True, weighted.mutations, route, host, place)
        target.response_edits = self.edits_for(False, weighted.mutations, route, host, place)
        return target

    cdef int add_rewrite(self, CompiledRoute compiled, object action, str place) except -1:
        compiled.prefix_rewrite = self.clean(action.prefix_rewrite, "prefix rewrite", place)
        compiled.regex_rewrite = self.source.substitution(action.regex_rewrite, place)
        if compiled.regex_rewrite is not None:
            self.clean(action.regex_rewrite[1], "substitution", place)
        return 0

    cdef int add_retry(self, CompiledRoute compiled, object retry) except -1:
        for word in retry.on:
            compiled.retry_on |= RETRY_BITS[word]
        compiled.num_retries = retry.num_retries
        compiled.per_try_timeout_ms = milliseconds(retry.per_try_timeout_s)
        compiled.backoff_base_ms = milliseconds(retry.backoff_base_s)
        compiled.backoff_max_ms = milliseconds(retry.backoff_max_s)
        compiled.avoid_previous_hosts = retry.avoid_previous_hosts
        compiled.host_selection_attempts = retry.host_selection_attempts
        compiled.retriable_status_codes = frozenset(retry.retriable_status_codes)
        return 0

    cdef int add_redirect(self, CompiledRoute compiled, object action, str place) except -1:
        compiled.action = ACTION_REDIRECT
        compiled.scheme = self.clean(action.scheme, "scheme", place) or (b"https" if action.https else b"")
        compiled.host = self.clean(action.host, "host", place)
        compiled.port = b":%d" % action.port if action.port else b""
        compiled.path = self.clean(action.path, "path", place)
        compiled.path_has_query = b"?" in compiled.path
        compiled.strip_query = action.strip_query
        self.add_rewrite(compiled, action, place)
        return 0

    cdef bytes clean(self, str text, str what, str place):
        """`text` for the wire."""
        found = CONTROL.search(text) if text else None
        if found is not None:
            why = f"has the control character {found.group()!r}, which may not stand in a head: remove it"
            self.source.refuse(f"{what} {text!r}: {why}", place)
        return text.encode()

    cdef Edits edits_for(self, bint request, object weighted, object route, object host, str place):
        """The mutations of all levels, flattened; None when there is nothing to do."""
        cdef list levels = [route.mutations, host.mutations, self.table.mutations]
        cdef tuple key
        if self.table.most_specific_mutations_win:
            levels.reverse()
        levels.insert(0, weighted)       # in either order, as in Envoy
        key = (request, *map(id, levels))
        if key not in self.edits:
            self.edits[key] = self.flatten(levels, "request" if request else "response", place)
        return self.edits[key]

    cdef Edits flatten(self, list levels, str side, str place):
        """Within a level: removals, then what overwrites, then what is added. A removal takes what earlier levels add with it."""
        cdef dict removes = {}
        cdef list adds = []
        for level in levels:
            gone = {name.lower(): name for name in getattr(level, f"{side}_remove")}
            adds = [edit for edit in adds if edit[0].lower() not in gone]
            removes.update(gone)
            values = [value for value in getattr(level, f"{side}_add") if value.value or value.keep_empty]
            for value in sorted(values, key=lambda value: not value.append.startswith("overwrite")):
                self.check_header(value, place)
                adds.append((value.name, value.value, MUTATIONS[value.append]))
        return edits_of(list(removes.values()), adds) if removes or adds else None

    cdef int check_header(self, object value, str place) except -1:
        if not TOKEN.fullmatch(value.name):
            self.source.refuse(f"header {value.name!r}: not a header name (RFC 9110 5.1)", place)
        self.clean(value.value, f"value of header {value.name!r}", place)
        return 0

    cdef Router finish(self):
        if self.source.problems:
            raise ConfigError(self.source.problems)
        self.router.hosts.seen = None
        return self.router


def compile_slices(table: model.RouteTable, budget_ns: int, clock_ns: Callable[[], int]) -> Iterator[Router | None]:
    """Compile with a pause (a yield of None) whenever `budget_ns` is used up; the last value is the Router.

    Raises ConfigError with all that is wrong: at the end, and only for tables that no configuration check has seen.
    """
    cdef Compiler compiler = Compiler(table)
    cdef CompiledVirtualHost compiled
    cdef int done = 0
    started = clock_ns()
    for host in table.virtual_hosts:
        compiled = compiler.open_host(host)
        for route in host.routes:
            compiler.add_route(host, compiled, route)
            done += 1
            if done % ROUTES_A_LOOK == 0 and clock_ns() - started >= budget_ns:
                yield None
                started = clock_ns()
    yield compiler.finish()


def compile_router(table: model.RouteTable) -> Router:
    """Compile at once. Raises ConfigError with all that is wrong."""
    for router in compile_slices(table, 0, int):
        pass
    return router
