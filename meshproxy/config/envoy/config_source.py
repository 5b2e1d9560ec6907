"""Envoy's ConfigSource and GrpcService: whom resources are asked of. What is checked here Envoy checks too, when it starts."""

from __future__ import annotations

import os
from typing import Any

from meshproxy.config import control_planes
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.envoy.write_source import DEFAULT_RATE_PER_S
from meshproxy.config.problems import Path
from meshproxy.model import ConfigSource, GrpcService

_CORE = "envoy.config.core.v3."

TAKES: Table = {
    _CORE + "ConfigSource": takes(
        "path path_config_source api_config_source ads self initial_fetch_timeout resource_api_version"
    ),
    _CORE + "PathConfigSource": takes("path watched_directory"),
    _CORE + "WatchedDirectory": takes("path"),
    _CORE + "AggregatedConfigSource": takes(),
    _CORE + "SelfConfigSource": takes("transport_api_version"),
    _CORE + "ApiConfigSource": takes(
        "api_type transport_api_version cluster_names grpc_services refresh_delay request_timeout rate_limit_settings "
        "set_node_on_first_message_only"
    ),
    _CORE + "RateLimitSettings": takes("max_tokens fill_rate"),
    _CORE + "GrpcService": takes("envoy_grpc google_grpc timeout initial_metadata"),
    _CORE + "GrpcService.EnvoyGrpc": takes(
        "cluster_name authority", skip_envoy_headers="is what is done anyway: no such headers are sent to control planes"
    ),
    _CORE + "GrpcService.GoogleGrpc": takes(
        "target_uri", stat_prefix="is a label only", per_stream_buffer_limit_bytes="concerns Envoy's own buffers"
    ),
}
_KINDS = {"GRPC": "grpc", "DELTA_GRPC": "delta_grpc", "REST": "rest"}
_VERSION_2 = "the v2 API is gone from Envoy, and never was here. Write V3."
DEFAULT_RATE_TOKENS = 100


def config_source(
    message: Any, path: Path, translation: Translation, owner: ConfigSource | None = None
) -> ConfigSource | None:
    """A ConfigSource; None after a problem was told. `owner`: whom the resource itself is from that says `self`."""
    given = translation.fields(message, path)
    _version(message, "resource_api_version", path, translation)
    shared: dict[str, Any] = {}
    if "initial_fetch_timeout" in given:
        shared["initial_fetch_timeout_s"] = seconds(given["initial_fetch_timeout"])
        if shared["initial_fetch_timeout_s"] < 0:
            translation.error((path, "initial_fetch_timeout"), "it is below 0. Write 0s to wait for ever.")
    if "path" in given or "path_config_source" in given:
        return _path(given, path, translation, shared)
    if "api_config_source" in given:
        return api_config_source(given["api_config_source"], (path, "api_config_source"), translation, **shared)
    if "ads" in given:
        translation.fields(given["ads"], (path, "ads"))
        return ads(path, translation, **shared)
    if "self" in given:
        translation.fields(given["self"], (path, "self"))
        if owner is None:
            wrong = "nothing that came from a control plane says this, so there is no stream to ask on. Write ads or api_config_source."
            translation.error((path, "self"), wrong)
            return None
        return _replaced(owner, shared)
    return None  # told by the API's own rule


def ads(path: Path, translation: Translation, **shared: Any) -> ConfigSource:
    """The aggregated stream, which has to be there."""
    translation.problems.refer(control_planes.STREAM, "ads_config", (path, "ads"))
    return ConfigSource(kind="ads", **shared)


def _replaced(owner: ConfigSource, shared: dict[str, Any]) -> ConfigSource:
    fields = {field: getattr(owner, field) for field in owner.__struct_fields__ if field != "initial_fetch_timeout_s"}
    return ConfigSource(**fields, **shared)


def _path(given: dict[str, Any], path: Path, translation: Translation, shared: dict[str, Any]) -> ConfigSource | None:
    """A file; what holds it has to be there, as with Envoy."""
    file, place, watched = given.get("path", ""), (path, "path"), ""
    if "path_config_source" in given:
        outer: Path = (path, "path_config_source")
        inner = translation.fields(given["path_config_source"], outer)
        file, place = inner.get("path", ""), (outer, "path")
        watched = watched_directory(inner, outer, translation)
    if not file:
        if "path" in given:
            translation.error(place, "it is empty. Give the path of a file.")
        return None
    absolute = os.path.abspath(file)
    if not os.path.exists(absolute):
        translation.error(place, f'"{file}" is not there. Make the file (it may have no resources), or correct the path.')
        return None
    if watched and not os.path.isdir(watched):
        translation.error((path, "path_config_source"), f'watched_directory: "{watched}" is no directory. Correct the path.')
    return ConfigSource(kind="path", path=absolute, watched_directory=watched, **shared)


