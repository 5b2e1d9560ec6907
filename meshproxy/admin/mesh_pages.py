"""Pages about the mesh: `/listeners`, `/clusters`, `/config_dump`, `/certs`, `/runtime`. Shapes are Envoy's, checked beside it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from meshproxy.admin.certs import certificates
from meshproxy.admin.config_dump import SECTIONS, config_dump
from meshproxy.admin.http import Request, Response, streamed, text
from meshproxy.admin.node import AdminNode
from meshproxy.admin.pattern import matcher
from meshproxy.clock import unix_s
from meshproxy.model import Address, Breakers, Cluster, Endpoint, ResourceKind, SocketAddress
from meshproxy.scoreboard.blocks import host_name
from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind, MetricType, block_cells


def as_json(tree: object) -> Response:
    """A tree as JSON that people read."""
    return Response(msgspec.json.format(msgspec.json.encode(tree), indent=1) + b"\n", content_type="application/json")


def listeners(node: AdminNode, request: Request) -> Response:
    """The addresses that are really bound: a port 0 has become a number."""
    rows = node.view.state.listeners
    if request.query.get("format", "text") != "json":
        return text("".join(f"{row.name}::{address}\n" for row in rows for address in row.addresses))
    return as_json({"listener_statuses": [_listener_status(row.name, row.addresses) for row in rows]})


def _listener_status(name: str, addresses: list[str]) -> dict:
    first, *others = [_address(_parsed(address)) for address in addresses] or [{}]
    status: dict = {"name": name, "local_address": first}
    if others:
        status["additional_local_addresses"] = others
    return status


def _parsed(address: str) -> SocketAddress | str:
    host, colon, port = address.rpartition(":")
    return SocketAddress(host=host.strip("[]"), port=int(port)) if colon and port.isdecimal() and not address.startswith("/") else address


def _address(address: Address | str) -> dict:
    if isinstance(address, SocketAddress):
        return {"socket_address": {"address": address.host, "port_value": address.port}}
    return {"pipe": {"path": str(address)}}


def clusters(node: AdminNode, request: Request) -> Response:
    """Each cluster's limits and endpoints, with what was counted for each endpoint."""
    matches = matcher(request.query.get("filter", ""))
    chosen = [each for each in node.view.clusters() if matches(each.name)]
    if request.query.get("format", "text") == "json":
        return as_json({"cluster_statuses": [_cluster_status(node, each) for each in chosen]})
    return streamed("".join(f"{each.name}::{line}\n" for line in _cluster_lines(node, each)) for each in chosen)


def host_stats(node: AdminNode, cluster: Cluster, endpoint: Endpoint) -> dict[str, int]:
    """What was counted for an endpoint, by metric name; zeros for one that has no block."""
    rows = CATALOGUE[BlockKind.HOST]
    first = node.view.cell(BlockKind.HOST.name, host_name(cluster.name, endpoint))
    values = node.view.region.read_cells(first, block_cells(BlockKind.HOST)) if first is not None else [0] * len(rows)
    return {row.name: value for row, value in zip(rows, values, strict=True)}


def _breaker_lines(priority: str, breakers: Breakers) -> Iterator[str]:
    yield f"{priority}_priority::max_connections::{breakers.max_connections}"
    yield f"{priority}_priority::max_pending_requests::{breakers.max_pending}"
    yield f"{priority}_priority::max_requests::{breakers.max_requests}"
    yield f"{priority}_priority::max_retries::{breakers.max_retries}"


def _cluster_lines(node: AdminNode, cluster: Cluster) -> Iterator[str]:
    yield f"observability_name::{cluster.stat_name}"
    yield from _breaker_lines("default", cluster.breakers)
    yield from _breaker_lines("high", cluster.high_breakers)
    yield f"added_via_api::{'true' if node.view.is_brought((ResourceKind.CLUSTER, cluster.name)) else 'false'}"
    for source in node.sources(cluster.name):
        yield f"source::{source.name}::endpoints::{source.endpoints}"
        yield f"source::{source.name}::age_s::{source.age_s:.1f}"
        yield f"source::{source.name}::error::{' '.join(source.error.split()) or 'none'}"
    for endpoint in node.view.endpoints(cluster):
        shown = {
            **dict(sorted(host_stats(node, cluster, endpoint).items())),
            "hostname": endpoint.hostname,
            "health_flags": "healthy" if endpoint.healthy else "/failed_eds_health",
            "weight": endpoint.weight,
            "region": "",
            "zone": "",
            "sub_zone": "",
            "canary": "false",
            "priority": 0,
            "success_rate": -1,
            "local_origin_success_rate": -1,
        }
        yield from (f"{endpoint.address}::{name}::{value}" for name, value in shown.items())


def _cluster_status(node: AdminNode, cluster: Cluster) -> dict:
    sources = [{**source._asdict(), "age_s": round(source.age_s, 1)} for source in node.sources(cluster.name)]
    return {
        "name": cluster.name,
        "added_via_api": node.view.is_brought((ResourceKind.CLUSTER, cluster.name)),
        **({"sources": sources} if sources else {}),
        "host_statuses": [_host_status(node, cluster, endpoint) for endpoint in node.view.endpoints(cluster)],
        "circuit_breakers": {"thresholds": [_thresholds(cluster.breakers), {"priority": "HIGH", **_thresholds(cluster.high_breakers)}]},
        "observability_name": cluster.stat_name,
    }


def _host_status(node: AdminNode, cluster: Cluster, endpoint: Endpoint) -> dict:
    values = host_stats(node, cluster, endpoint)
    stats = [
        # Numbers of 64 bits are strings in protobuf's JSON, and a counter is the type that is not named.
        {"name": row.name, "value": str(values[row.name]), **({} if row.type is MetricType.COUNTER else {"type": "GAUGE"})}
        for row in CATALOGUE[BlockKind.HOST]
    ]
    status: dict = {
        "address": _address(endpoint.address),
        "stats": stats,
        "health_status": {"eds_health_status": "HEALTHY" if endpoint.healthy else "UNHEALTHY"},
        "weight": endpoint.weight,
        "locality": {},
    }
    if endpoint.hostname:
        status["hostname"] = endpoint.hostname
    return status


def _thresholds(breakers: Breakers) -> dict:
    return {
        "max_connections": breakers.max_connections,
        "max_pending_requests": breakers.max_pending,
        "max_requests": breakers.max_requests,
        "max_retries": breakers.max_retries,
    }


def dump(node: AdminNode, request: Request) -> Response:
    """The configuration that the node runs on, secrets left out."""
    if "mask" in request.query:
        return text("400: mask is not supported. Use resource=NAME and name_regex=REGEX.", 400)
    matches = matcher(request.query.get("name_regex", ""))
    resource = request.query.get("resource", "")
    tree = config_dump(node, matches, resource, request.flag("include_eds"))
    if tree is None:
        return text(f"404: there is no resource {resource!r} here. There are bootstrap, {', '.join(SECTIONS)}.", 404)
    return as_json(tree)


def certs(node: AdminNode, request: Request) -> Response:
    """The certificates that listeners and clusters show, and whom they trust."""
    return as_json({"certificates": certificates(node.view, unix_s())})


def runtime(node: AdminNode, request: Request) -> Response:
    """There are no runtime values: what may change at run time is the configuration."""
    return as_json({"entries": {}, "layers": []})
