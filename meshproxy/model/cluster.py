"""Upstream services: which endpoints they have, how one is picked, and how much may be asked of them."""

from __future__ import annotations

from typing import Literal

import msgspec

from meshproxy.model.address import Address
from meshproxy.model.discovery import Source, without_token
from meshproxy.model.http2 import Http2Settings
from meshproxy.model.tls import UpstreamTls


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place of a service. `weight` counts from 1. An endpoint that is not healthy gets no new requests (panic apart)."""

    address: Address
    weight: int = 1
    hostname: str = ""
    healthy: bool = True


class RetryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Retries in flight may be `percent` of the active requests of the cluster, and always at least `min_concurrency`."""

    percent: float = 20.0
    min_concurrency: int = 3


class Breakers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits counted for the whole node (all workers together). Defaults are Envoy's."""

    max_connections: int = 1024
    max_pending: int = 1024
    max_requests: int = 1024
    max_retries: int = 3
    retry_budget: RetryBudget | None = None
    """When set it takes the place of `max_retries`."""


class EndpointSet(msgspec.Struct, frozen=True, kw_only=True):
    """The present endpoints of a cluster: what a DNS answer or a registry changes, apart from the cluster's settings."""

    cluster: str
    endpoints: tuple[Endpoint, ...] = ()


class Cluster(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named upstream service.

    `discovery` says where endpoints come from: `static` = `endpoints` as they stand; `strict_dns` = the agent resolves the
    host names in `endpoints` and every address of the answer becomes an endpoint (an EndpointSet); `found` = the agent watches
    `sources`, and what they say together is the EndpointSet.
    """

    name: str
    discovery: Literal["static", "strict_dns", "found"] = "static"
    endpoints: tuple[Endpoint, ...] = ()
    sources: tuple[Source, ...] = ()
    """Of a cluster whose endpoints are found; each once."""
    keep_last_s: float = 3600.0
    """A source that fails or has no endpoints any more counts for so long with the last that it had."""
    debounce_s: float = 0.1
    """The least time between two changes that workers are told; the first after a quiet time is told at once."""
    balance: Literal["round_robin", "least_request", "random"] = "round_robin"
    least_request_choices: int = 2
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 3600.0
    """Of a pooled connection without a request; 0 = none."""
    max_requests_per_connection: int = 0
    """0 = unlimited."""
    max_connection_duration_s: float = 0.0
    buffer_limit_bytes: int = 1 << 20
    """High watermark of what is held for one upstream connection."""
    breakers: Breakers = Breakers()
    high_breakers: Breakers = Breakers()
    """For routes with high priority."""
    dns_refresh_s: float = 5.0
    respect_dns_ttl: bool = False
    """Names are asked for again when an answer's TTL is over, not after `dns_refresh_s`."""
    dns_lookup_family: Literal["auto", "v4_only", "v6_only", "v4_preferred", "all"] = "auto"
    wait_for_warm: bool = True
    """A start or a reload waits, for a few seconds at most, until each of its names and sources was answered or failed once."""
    alt_stat_name: str = ""
    panic_threshold_percent: float = 50.0
    tcp_keepalive: bool = False
    protocol: Literal["http1", "http2", "downstream", "auto"] = "http1"
    """`downstream`: what the client speaks. `auto`: by ALPN of the TLS handshake (which offers both)."""
    http2: Http2Settings = Http2Settings(max_concurrent_streams=1024)
    max_response_headers: int = 100
    tls: UpstreamTls | None = None
    proxy_protocol: Literal["", "v1", "v2"] = ""
    """A PROXY header is sent first on each new connection."""
    proxy_protocol_tlvs: tuple[int, ...] | None = ()
    """TLV types of the downstream's header that are passed on; None = all."""

    @property
    def stat_name(self) -> str:
        """The name in metrics."""
        return self.alt_stat_name or self.name


def without_tokens(cluster: Cluster) -> Cluster:
    """The cluster as it may be shown."""
    return msgspec.structs.replace(cluster, sources=tuple(map(without_token, cluster.sources))) if cluster.sources else cluster
