"""The mesh's nouns: frozen values without I/O. Both front doors (`config/native`, `config/envoy`) end here.

A `Snapshot` is a whole accepted configuration. What travels between processes is not the snapshot but its
*resources*: one listener, route table or cluster, by kind and name.
"""

from meshproxy.model.address import Address, PipeAddress, SocketAddress
from meshproxy.model.cluster import Breakers, Cluster, Endpoint, EndpointSet, RetryBudget
from meshproxy.model.connection_filters import (
    ConnectionFilter,
    ConnectionLimit,
    Echo,
    HttpInspector,
    ListenerFilter,
    LocalRateLimit,
    NetworkDirectResponse,
    NetworkRbac,
    OriginalDst,
    ProxyProtocol,
    SniCluster,
    TcpCluster,
    TcpProxy,
    TlsInspector,
)
from meshproxy.model.discovery import (
    ConsulConfig,
    ConsulNode,
    ConsulRegistration,
    ConsulServer,
    ConsulService,
    DnsSrv,
    EdsSource,
    EndpointFiles,
    Source,
)
from meshproxy.model.http2 import Http2Settings, KeepAlive
from meshproxy.model.listener import (
    ChainMatch,
    ClientCertHeader,
    FilterChain,
    GrpcHttp1Bridge,
    GrpcStats,
    GrpcWeb,
    HttpConnectionManager,
    HttpRbac,
    Listener,
    PythonFilter,
)
from meshproxy.model.rbac import Policy, RbacRules, Rule
from meshproxy.model.route import (
    ConsulCatalog,
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
from meshproxy.model.snapshot import Admin, Node, Process, Resource, ResourceKind, Snapshot, Stats, StatsSink, StatsTag
from meshproxy.model.telemetry import AccessLog
from meshproxy.model.tls import (
    Certificate,
    DownstreamTls,
    KeyLog,
    PeerValidation,
    SanMatch,
    Secret,
    SecretFiles,
    TicketKeys,
    TlsParameters,
    TrustedCa,
    UpstreamTls,
)
from meshproxy.model.tracing import CustomTag, Decorator, RouteTracing, Tracing
from meshproxy.model.xds import ConfigSource, Dynamic, GrpcService

__all__ = [
    "AccessLog", "Address", "Admin", "Breakers", "Certificate", "ChainMatch", "ClientCertHeader", "Cluster", "ConfigSource",
    "ConnectionFilter", "ConnectionLimit", "ConsulCatalog", "ConsulConfig", "ConsulNode", "ConsulRegistration", "ConsulServer",
    "ConsulService", "CustomTag", "Decorator", "DirectResponse", "DnsSrv", "DownstreamTls", "Dynamic", "Echo", "EdsSource", "Endpoint",
    "EndpointFiles", "EndpointSet", "FilterChain", "ForwardAction", "GrpcHttp1Bridge", "GrpcService", "GrpcStats", "GrpcWeb",
    "HeaderMatch", "HeaderMutations", "HeaderValue", "Http2Settings", "HttpConnectionManager", "HttpInspector", "HttpRbac", "KeepAlive",
    "KeyLog", "Listener", "ListenerFilter", "LocalRateLimit", "NetworkDirectResponse", "NetworkRbac", "Node", "OriginalDst",
    "PathMatch", "PeerValidation", "PipeAddress", "Policy", "Process", "ProxyProtocol", "PythonFilter", "RbacRules", "Redirect",
    "Resource", "ResourceKind", "RetryBudget", "RetryPolicy", "Route", "RouteTable", "RouteTracing", "Rule", "SanMatch", "Secret",
    "SecretFiles", "Snapshot", "SniCluster", "SocketAddress", "Source", "Stats", "StatsSink", "StatsTag", "StringMatch", "TcpCluster",
    "TcpProxy", "TicketKeys", "TlsInspector", "TlsParameters", "Tracing", "TrustedCa", "UpstreamTls", "VirtualHost", "WeightedCluster",
]
