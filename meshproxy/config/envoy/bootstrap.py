"""Envoy's Bootstrap to a Snapshot: the front door for files in Envoy's form."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import msgspec

from meshproxy.config.control_planes import check_control_planes
from meshproxy.config.document import Document
from meshproxy.config.envoy import (
    access_log,
    address,
    chain,
    cluster,
    config_source,
    headers,
    http2,
    http_connection_manager,
    http_filters,
    listener,
    listener_filters,
    network_filters,
    rbac,
    route,
    secrets,
    stats,
    tls,
    tracing,
    upstream,
)
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.messages import MessageTypes
from meshproxy.config.envoy.reader import Reader
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.native.node import is_local
from meshproxy.config.problems import Path, Problems
from meshproxy.config.uniqueness import check_addresses, check_names
from meshproxy.model import Admin, Dynamic, HttpConnectionManager, Listener, Node, RouteTable, Snapshot, Stats

_BOOTSTRAP = "envoy.config.bootstrap.v3."
_OWN_WATCHDOG = "is Envoy's; a worker that hangs is found by meshproxy's own heartbeat"

TAKES: Table = {
    _BOOTSTRAP + "Bootstrap": takes(
        "node static_resources stats_sinks stats_config stats_flush_interval layered_runtime admin dynamic_resources cluster_manager",
        watchdog=_OWN_WATCHDOG,
        watchdogs=_OWN_WATCHDOG,
        enable_dispatcher_stats="concerns Envoy's own threads",
        memory_allocator_manager="concerns Envoy's own allocator",
        perf_tracing_file_path="concerns Envoy's own profiler",
    ),
    _BOOTSTRAP + "Bootstrap.StaticResources": takes("listeners clusters secrets"),
    _BOOTSTRAP + "Bootstrap.DynamicResources": takes("ads_config cds_config lds_config"),
    _BOOTSTRAP + "ClusterManager": takes(
        "local_cluster_name", enable_deferred_cluster_creation="concerns Envoy's own memory: a cluster without traffic costs little here"
    ),
    _BOOTSTRAP + "Admin": takes(
        "address access_log access_log_path",
        profile_path="concerns Envoy's own profiler",
        ignore_global_conn_limit="is what is done anyway",
    ),
    _BOOTSTRAP + "LayeredRuntime": takes("layers"),
    _BOOTSTRAP + "RuntimeLayer": takes(
        "name",
        static_layer="!has no effect: there is no runtime.",
        admin_layer="has nothing to change: there is no runtime",
    ),
    "envoy.config.core.v3.Node": takes(
        "id cluster metadata locality user_agent_name user_agent_version user_agent_build_version client_features",
        extensions="is told to control planes as it is, whatever is written",
    ),
    "envoy.config.core.v3.BuildVersion": takes("version", metadata="is told to nobody"),
    "envoy.type.v3.SemanticVersion": takes("major_number minor_number patch"),
    "envoy.config.core.v3.Locality": takes("region zone sub_zone"),
}

TABLE: Table = {
    **TAKES, **config_source.TAKES, **address.TAKES, **headers.TAKES, **route.TAKES, **cluster.TAKES, **access_log.TAKES,
    **http_connection_manager.TAKES,
    **listener.TAKES, **stats.TAKES, **chain.TAKES, **http2.TAKES, **http_filters.TAKES, **listener_filters.TAKES, **network_filters.TAKES,
    **rbac.TAKES, **secrets.TAKES, **tls.TAKES, **tracing.TAKES, **upstream.TAKES,
}
"""Everything of Envoy's API that is taken."""


def read(document: Document, env: Mapping[str, str], problems: Problems) -> Snapshot:
    """A Snapshot, of no use when `problems` has errors."""
    types = MessageTypes()
    found = types.find(_BOOTSTRAP + "Bootstrap")
    assert found is not None, "xds-protos has no Bootstrap"
    message = found()
    Reader(problems, types).read(message, document.data, document)
    return bootstrap(message, document, Translation(problems, TABLE, types))


def bootstrap(message: Any, path: Path, translation: Translation) -> Snapshot:
    """A Bootstrap message."""
    given = translation.fields(message, path)
    managed = translation.fields(given["cluster_manager"], (path, "cluster_manager")) if "cluster_manager" in given else {}
    if "local_cluster_name" in managed:
        translation.problems.refer("cluster", managed["local_cluster_name"], ((path, "cluster_manager"), "local_cluster_name"))
    dynamic = _dynamic(given["dynamic_resources"], (path, "dynamic_resources"), translation) if "dynamic_resources" in given else Dynamic()
    if "layered_runtime" in given:
        _runtime(given["layered_runtime"], (path, "layered_runtime"), translation)
    place = (path, "static_resources")
    resources = translation.fields(given["static_resources"], place) if "static_resources" in given else {}
    translation.secrets = secrets.static_secrets(resources.get("secrets", ()), (place, "secrets"), translation)
    clusters = [(cluster.cluster(item, where, translation), where) for item, where in _numbered(resources, place, "clusters")]
    entrances = [listener.listener(item, where, translation) for item, where in _numbered(resources, place, "listeners")]
    listeners, tables = _tables([entrance for entrance in entrances if entrance is not None])
    admin = _admin(given["admin"], (path, "admin"), translation) if "admin" in given else None
    sinks = [stats.stats_sink(item, where, translation) for item, where in _numbered(given, path, "stats_sinks")]
    node = _node(given["node"], (path, "node"), translation) if "node" in given else Node()
    problems = translation.problems
    for sink, (_, where) in zip(sinks, _numbered(given, path, "stats_sinks"), strict=True):
        if sink is not None and sink.tcp_cluster and not (node.id and node.cluster):
            problems.error(where, "statsd by TCP needs to know who sends. Set node.id and node.cluster.")
    check_names("cluster", ((item.name, (where, "name")) for item, where in clusters), problems)
    check_names("listener", ((item.name, where) for item, where in listeners), problems)
    check_addresses(listeners, admin, (path, "admin"), problems)
    names = {item.name: None for item, _ in clusters}
    problems.unresolved("cluster", names, "Add it to static_resources.clusters or correct the name.")
    check_control_planes(
        problems, [item for item, _ in clusters], dynamic, node,
        "Add it to static_resources.clusters: control planes are reached by clusters of the file that need none themselves.",
        "Add dynamic_resources.ads_config.",
    )
    tags = stats.stats_tags(given["stats_config"], (path, "stats_config"), translation) if "stats_config" in given else ()
    made: dict[str, Any] = {"flush_interval_s": seconds(given["stats_flush_interval"])} if "stats_flush_interval" in given else {}
    return Snapshot(
        listeners=tuple(item for item, _ in listeners),
        route_tables=tuple(tables),
        clusters=tuple(item for item, _ in clusters),
        secrets=problems.secrets.all(),
        admin=admin,
        node=node,
        stats=Stats(sinks=tuple(sink for sink in sinks if sink is not None), tags=tags, **made),
        dynamic=dynamic,
    )


