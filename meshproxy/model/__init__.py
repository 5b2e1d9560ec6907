"""The mesh's nouns: frozen values without I/O. Both front doors (`config/native`, `config/envoy`) end here.

A `Snapshot` is a whole accepted configuration. What travels between processes is not the snapshot but its
*resources*: one listener, route table or cluster, by kind and name.
"""

from meshproxy.model.address import Address, PipeAddress, SocketAddress
from meshproxy.model.cluster import Breakers, Cluster, Endpoint, EndpointSet, RetryBudget
from meshproxy.model.listener import FilterChain, HttpConnectionManager, Listener, PythonFilter
from meshproxy.model.route import (
    DirectResponse,
    ForwardAction,
    HeaderMatch,
    HeaderMutations,
    HeaderValue,
    PathMatch,
    Redirect,
    RetryPolicy,
    Route,
    RouteTable,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshproxy.model.snapshot import Admin, Node, Process, Resource, ResourceKind, Snapshot, StatsSink, Stats
from meshproxy.model.telemetry import AccessLog

__all__ = [
    "AccessLog", "Address", "Admin", "Breakers", "Cluster", "DirectResponse", "Endpoint", "EndpointSet", "FilterChain",
    "ForwardAction", "HeaderMatch", "HeaderMutations", "HeaderValue", "HttpConnectionManager", "Listener", "Node", "PathMatch",
    "PipeAddress", "Process", "PythonFilter", "Redirect", "Resource", "ResourceKind", "RetryBudget", "RetryPolicy", "Route",
    "RouteTable", "Snapshot", "SocketAddress", "Stats", "StatsSink", "StringMatch", "VirtualHost", "WeightedCluster",
]
