"""Which of the two forms a configuration is in."""

from __future__ import annotations

from typing import Any, Literal

_ENVOY_KEYS = {
    "static_resources", "staticResources", "dynamic_resources", "dynamicResources", "layered_runtime", "layeredRuntime",
    "bootstrap_extensions", "cluster_manager", "clusterManager", "overload_manager", "overloadManager", "stats_sinks", "statsSinks",
}
"""Top-level keys that only Envoy's form has."""


def form_of(data: Any) -> Literal["native", "envoy"]:
    """Told by the content: Envoy's top-level keys, or an `admin` or `node` as only Envoy writes them."""
    if not isinstance(data, dict):
        return "native"
    admin = data.get("admin")
    address = admin.get("address") if isinstance(admin, dict) else None
    if _ENVOY_KEYS & data.keys() or (isinstance(address, dict) and address.keys() & {"socket_address", "socketAddress", "pipe"}):
        return "envoy"
    return "native"
