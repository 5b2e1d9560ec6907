"""Where resources come from that are not in the file: control planes, and files in their form. Words and defaults are Envoy's."""

from __future__ import annotations

from typing import Literal

import msgspec


class GrpcService(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gRPC server: a cluster of the file itself, or (`target_uri`) an address that is spoken to without TLS. Exactly one is set."""

    cluster: str = ""
    target_uri: str = ""
    """As gRPC has it: `host:port`, `dns:///host:port`, `unix:/run/x.sock`."""
    authority: str = ""
    """The `:authority` of calls; "" = the cluster's name, or the target."""
    timeout_s: float = 0.0
    """To wait for a connection; 0 = none."""
    initial_metadata: tuple[tuple[str, str], ...] = ()
    """Headers of each call, in order."""


class ConfigSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom resources are asked of.

    `ads`: the one stream of `Dynamic.ads`. `grpc`, `delta_grpc`: a stream of its own to `services` (in order; the next is tried when one
    fails). `rest`: polled from the one cluster of `clusters`. `path`: a file with a DiscoveryResponse.
    """

    kind: Literal["ads", "grpc", "delta_grpc", "rest", "path"] = "ads"
    services: tuple[GrpcService, ...] = ()
    clusters: tuple[str, ...] = ()
    path: str = ""
    """Absolute."""
    watched_directory: str = ""
    """Only a move within it makes the file be read again; "" = a move onto the file itself."""
    refresh_s: float = 0.0
    """Between two polls."""
    request_timeout_s: float = 1.0
    """Of a poll."""
    initial_fetch_timeout_s: float = 15.0
    """How long what asks waits for its first answer before it goes on without; 0 = for ever."""
    rate_limit_tokens: int = 0
    """Most requests to a server at once; 0 = no limit. They come back with `rate_limit_per_s`."""
    rate_limit_per_s: float = 10.0
    first_node_only: bool = False
    """Only the first message of a stream says who the node is."""


class Dynamic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes from control planes as a whole. `ads` is of the kind grpc or delta_grpc; what has the kind `ads` means this stream."""

    ads: ConfigSource | None = None
    cds: ConfigSource | None = None
    """Of all clusters that the file does not have itself."""
    lds: ConfigSource | None = None


def config_source_name(source: ConfigSource) -> str:
    """For logs and pages: `ads`, `delta_grpc xds-cluster`, `rest web`, `path /etc/x.yaml`."""
    if source.kind == "path":
        return f"path {source.path}"
    named = [service.cluster or service.target_uri for service in source.services] or list(source.clusters)
    return " ".join([source.kind, *named])


def without_metadata(source: ConfigSource) -> ConfigSource:
    """The source as it may be shown: headers of calls may be tokens."""
    if not any(service.initial_metadata for service in source.services):
        return source
    services = tuple(
        msgspec.structs.replace(service, initial_metadata=tuple((key, "[redacted]") for key, _ in service.initial_metadata))
        for service in source.services
    )
    return msgspec.structs.replace(source, services=services)


def shown(dynamic: Dynamic) -> Dynamic:
    """All of it as it may be shown."""
    return Dynamic(**{
        field: without_metadata(source) if (source := getattr(dynamic, field)) is not None else None
        for field in dynamic.__struct_fields__
    })
