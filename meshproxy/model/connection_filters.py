"""What looks at a connection before it is served: listener filters (before a chain is chosen) and connection filters (in a chain)."""

from __future__ import annotations

import msgspec

from meshproxy.model.rbac import RbacRules
from meshproxy.model.telemetry import AccessLog

# -- listener filters

class TlsInspector(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tls_inspector"):
    """Finds TLS, its SNI and ALPN without decryption."""

    ja3: bool = False
    ja4: bool = False


class HttpInspector(msgspec.Struct, frozen=True, kw_only=True, tag="http_inspector"):
    """Finds plaintext HTTP/1.0, 1.1 and 2: the chain match's application protocols."""


class ProxyProtocol(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="proxy_protocol"):
    """Takes the peer's address from a PROXY header, version 1 or 2."""

    allow_without_header: bool = False
    versions: tuple[int, ...] = (1, 2)
    pass_tlvs: tuple[int, ...] | None = ()
    """TLV types kept for the upstream's header; None = all."""
    stat_prefix: str = ""


class OriginalDst(msgspec.Struct, frozen=True, kw_only=True, tag="original_dst"):
    """Takes the address that the client meant from the kernel (iptables REDIRECT or TPROXY)."""


ListenerFilter = TlsInspector | HttpInspector | ProxyProtocol | OriginalDst


# -- connection filters

class ConnectionLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="connection_limit"):
    """At most so many connections on this chain, for the whole node; the others close, after `delay_s` when it is set."""

    stat_prefix: str
    max_connections: int
    delay_s: float = 0.0


class LocalRateLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="local_rate_limit"):
    """A token a connection, from a bucket that the whole node shares; without one the connection closes."""

    stat_prefix: str
    max_tokens: int
    tokens_per_fill: int = 1
    fill_interval_s: float = 1.0
    share_key: str = ""
    """Filters with the same key share one bucket; "" = the filter has its own."""


class NetworkRbac(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rbac"):
    """Who may connect, by address, port, SNI and certificate; `shadow` is only counted."""

    stat_prefix: str
    rules: RbacRules | None = None
    shadow: RbacRules | None = None
    shadow_stat_prefix: str = ""
    delay_deny_s: float = 0.0


class SniCluster(msgspec.Struct, frozen=True, kw_only=True, tag="sni_cluster"):
    """The SNI names the TCP proxy's cluster."""


ConnectionFilter = ConnectionLimit | LocalRateLimit | NetworkRbac | SniCluster


# -- terminals other than HTTP

class TcpCluster(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    weight: int = 1


class TcpProxy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tcp"):
    """Relay the bytes to a cluster: to one of `clusters` by weight."""

    stat_prefix: str
    clusters: tuple[TcpCluster, ...]
    idle_timeout_s: float = 3600.0
    """Of a connection on which nothing moves in either direction; 0 = none."""
    max_connect_attempts: int = 1
    max_connection_duration_s: float = 0.0
    access_logs: tuple[AccessLog, ...] = ()
    flush_access_log_on_connected: bool = False
    access_log_flush_interval_s: float = 0.0


class Echo(msgspec.Struct, frozen=True, kw_only=True, tag="echo"):
    """Send back what comes."""


class NetworkDirectResponse(msgspec.Struct, frozen=True, kw_only=True, tag="direct_response"):
    """Send `body` and close."""

    body: bytes = b""
