"""Where a cluster's endpoints are looked for: sources, of which one cluster may have several."""

from __future__ import annotations

from typing import Literal

import msgspec

from meshproxy.model.address import Address, SocketAddress
from meshproxy.model.xds import ConfigSource, config_source_name, without_metadata


class ConsulServer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A Consul agent or server. Files are read again for each connection (`token_file`: for each question)."""

    address: Address = SocketAddress("127.0.0.1", 8500)
    """The host may be a name."""
    scheme: Literal["http", "https"] = "http"
    token: str = ""
    token_file: str = ""
    ca_file: str = ""
    """"" = the system's."""
    cert_file: str = ""
    """The client's certificate chain; with `key_file`."""
    key_file: str = ""
    server_name: str = ""
    """The name that its certificate must have; "" = the address's host."""


class ConsulRegistration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A service that the node tells Consul it is."""

    service: str
    id: str = ""
    """"" = `<service>-<the node's id, or the host's name>`."""
    listener: str = ""
    """Whose address and port it has, and with which it comes and goes; "" = of none, the node's as a whole."""
    address: str = ""
    """"" = the listener's; where that is a wildcard, none is told and Consul's own node counts."""
    port: int = 0
    """0 = the listener's."""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    weight: int = 1
    warning_weight: int = 1
    checks: tuple[Literal["ttl", "ready", "tcp"], ...] = ("ttl",)
    """`ttl`: told by the agent; `ready`: Consul asks the admin API; `tcp`: Consul connects to the listener."""
    interval_s: float = 10.0
    """Between looks whether it is still registered, and between checks; three of them make the time to live."""
    deregister_after_s: float = 3600.0
    """Consul takes it out when its checks are critical for so long; 0 = never."""
    leave_wait_s: float = 1.0
    """How long connections are still taken after it was deregistered, so that those who watch hear of it."""


class ConsulConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prefix of Consul's keys that hold configuration."""

    prefix: str
    digest: str = ""
    """Of what was read there."""
    saved_s: float = 0.0
    """When the copy that was read instead was saved (unix time), because Consul could not be asked; 0 = it could."""


class ConsulNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The node's own Consul, and what the node has to do with it besides looking for endpoints."""

    server: ConsulServer = ConsulServer()
    services: tuple[ConsulRegistration, ...] = ()
    config: ConsulConfig | None = None


class ConsulService(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="consul"):
    """The instances of a service in Consul's catalogue, or of a prepared query: exactly one of the two is set."""

    service: str = ""
    prepared_query: str = ""
    tags: tuple[str, ...] = ()
    """An instance must have all of them; not for prepared queries, which have their own."""
    datacenter: str = ""
    near: str = ""
    """A node's name or `_agent`: nearest first."""
    checks: Literal["passing", "warning", "any"] = "passing"
    """What an instance's checks may be; with `any` one that is critical comes as an endpoint that is not healthy."""
    consistency: Literal["default", "stale", "consistent"] = "default"
    poll_s: float = 5.0
    """Between executions of a prepared query, which cannot be waited on."""
    server: ConsulServer | None = None
    """None = 127.0.0.1:8500."""


class DnsSrv(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="dns_srv"):
    """The targets of an SRV name that have the lowest priority."""

    name: str
    refresh_s: float = 5.0
    """After a failure, and after an answer that tells no TTL."""
    lookup_family: Literal["auto", "v4_only", "v6_only", "v4_preferred", "all"] = "auto"


class EndpointFiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="files"):
    """Lists of endpoints, YAML or JSON, in files by glob patterns."""

    globs: tuple[str, ...]


class EdsSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="eds"):
    """What a control plane says of the endpoints of a service (a ClusterLoadAssignment)."""

    service: str = ""
    """Its name there; "" = the cluster's."""
    source: ConfigSource = ConfigSource()


Source = ConsulService | DnsSrv | EndpointFiles | EdsSource


def without_token(source: Source) -> Source:
    """The source as it may be shown."""
    if isinstance(source, ConsulService) and source.server is not None and source.server.token:
        return msgspec.structs.replace(source, server=hidden(source.server))
    if isinstance(source, EdsSource):
        return msgspec.structs.replace(source, source=without_metadata(source.source))
    return source


def node_without_token(consul: ConsulNode | None) -> ConsulNode | None:
    """The node's Consul as it may be shown and compared: what was read by it is in the configuration itself."""
    if consul is None:
        return None
    server = hidden(consul.server) if consul.server.token else consul.server
    return msgspec.structs.replace(consul, server=server, config=consul.config and ConsulConfig(prefix=consul.config.prefix))


def hidden(server: ConsulServer) -> ConsulServer:
    """The server as it may be shown."""
    return msgspec.structs.replace(server, token="[redacted]")


def source_name(source: Source) -> str:
    """For logs and pages: `consul web`, `dns_srv _web._tcp.example`, `files /etc/x/*.yaml`, `eds web by ads`."""
    if isinstance(source, ConsulService):
        return f"consul {source.service}" if source.service else f"consul query {source.prepared_query}"
    if isinstance(source, EdsSource):
        by = config_source_name(source.source)
        return f"eds {source.service} by {by}" if source.service else f"eds by {by}"
    return f"dns_srv {source.name}" if isinstance(source, DnsSrv) else f"files {' '.join(source.globs)}"
