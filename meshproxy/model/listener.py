"""Where traffic comes in and which protocol it speaks. Timeouts of 0 are off; defaults are Envoy's unless a line says why not."""

from __future__ import annotations

from typing import Literal

import msgspec

from meshproxy.model.address import Address
from meshproxy.model.connection_filters import ConnectionFilter, Echo, ListenerFilter, NetworkDirectResponse, TcpProxy
from meshproxy.model.http2 import Http2Settings
from meshproxy.model.rbac import RbacRules
from meshproxy.model.telemetry import AccessLog
from meshproxy.model.tls import DownstreamTls
from meshproxy.model.tracing import Tracing
from meshproxy.model.xds import ConfigSource


class PythonFilter(msgspec.Struct, frozen=True, kw_only=True, tag="python"):
    """A user's filter: `target` is `package.module:Class`; `settings` are the keyword arguments of its constructor."""

    name: str
    target: str
    settings: dict = {}


class GrpcStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grpc_stats"):
    """Counts gRPC calls by service and method: those of `methods` (`service/method`), or all (at most 1,000 names)."""

    all_methods: bool = False
    methods: tuple[str, ...] = ()
    upstream_stats: bool = False
    """Also the time and the messages of each call."""


class GrpcWeb(msgspec.Struct, frozen=True, kw_only=True, tag="grpc_web"):
    """Translates gRPC-Web (binary and text) of browsers to gRPC."""


class GrpcHttp1Bridge(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="grpc_http1_bridge"):
    """Lets a HTTP/1.1 client make unary gRPC calls: the trailers' status moves into the head, the whole response is held for it."""

    upgrade_protobuf: bool = False
    """`application/x-protobuf` becomes a gRPC message, and back."""


