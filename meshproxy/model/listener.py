"""Where traffic comes in and which protocol it speaks. Timeouts of 0 are off; defaults are Envoy's unless a line says why not."""

from __future__ import annotations

from typing import Literal

import msgspec

from meshproxy.model.address import Address
from meshproxy.model.telemetry import AccessLog


class PythonFilter(msgspec.Struct, frozen=True, kw_only=True, tag="python"):
    """A user's filter: `target` is `package.module:Class`; `settings` are the keyword arguments of its constructor."""

    name: str
    target: str
    settings: dict = {}


HttpFilter = PythonFilter


class HttpConnectionManager(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="http"):
    """HTTP on a filter chain."""

    stat_prefix: str
    route_table: str
    """Name of a RouteTable resource."""
    codec: Literal["auto", "http1"] = "auto"
    filters: tuple[HttpFilter, ...] = ()
    access_logs: tuple[AccessLog, ...] = ()
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


class FilterChain(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done with a connection. Selection among several chains comes with TLS; now a listener has one."""

    terminal: HttpConnectionManager
    name: str = ""
    connect_timeout_s: float = 0.0


class Listener(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sockets to accept on. `addresses` has at least one; port 0 is a port the kernel picks (shown in `status`)."""

    name: str
    addresses: tuple[Address, ...]
    chains: tuple[FilterChain, ...]
    buffer_limit_bytes: int = 1 << 20
    """High watermark of what is held for one downstream connection."""
    backlog: int = 4096
    max_connections: int = 0
    """0 = unlimited; counted for the whole node."""
    ipv6_only: bool = True
    """False: an IPv6 wildcard takes IPv4 too (Envoy's `ipv4_compat`)."""
    freebind: bool = False
    stat_prefix: str = ""

    @property
    def stat_name(self) -> str:
        """The name in metrics: the prefix, or the first address with ":" as "_" (Envoy's rule)."""
        return self.stat_prefix or str(self.addresses[0]).replace(":", "_")
