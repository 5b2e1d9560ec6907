"""`/config_dump`: Envoy's envelope, with this program's model inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from meshproxy import __version__
from meshproxy.admin.redact import redact
from meshproxy.agent.view import NodeView
from meshproxy.config.envoy.write_tls import shown_secret
from meshproxy.model import Dynamic, ResourceKind
from meshproxy.model.xds import shown

Matches = Callable[[str], bool]

TYPE = "type.googleapis.com/envoy.admin.v3."
SECTIONS = {
    "static_clusters": ("ClustersConfigDump", "StaticCluster", "cluster"),
    "static_listeners": ("ListenersConfigDump", "StaticListener", "listener"),
    "static_route_configs": ("RoutesConfigDump", "StaticRouteConfig", "route_config"),
    "static_secrets": ("SecretsConfigDump", "StaticSecret", "secret"),
    "static_endpoint_configs": ("EndpointsConfigDump", "StaticEndpointConfig", "endpoint_config"),
}
"""By `?resource=`: the dump it is in, the type of one entry, and the field that holds the resource."""


def config_dump(view: NodeView, matches: Matches, resource: str = "", with_endpoints: bool = False) -> dict | None:
    """The tree to print. `matches(name)` is the name filter; `resource` picks one section; None = there is no such section."""
    if resource == "bootstrap":
        return {"configs": [_bootstrap(view)]}
    if resource:
        if resource not in SECTIONS:
            return None
        dump_type, entry_type, _ = SECTIONS[resource]
        type_url = f"{TYPE}{dump_type}.{entry_type}"
        return {"configs": [{"@type": type_url, **entry} for entry in _entries(view, resource, matches)]}
    sections = [name for name in SECTIONS if with_endpoints or name != "static_endpoint_configs"]
    return {"configs": [_bootstrap(view), *(_section(view, name, matches) for name in sections)]}


def _section(view: NodeView, name: str, matches: Matches) -> dict:
    dump: dict = {"@type": TYPE + SECTIONS[name][0]}
    if name not in ("static_route_configs", "static_secrets"):
        dump["version_info"] = view.version
    dump[name] = list(_entries(view, name, matches))
    return dump


def _entries(view: NodeView, name: str, matches: Matches) -> Iterator[dict]:
    if name == "static_secrets":
        return ({"name": each.name, "secret": shown_secret(each)} for each in view.secrets() if matches(each.name))
    field = SECTIONS[name][2]
    return ({field: _plain(value)} for value in _values(view, name) if matches(getattr(value, "name", "") or getattr(value, "cluster", "")))


def _values(view: NodeView, name: str) -> Iterable[msgspec.Struct]:
    if name == "static_clusters":
        return view.clusters()
    if name == "static_listeners":
        return view.listeners()
    if name == "static_route_configs":
        return view.route_tables()
    return (found for each in view.resources(ResourceKind.CLUSTER) if (found := view.endpoint_set(each.name)) is not None)


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
