"""`/config_dump`: Envoy's envelope, with this program's model inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from meshproxy import __version__
from meshproxy.admin.node import AdminNode, Brought
from meshproxy.admin.redact import redact
from meshproxy.agent.view import NodeView
from meshproxy.config.envoy.write_tls import shown_secret
from meshproxy.model import Dynamic, ResourceKind, Secret
from meshproxy.model.snapshot import unpack
from meshproxy.model.xds import shown

Matches = Callable[[str], bool]

TYPE = "type.googleapis.com/envoy.admin.v3."


class Section(NamedTuple):
    """The dump that it is in, the type of one entry, the field that holds the resource, and which resources: of which kind and whose."""

    dump: str
    entry: str
    field: str
    kind: ResourceKind
    whose: str


SECTIONS = {
    "static_clusters": Section("ClustersConfigDump", "StaticCluster", "cluster", ResourceKind.CLUSTER, "file"),
    "dynamic_active_clusters": Section("ClustersConfigDump", "DynamicCluster", "cluster", ResourceKind.CLUSTER, "control plane"),
    "dynamic_warming_clusters": Section("ClustersConfigDump", "DynamicCluster", "cluster", ResourceKind.CLUSTER, "warming"),
    "static_listeners": Section("ListenersConfigDump", "StaticListener", "listener", ResourceKind.LISTENER, "file"),
    "dynamic_listeners": Section("ListenersConfigDump", "DynamicListener", "listener", ResourceKind.LISTENER, "control plane"),
    "static_route_configs": Section("RoutesConfigDump", "StaticRouteConfig", "route_config", ResourceKind.ROUTE_TABLE, "file"),
    "dynamic_route_configs": Section("RoutesConfigDump", "DynamicRouteConfig", "route_config", ResourceKind.ROUTE_TABLE, "control plane"),
    "static_secrets": Section("SecretsConfigDump", "StaticSecret", "secret", ResourceKind.SECRET, "file"),
    "dynamic_active_secrets": Section("SecretsConfigDump", "DynamicSecret", "secret", ResourceKind.SECRET, "control plane"),
    "static_endpoint_configs": Section("EndpointsConfigDump", "StaticEndpointConfig", "endpoint_config", ResourceKind.ENDPOINTS, "file"),
    "dynamic_endpoint_configs": Section(
        "EndpointsConfigDump", "DynamicEndpointConfig", "endpoint_config", ResourceKind.ENDPOINTS, "control plane"
    ),
}
"""By `?resource=`."""


def config_dump(node: AdminNode, matches: Matches, resource: str = "", with_endpoints: bool = False) -> dict | None:
    """The tree to print. `matches(name)` is the name filter; `resource` picks one section; None = there is no such section."""
    if resource == "bootstrap":
        return {"configs": [_bootstrap(node.view)]}
    if resource:
        if resource not in SECTIONS:
            return None
        section = SECTIONS[resource]
        type_url = f"{TYPE}{section.dump}.{section.entry}"
        return {"configs": [{"@type": type_url, **entry} for entry in _entries(node, section, matches)]}
    dumps = dict.fromkeys(section.dump for section in SECTIONS.values() if with_endpoints or section.kind is not ResourceKind.ENDPOINTS)
    return {"configs": [_bootstrap(node.view), *(_dump(node, dump, matches) for dump in dumps)]}


def _dump(node: AdminNode, name: str, matches: Matches) -> dict:
    """Sections of what control planes bring are there when something is in them, as in Envoy."""
    dump: dict = {"@type": TYPE + name}
    if name not in ("RoutesConfigDump", "SecretsConfigDump"):
        dump["version_info"] = node.view.version
    for title, section in SECTIONS.items():
        if section.dump == name and ((entries := list(_entries(node, section, matches))) or section.whose == "file"):
            dump[title] = entries
    return dump


def _entries(node: AdminNode, section: Section, matches: Matches) -> Iterator[dict]:
    if section.whose == "warming":
        warming = ((key[1], known, value) for key, known, value in node.warming() if key[0] is section.kind)
        yield from (_dynamic(section, name, value, known) for name, known, value in warming if matches(name))
        return
    for name, value in _values(node.view, section.kind):
        known = _known(node, section.kind, name)
        if (known is None) == (section.whose == "file") and matches(name):
            yield _static(section, name, value) if known is None else _dynamic(section, name, value, known)
    if section.kind is ResourceKind.LISTENER and section.whose == "control plane":
        there = {each.name for each in node.view.listeners()}
        late = ((name, known, value) for (kind, name), known, value in node.warming() if kind is section.kind and name not in there)
        yield from ({"name": name, "warming_state": _state(section, value, known)} for name, known, value in late if matches(name))


def _known(node: AdminNode, kind: ResourceKind, name: str) -> Brought | None:
    """None of what is the file's, and of routes that are in a listener."""
    if kind is ResourceKind.ENDPOINTS:
        return node.brought((ResourceKind.CLUSTER, name))
    return node.brought((kind, name))


def _values(view: NodeView, kind: ResourceKind) -> Iterable[tuple[str, msgspec.Struct]]:
    named = ResourceKind.CLUSTER if kind is ResourceKind.ENDPOINTS else kind
    for resource in view.resources(named):
        if kind is ResourceKind.ENDPOINTS:
            if (found := view.endpoint_set(resource.name)) is not None:
                yield resource.name, found
        else:
            yield resource.name, unpack(resource)


def _static(section: Section, name: str, value: msgspec.Struct) -> dict:
    shown_value = _shown(value)
    return {"name": name, section.field: shown_value} if section.kind is ResourceKind.SECRET else {section.field: shown_value}


def _dynamic(section: Section, name: str, value: msgspec.Struct, known: Brought) -> dict:
    if section.kind is ResourceKind.LISTENER:
        entry = {"name": name, "active_state": _state(section, value, known)}
        return {**entry, "error_state": {"details": known.error}} if known.error else entry
    state = _state(section, value, known)
    return {"name": name, **state} if section.kind is ResourceKind.SECRET else state


def _state(section: Section, value: msgspec.Struct, known: Brought) -> dict:
    at = datetime.fromtimestamp(known.updated_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"version_info": known.version, section.field: _shown(value), "last_updated": at}


def _shown(value: msgspec.Struct) -> dict:
    return shown_secret(value) if isinstance(value, Secret) else _plain(value)


def _bootstrap(view: NodeView) -> dict:
    settings = view.settings
    return {
        "@type": TYPE + "BootstrapConfigDump",
        "bootstrap": {
            "node": shown_node(view),
            "admin": _plain(settings.admin) if settings.admin else None,
            "stats": _plain(settings.stats),
            "log_level": settings.log_level,
            **({"dynamic": _plain(shown(settings.dynamic))} if settings.dynamic != Dynamic() else {}),
        },
        "config_file": view.state.config_file,
    }


def shown_node(view: NodeView) -> dict:
    """Who the node is, with its build."""
    node = _plain(view.settings.node)
    told = {} if "user_agent_build_version" in node else {"user_agent_version": __version__}
    return {"user_agent_name": "meshproxy", **told, **node}


def _plain(value: msgspec.Struct) -> dict:
    """The struct as a tree that can be shown. Fields at their default are left out, as everywhere in the model."""
    return redact(msgspec.to_builtins(value, builtin_types=(bytes,)))