class HttpRbac(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rbac"):
    """Which requests may pass, by path, headers, addresses and certificate; the others get 403. `shadow` is only counted."""

    rules: RbacRules | None = None
    shadow: RbacRules | None = None
    stat_prefix: str = ""
    """Metrics are `http.<the connection manager's>.rbac.<this>.*`."""
    shadow_stat_prefix: str = ""


HttpFilter = PythonFilter | GrpcStats | GrpcWeb | GrpcHttp1Bridge | HttpRbac


class ClientCertHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`x-forwarded-client-cert`: what becomes of the one that comes, and which facts of the client's certificate are put in."""

    mode: Literal["sanitize", "forward_only", "append_forward", "sanitize_set", "always_forward_only"] = "sanitize"
    subject: bool = False
    cert: bool = False
    chain: bool = False
    dns: bool = False
    uri: bool = False


class HttpConnectionManager(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="http"):
    """HTTP on a filter chain."""

    stat_prefix: str
    route_table: str
    """Name of a RouteTable resource."""
    rds: ConfigSource | None = None
    """Whom the route table is asked of; None = it is there with the listener."""
    codec: Literal["auto", "http1", "http2"] = "auto"
    """`auto`: by ALPN, else by the first bytes."""
    http2: Http2Settings = Http2Settings()
    client_cert_header: ClientCertHeader = ClientCertHeader()
    filters: tuple[HttpFilter, ...] = ()
    access_logs: tuple[AccessLog, ...] = ()
    tracing: Tracing | None = None
    server_name: str = "meshproxy"
    """The Envoy door fills in Envoy's own default."""
    server_header: Literal["overwrite", "append_if_absent", "pass_through"] = "overwrite"
    via: str = ""
    use_remote_address: bool = False
    xff_trusted_hops: int = 0
    skip_xff_append: bool = False
    generate_request_id: bool = True
    preserve_external_request_id: bool = False
    always_set_request_id_in_response: bool = False
    suppress_envoy_headers: bool = False
    """No `x-envoy-upstream-service-time` and the like on the way out (the router filter's setting)."""
    max_head_bytes: int = 60 * 1024
    max_headers: int = 100
    max_body_bytes: int = 0
    """413 above it; 0 = unlimited."""
    idle_timeout_s: float = 3600.0
    request_timeout_s: float = 0.0
    request_headers_timeout_s: float = 0.0
    stream_idle_timeout_s: float = 300.0
    max_connection_duration_s: float = 0.0
    max_requests_per_connection: int = 0
    max_stream_duration_s: float = 0.0
    drain_timeout_s: float = 5.0
    delayed_close_timeout_s: float = 1.0
    accept_http_10: bool = False
    default_host_for_http_10: str = ""
    allow_absolute_url: bool = True
    upgrades: tuple[str, ...] = ()
    """Protocols that `Upgrade` may name, lower case (`websocket`)."""
    proxy_100_continue: bool = False
    normalize_path: bool = False
    merge_slashes: bool = False
    strip_port: Literal["none", "matching", "any"] = "none"
    underscores_in_headers: Literal["allow", "reject", "drop"] = "allow"
    add_user_agent: bool = False
    """Send `user_agent` where the client has none, and tell the upstream who asks (`x-envoy-downstream-service-cluster`, `-node`)."""
    user_agent: str = ""
    service_node: str = ""
    """Both are the Node's cluster and id, filled in when a snapshot is taken apart (`snapshot.resources_of`)."""


class ChainMatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which connections a chain is for. What is empty matches all. Criteria are looked at in the order of the fields, and the most specific
    value of each wins before the next is looked at (Envoy's order); two chains may not have the same match."""

    destination_port: int = 0
    prefix_ranges: tuple[str, ...] = ()
    """CIDR ranges of the local address."""
    server_names: tuple[str, ...] = ()
    """SNI: exact, or `*.suffix`."""
    transport_protocol: Literal["", "tls", "raw_buffer"] = ""
    application_protocols: tuple[str, ...] = ()
    direct_source_prefix_ranges: tuple[str, ...] = ()
    source_type: Literal["any", "same_ip_or_loopback", "external"] = "any"
    source_prefix_ranges: tuple[str, ...] = ()
    source_ports: tuple[int, ...] = ()


class FilterChain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done with a connection that matches: how it is secured, what looks at it first, and who serves it."""

    terminal: HttpConnectionManager | TcpProxy | Echo | NetworkDirectResponse
    name: str = ""
    """Unique within the listener where it is not empty."""
    match: ChainMatch = ChainMatch()
    tls: DownstreamTls | None = None
    filters: tuple[ConnectionFilter, ...] = ()
    connect_timeout_s: float = 0.0
    """Most time for the TLS handshake; 0 = none (Envoy's `transport_socket_connect_timeout`)."""


class Listener(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sockets to accept on. `addresses` has at least one; port 0 is a port the kernel picks (shown in `status`)."""

    name: str
    addresses: tuple[Address, ...]
    chains: tuple[FilterChain, ...]
    default_chain: FilterChain | None = None
    """For connections that no chain matches; without it they are closed and counted (`no_filter_chain_match`)."""
    filters: tuple[ListenerFilter, ...] = ()
    filters_timeout_s: float = 15.0
    continue_on_filters_timeout: bool = False
    """After the time limit: go on with what is known; else the connection closes."""
    use_original_dst: bool = False
    """A connection goes to the listener bound to the address that the client meant, if there is one."""
    bind_to_port: bool = True
    """False: it only gets connections that another listener hands on."""
    transparent: bool = False
    """Accept connections for any address (IP_TRANSPARENT; TPROXY)."""
    buffer_limit_bytes: int = 1 << 20
    """High watermark of what is held for one downstream connection."""
    backlog: int = 4096
    max_connections: int = 0
    """0 = unlimited; counted for the whole node."""
    ipv6_only: bool = True
    """False: an IPv6 wildcard takes IPv4 too (Envoy's `ipv4_compat`)."""
    freebind: bool = False
    stat_prefix: str = ""
    access_logs: tuple[AccessLog, ...] = ()
    """Of connections, whatever they carried (Envoy's listener access log)."""

    @property
    def stat_name(self) -> str:
        """The name in metrics: the prefix, or the first address with ":" as "_" (Envoy's rule)."""
        return self.stat_prefix or str(self.addresses[0]).replace(":", "_")

    @property
    def all_chains(self) -> tuple[FilterChain, ...]:
        """The chains, the default one last."""
        return self.chains if self.default_chain is None else (*self.chains, self.default_chain)