def _numbered(given: dict[str, Any], path: Path, field: str) -> list[tuple[Any, Path]]:
    return [(item, ((path, field), index)) for index, item in enumerate(given.get(field, ()))]


def _tables(entrances: list[listener.Entrance]) -> tuple[list[tuple[Listener, Path]], list[RouteTable]]:
    """Route configurations of one name with different content are told apart by their listener's name; those of RDS keep theirs."""
    asked = {
        each.terminal.route_table for entrance in entrances for each in entrance.listener.all_chains
        if isinstance(each.terminal, HttpConnectionManager) and each.terminal.rds is not None
    }
    tables: dict[str, RouteTable] = {}
    listeners = []
    for entrance in entrances:
        whole, chains = entrance.listener, []
        for each, table in zip(whole.all_chains, entrance.tables, strict=True):
            if table is not None:
                if table.name in asked or tables.get(table.name, table) != table:
                    table = msgspec.structs.replace(table, name=free_name(f"{whole.name}/{table.name}", {**tables, **dict.fromkeys(asked)}))
                    each = msgspec.structs.replace(each, terminal=msgspec.structs.replace(each.terminal, route_table=table.name))
                tables[table.name] = table
            chains.append(each)
        default = chains.pop() if whole.default_chain is not None else None
        listeners.append((msgspec.structs.replace(whole, chains=tuple(chains), default_chain=default), entrance.path))
    return listeners, list(tables.values())


def free_name(wanted: str, taken: Container[str]) -> str:
    """The name, or with a number behind it one that is not taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    return name


def _admin(message: Any, path: Path, translation: Translation) -> Admin | None:
    given = translation.fields(message, path)
    where = address.address(given["address"], (path, "address"), translation) if "address" in given else None
    if where is None:
        return None
    logs = access_log.access_logs(given.get("access_log", ()), (path, "access_log"), translation)
    if "access_log_path" in given:
        logs = (*logs, access_log.file_log(given["access_log_path"]))
    admin = Admin(address=where, allow_remote=not is_local(Admin(address=where)), access_logs=logs)
    if admin.allow_remote:
        translation.problems.warning((path, "address"), f"the admin API on {where} can be reached from other machines. Use 127.0.0.1.")
    return admin


def _node(message: Any, path: Path, translation: Translation) -> Node:
    given = translation.fields(message, path)
    locality = translation.fields(given["locality"], (path, "locality")) if "locality" in given else {}
    metadata = access_log.plain_struct(given["metadata"]) if "metadata" in given else {}
    return Node(
        id=given.get("id", ""),
        cluster=given.get("cluster", ""),
        metadata=metadata,
        user_agent_name=given.get("user_agent_name", ""),
        user_agent_version=given.get("user_agent_version", ""),
        user_agent_build_version=_version(given.get("user_agent_build_version"), (path, "user_agent_build_version"), translation),
        client_features=tuple(given.get("client_features", ())),
        **locality,
    )


def _version(message: Any, path: Path, translation: Translation) -> str:
    given = translation.fields(message, path) if message is not None else {}
    if "version" not in given:
        return ""
    numbers = translation.fields(given["version"], (path, "version"))
    return ".".join(str(numbers.get(field, 0)) for field in ("major_number", "minor_number", "patch"))


def _dynamic(message: Any, path: Path, translation: Translation) -> Dynamic:
    """What comes from control planes as a whole."""
    given = translation.fields(message, path)
    translation.problems.sourced += [((path, field), f'"{field}"') for field in given]
    made: dict[str, Any] = {}
    if "ads_config" in given:
        place = (path, "ads_config")
        ads = config_source.api_config_source(given["ads_config"], place, translation)
        if ads is not None and ads.kind not in ("grpc", "delta_grpc"):
            translation.error((place, "api_type"), "an aggregated stream is by gRPC. Use GRPC or DELTA_GRPC.")
        made["ads"] = ads
    for field, ours in (("cds_config", "cds"), ("lds_config", "lds")):
        if field in given:
            made[ours] = config_source.config_source(given[field], (path, field), translation)
    return Dynamic(**made)


def _runtime(message: Any, path: Path, translation: Translation) -> None:
    for item, where in _numbered(translation.fields(message, path), path, "layers"):
        translation.fields(item, where)
