"""A control plane that answers by itself with what a test has given it, state of the world on one aggregated stream."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any, Self

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpConnectionManager  # noqa: F401
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf import json_format

from tests.peers.bootstrap import HTTP_MANAGER, ROUTER, Json, address
from tests.peers.xds_server import TYPES, Said, XdsServer, packed

MESSAGES = {"CDS": Cluster, "EDS": ClusterLoadAssignment, "LDS": Listener, "RDS": RouteConfiguration}
ADS = {"ads": {}, "resource_api_version": "V3"}


class ControlPlane(XdsServer):
    """`give` says what there is from now on; who asks, and who has asked, gets it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._there: dict[str, dict[str, Any]] = {short: {} for short in MESSAGES}
        self._versions = itertools.count(1)
        self._asked: dict[tuple[int, str], list[str]] = {}
        """By stream and type, the names of the last request."""
        self._giving = threading.RLock()
        self.is_silent = False
        self.answer = self._answer

    def give(self, **resources: list[Json]) -> None:
        """By kind (`CDS=[...]`), each kind as a whole, in this order."""
        with self._giving:
            for short, listed in resources.items():
                self._there[short] = {
                    each.get("name") or each["cluster_name"]: packed(json_format.ParseDict(each, MESSAGES[short]())) for each in listed
                }
                for (stream, asked), names in list(self._asked.items()):
                    if asked == short:
                        self._push(stream, short, names)

    def _answer(self, said: Said) -> None:
        with self._giving:
            if said.line == "end":
                self._asked = {key: names for key, names in self._asked.items() if key[0] != said.stream}
            if not isinstance(said.request, DiscoveryRequest):
                return
            short = said.line.split()[0]
            names, key = list(said.request.resource_names), (said.stream, short)
            if short in MESSAGES and (not said.request.response_nonce or names != self._asked.get(key)):
                self._asked[key] = names
                self._push(said.stream, short, names)

    def _push(self, stream: int, short: str, names: list[str]) -> None:
        if self.is_silent:
            return
        version = str(next(self._versions))
        wanted = set(names) or self._there[short].keys()
        resources = [each for name, each in self._there[short].items() if name in wanted]
        self.send(stream, DiscoveryResponse(version_info=version, type_url=TYPES[short], nonce=version, resources=resources))

    def wait_error(self, short: str) -> str:
        """The text of the next refusal of that kind."""
        said = self.wait(lambda each: each.line.startswith(short) and "error=" in each.line)
        return said.request.error_detail.message

    def __enter__(self) -> Self:
        super().__enter__()
        return self


def bootstrap(plane: XdsServer, **more: Any) -> Json:
    """Ten lines: who the node is, and whom it asks."""
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    xds = {
        "name": "xds", "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoints("xds", plane.port),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    }
    dynamic = {
        "ads_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]},
        "cds_config": ADS, "lds_config": ADS,
    }
    static = {"clusters": [xds], **more.pop("static_resources", {})}
    return {
        "node": {"id": "node-1", "cluster": "test"}, "admin": {"address": address(0)}, "dynamic_resources": dynamic,
        "static_resources": static, **more,
    }


def cluster(name: str, **settings: Any) -> Json:
    """With endpoints by EDS."""
    return {"name": name, "type": "EDS", "connect_timeout": "5s", "eds_cluster_config": {"eds_config": ADS}, **settings}


def endpoints(name: str, *ports: int) -> Json:
    listed = [{"endpoint": {"address": address(port)}} for port in ports]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": listed}]}


def listener(name: str, port: int, routes: str = "", **manager: Any) -> Json:
    """HTTP, with routes by RDS where they are named."""
    config = {
        "@type": HTTP_MANAGER, "stat_prefix": name, "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
        **({"rds": {"route_config_name": routes, "config_source": ADS}} if routes else {}), **manager,
    }
    return {"name": name, "address": address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": config}]}]}


def routes(name: str, target: str) -> Json:
    to_all = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": target}}]}
    return {"name": name, "virtual_hosts": [to_all]}
