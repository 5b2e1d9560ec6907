"""Which request goes where, and what is changed on the way. Order and precedence are Envoy's."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from meshproxy.model.discovery import ConsulServer, hidden
from meshproxy.model.tracing import Decorator, RouteTracing


class StringMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a string is compared. `regex` is RE2 syntax and must match the whole string."""

    kind: Literal["exact", "prefix", "suffix", "contains", "regex"]
    value: str
    ignore_case: bool = False


class HeaderMatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One condition on a header. Of several fields of one name each is compared for itself, and one that matches is enough; the names that
    Envoy keeps as one field (`accept`, `referer`, `x-forwarded-for`, ...) are joined by "," first (Envoy since 1.39).

    Exactly one of `string`, `range` ([start, end) of a decimal integer) and `present` is set.
    """

    name: str
    """Lower case; `:method`, `:path`, `:authority`, `:scheme` are taken too."""
    string: StringMatch | None = None
    range: tuple[int, int] | None = None
    present: bool | None = None
    invert: bool = False
    treat_missing_as_empty: bool = False


class QueryMatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One condition on a query parameter; without `string` its presence is enough."""

    name: str
    string: StringMatch | None = None


class PathMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the path is compared, always without its query: `prefix`, `segment_prefix` (whole segments), `exact`, `regex` (RE2, all of it).

    A regex knows its own case (`(?i)`): `case_sensitive` does not count for it, as in Envoy. `connect` is for CONNECT requests, which have
    no path: `value` is empty.
    """

    kind: Literal["prefix", "segment_prefix", "exact", "regex", "connect"]
    value: str
    case_sensitive: bool = True


class HeaderValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A header to add. `append` is Envoy's `append_action`."""

    name: str
    value: str
    append: Literal["append", "add_if_absent", "overwrite", "overwrite_if_exists"] = "append"
    keep_empty: bool = False


class HeaderMutations(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Removed first, then added, as in Envoy: at route, then virtual host, then route table."""

    request_add: tuple[HeaderValue, ...] = ()
    request_remove: tuple[str, ...] = ()
    response_add: tuple[HeaderValue, ...] = ()
    response_remove: tuple[str, ...] = ()


NO_MUTATIONS = HeaderMutations()


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a request is tried again. The words of `on` are Envoy's `retry_on` and `retry_grpc_on`."""

    on: tuple[
        Literal[
            "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream", "retriable-4xx",
            "retriable-status-codes", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
        ], ...,
    ]
    num_retries: int = 1
    per_try_timeout_s: float = 0.0
    """0 = the route's timeout."""
    retriable_status_codes: tuple[int, ...] = ()
    backoff_base_s: float = 0.025
    backoff_max_s: float = 0.250
    avoid_previous_hosts: bool = False
    host_selection_attempts: int = 1


class WeightedCluster(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One share of a route's traffic. Its mutations come before the route's own."""

    name: str
    weight: int = 1
    mutations: HeaderMutations = NO_MUTATIONS
    host_rewrite: str = ""


class ForwardAction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="forward"):
    """Send the request to a cluster: to one of `clusters` by weight."""

    clusters: tuple[WeightedCluster, ...]
    prefix_rewrite: str = ""
    regex_rewrite: tuple[str, str] | None = None
    """RE2 pattern and substitution (`\\1`), on the path without the query."""
    host_rewrite: str = ""
    auto_host_rewrite: bool = False
    append_x_forwarded_host: bool = False
    timeout_s: float = 15.0
    """From the end of the request to the end of the response; 0 = none."""
    idle_timeout_s: float | None = None
    """Overrides the connection manager's `stream_idle_timeout_s`."""
    retry: RetryPolicy | None = None
    max_stream_duration_s: float | None = None
    """Overrides the connection manager's; 0 = none."""
    grpc_timeout_max_s: float | None = None
    """A gRPC request's `grpc-timeout`, at most this (0 = as it stands), is the stream's longest duration; None = not looked at."""
    grpc_timeout_offset_s: float = 0.0
    """Taken off a `grpc-timeout`, so that the deadline is told before the client has given up."""
    cluster_not_found_status: Literal[503, 404, 500] = 503
    high_priority: bool = False
    upgrades: tuple[tuple[str, bool], ...] = ()
    """Upgrade type and whether it is on, over the connection manager's."""


class Redirect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="redirect"):
    """Answer with a Location. Parts that are not set are the request's own."""

    status: Literal[301, 302, 303, 307, 308] = 301
    scheme: str = ""
    https: bool = False
    host: str = ""
    port: int = 0
    path: str = ""
    prefix_rewrite: str = ""
    regex_rewrite: tuple[str, str] | None = None
    strip_query: bool = False


class DirectResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="direct"):
    """Answer from here. `content_type` is sent only with a body."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A condition and what is done when it is met; the first of a virtual host that matches wins."""

    path: PathMatch
    action: ForwardAction | Redirect | DirectResponse
    name: str = ""
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    mutations: HeaderMutations = NO_MUTATIONS
    decorator: Decorator | None = None
    tracing: RouteTracing | None = None


class VirtualHost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Routes for some host names: exact, `*.suffix`, `prefix.*` or `*`."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...] = ()
    mutations: HeaderMutations = NO_MUTATIONS
    retry: RetryPolicy | None = None
    require_tls: Literal["none", "external", "all"] = "none"
    include_request_attempt_count: bool = False
    include_attempt_count_in_response: bool = False
    per_request_buffer_limit_bytes: int | None = None
    """Most bytes kept of one request for a retry; None = the connection's buffer limit."""
    stats: bool = False
    """Keep metrics for this virtual host (`vhost.<name>.*`)."""

    OF_CATALOG: ClassVar[str] = "consul/"
    """What the name of one begins with that is a service's of Consul's catalogue, found after the file was read."""


class ConsulCatalog(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Routes to every service of Consul's catalogue, one virtual host and one cluster each."""

    domains: tuple[str, ...]
    """Lower case, each with `{service}` in it once."""
    tags: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Patterns as shells have them; () = all."""
    exclude: tuple[str, ...] = ()
    like: str = ""
    """The cluster whose settings the services' clusters have; "" = defaults."""
    timeout_s: float = 15.0
    retry: RetryPolicy | None = None
    datacenter: str = ""
    checks: Literal["passing", "warning", "any"] = "passing"
    consistency: Literal["default", "stale", "consistent"] = "default"
    keep_last_s: float = 3600.0
    """A catalogue without services counts for so long with the last that it had; so do instances."""
    server: ConsulServer | None = None
    """None = 127.0.0.1:8500."""


class RouteTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All virtual hosts of one connection manager, under a name, so that routes change without their listener."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...] = ()
    mutations: HeaderMutations = NO_MUTATIONS
    most_specific_mutations_win: bool = False
    """False, as in Envoy: the route table's values are applied last and win."""
    internal_only_headers: tuple[str, ...] = ()
    ignore_port_in_host: bool = False
    catalog: ConsulCatalog | None = None
    """More virtual hosts are found there and put behind these."""


def table_without_token(table: RouteTable) -> RouteTable:
    """The table as it may be shown."""
    if table.catalog is None or table.catalog.server is None or not table.catalog.server.token:
        return table
    return msgspec.structs.replace(table, catalog=msgspec.structs.replace(table.catalog, server=hidden(table.catalog.server)))