def watched_directory(given: dict[str, Any], path: Path, translation: Translation) -> str:
    """Absolute; "" = none."""
    if "watched_directory" not in given:
        return ""
    folder = translation.fields(given["watched_directory"], (path, "watched_directory")).get("path", "")
    return os.path.abspath(folder) if folder else ""


def api_config_source(message: Any, path: Path, translation: Translation, **shared: Any) -> ConfigSource | None:
    """A server that is asked by gRPC or REST; None after a problem was told."""
    given = translation.fields(message, path)
    word = enum_name(message, "api_type")
    _version(message, "transport_api_version", path, translation)
    if word.startswith("AGGREGATED_"):
        # Envoy: for collections with xdstp names alone.
        translation.error((path, "api_type"), f'{word} is for collections by xdstp names, which are not supported. Write "ads: {{}}".')
        return None
    if word not in _KINDS:
        translation.error((path, "api_type"), "it is missing. Use GRPC, DELTA_GRPC or REST.")
        return None
    shared["first_node_only"] = given.get("set_node_on_first_message_only", False)
    if "rate_limit_settings" in given:
        shared |= _rate_limit(given["rate_limit_settings"], (path, "rate_limit_settings"), translation)
    if word == "REST":
        return _rest(given, path, translation, shared)
    services = given.get("grpc_services", ())
    if given.get("cluster_names"):
        translation.error((path, "cluster_names"), f"{word} has grpc_services instead. Move the cluster there, as envoy_grpc.cluster_name.")
        return None
    if len(services) != 1:
        wrong = "grpc_services is missing. Add one, with envoy_grpc.cluster_name." if not services else (
            f"{len(services)} gRPC services are given, and one is asked. Keep one."
        )
        translation.error((path, "grpc_services"), wrong)
        return None
    service = grpc_service(services[0], ((path, "grpc_services"), 0), translation)
    return ConfigSource(kind=_KINDS[word], services=(service,), **shared) if service is not None else None  # type: ignore[arg-type]


def _rest(given: dict[str, Any], path: Path, translation: Translation, shared: dict[str, Any]) -> ConfigSource | None:
    names = tuple(given.get("cluster_names", ()))
    if given.get("grpc_services"):
        translation.error((path, "grpc_services"), "REST is not by gRPC. Write cluster_names, or api_type GRPC.")
        return None
    if len(names) != 1:
        wrong = "it is missing. Name the cluster of the server." if not names else f"{len(names)} clusters are named. Name one."
        translation.error((path, "cluster_names"), wrong)
        return None
    translation.problems.refer(control_planes.CLUSTER, names[0], ((path, "cluster_names"), 0))
    if "refresh_delay" not in given:
        translation.error(path, '"refresh_delay" is missing, and REST needs it: how long to wait between two polls. Add it, like 5s.')
        return None
    if "request_timeout" in given:
        shared["request_timeout_s"] = seconds(given["request_timeout"])
    return ConfigSource(kind="rest", clusters=names, refresh_s=seconds(given["refresh_delay"]), **shared)


def _rate_limit(message: Any, path: Path, translation: Translation) -> dict[str, Any]:
    given = translation.fields(message, path)
    return {
        "rate_limit_tokens": given["max_tokens"].value if "max_tokens" in given else DEFAULT_RATE_TOKENS,
        "rate_limit_per_s": given["fill_rate"].value if "fill_rate" in given else DEFAULT_RATE_PER_S,
    }


def grpc_service(message: Any, path: Path, translation: Translation) -> GrpcService | None:
    """A GrpcService; None after a problem was told."""
    given = translation.fields(message, path)
    shared: dict[str, Any] = {"timeout_s": seconds(given["timeout"])} if "timeout" in given else {}
    metadata = [translation.fields(item, ((path, "initial_metadata"), at)) for at, item in enumerate(given.get("initial_metadata", ()))]
    shared["initial_metadata"] = tuple((item.get("key", "").lower(), item.get("value", "")) for item in metadata)
    if "envoy_grpc" in given:
        place = (path, "envoy_grpc")
        inner = translation.fields(given["envoy_grpc"], place)
        name = inner.get("cluster_name", "")
        if not name:
            return None  # told by the API's own rule
        translation.problems.refer(control_planes.CLUSTER, name, (place, "cluster_name"))
        return GrpcService(cluster=name, authority=inner.get("authority", ""), **shared)
    if "google_grpc" in given:
        inner = translation.fields(given["google_grpc"], (path, "google_grpc"))
        return GrpcService(target_uri=inner["target_uri"], **shared) if inner.get("target_uri") else None
    return None


def _version(message: Any, field: str, path: Path, translation: Translation) -> None:
    if enum_name(message, field) == "V2":
        translation.error((path, field), _VERSION_2)
