"""A small bootstrap in Envoy's form that tests change in one place."""

from __future__ import annotations

import copy
from typing import Any

HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "envoy.extensions.filters.http.router.v3.Router"
URL = "type.googleapis.com/"
MANAGER = "static_resources.listeners.0.filter_chains.0.filters.0.typed_config"
HOST = f"{MANAGER}.route_config.virtual_hosts.0"
ROUTE = f"{HOST}.routes.0"
LISTENER = "static_resources.listeners.0"
CLUSTER = "static_resources.clusters.0"
ENDPOINT = f"{CLUSTER}.load_assignment.endpoints.0.lb_endpoints.0"
REMOVE = object()

_GOOD: dict[str, Any] = {
    "static_resources": {
        "listeners": [
            {
                "name": "in",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 10000}},
                "filter_chains": [
                    {
                        "filters": [
                            {
                                "name": "hcm",
                                "typed_config": {
                                    "@type": URL + HCM,
                                    "stat_prefix": "in",
                                    "route_config": {
                                        "name": "r",
                                        "virtual_hosts": [
                                            {
                                                "name": "all",
                                                "domains": ["*"],
                                                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "web"}}],
                                            }
                                        ],
                                    },
                                    "http_filters": [{"name": "router", "typed_config": {"@type": URL + ROUTER}}],
                                },
                            }
                        ]
                    }
                ],
            }
        ],
        "clusters": [
            {
                "name": "web",
                "type": "STATIC",
                "load_assignment": {
                    "cluster_name": "web",
                    "endpoints": [
                        {
                            "lb_endpoints": [
                                {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}}}},
                            ]
                        }
                    ],
                },
            }
        ],
    },
}


def good() -> dict[str, Any]:
    return copy.deepcopy(_GOOD)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The good one with values set at dotted places; numbers are list indexes, `+` appends, REMOVE takes out."""
    data = good()
    for place, value in changes.items():
        *parents, last = place.split(".")
        at: Any = data
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
        if value is REMOVE:
            del at[int(last) if isinstance(at, list) else last]
        elif isinstance(at, list):
            at.append(value) if last == "+" else at.__setitem__(int(last), value)
        else:
            at[last] = value
    return data


def any_of(name: str, /, **fields: Any) -> dict[str, Any]:
    return {"@type": URL + name, **fields}
