"""The kinds of resources that control planes send: their type URLs, and by which calls each is asked for alone."""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "type.googleapis.com/"
WRAPPER = PREFIX + "envoy.service.discovery.v3.Resource"
"""A resource that comes with a name, a version or a time to live of its own."""
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"


class Kind(NamedTuple):
    """`stream` and `delta` are gRPC methods ("" = there is none), `rest` the path that polls ask."""

    short: str
    type_url: str
    stream: str
    delta: str
    rest: str = ""


def _kind(short: str, message: str, service: str, method: str, rest: str = "", stream: bool = True) -> Kind:
    path = f"/envoy.service.{service}/"
    return Kind(short, PREFIX + message, f"{path}Stream{method}" if stream else "", f"{path}Delta{method}", rest)


CDS = _kind("CDS", "envoy.config.cluster.v3.Cluster", "cluster.v3.ClusterDiscoveryService", "Clusters", "/v3/discovery:clusters")
EDS = _kind(
    "EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment", "endpoint.v3.EndpointDiscoveryService", "Endpoints", "/v3/discovery:endpoints"
)
LDS = _kind("LDS", "envoy.config.listener.v3.Listener", "listener.v3.ListenerDiscoveryService", "Listeners", "/v3/discovery:listeners")
RDS = _kind("RDS", "envoy.config.route.v3.RouteConfiguration", "route.v3.RouteDiscoveryService", "Routes", "/v3/discovery:routes")
SRDS = _kind(
    "SRDS", "envoy.config.route.v3.ScopedRouteConfiguration", "route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes",
    "/v3/discovery:scoped-routes",
)
VHDS = _kind("VHDS", "envoy.config.route.v3.VirtualHost", "route.v3.VirtualHostDiscoveryService", "VirtualHosts", stream=False)
SDS = _kind(
    "SDS", "envoy.extensions.transport_sockets.tls.v3.Secret", "secret.v3.SecretDiscoveryService", "Secrets", "/v3/discovery:secrets"
)
RTDS = _kind("RTDS", "envoy.service.runtime.v3.Runtime", "runtime.v3.RuntimeDiscoveryService", "Runtime", "/v3/discovery:runtime")
ECDS = _kind(
    "ECDS", "envoy.config.core.v3.TypedExtensionConfig", "extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs",
    "/v3/discovery:extension_configs",
)

KINDS: dict[str, Kind] = {kind.type_url: kind for kind in (CDS, EDS, LDS, RDS, SRDS, VHDS, SDS, RTDS, ECDS)}
"""By type URL."""


def short(type_url: str) -> str:
    """For logs: `CDS`; a type that is none of these as it is."""
    kind = KINDS.get(type_url)
    return kind.short if kind is not None else type_url


def name_in(packed: bytes) -> str:
    """The resource's name: in each of these messages it is the string of field 1, so nothing is decoded for it. "" = it has none.

    Raises ValueError for bytes that are no protobuf message (https://protobuf.dev/programming-guides/encoding/).
    """
    at, end, name = 0, len(packed), b""
    while at < end:
        key, at = _varint(packed, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(packed, at)
        elif wire == 2:
            length, at = _varint(packed, at)
            if key >> 3 == 1:
                name = packed[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
    if at > end:
        raise ValueError("it is cut short")
    return name.decode()


def _varint(packed: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(packed):
            raise ValueError("it is cut short")
        byte = packed[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number has more than ten bytes")
