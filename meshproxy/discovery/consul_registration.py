"""What the node tells Consul that it is: instances of services, with checks. Decides, and does no I/O."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

from meshproxy.model import ConsulRegistration, SocketAddress

TTL_INTERVALS = 3
"""An instance whose agent was silent for so many intervals is critical: one that is lost, or an agent that starts anew, is no reason."""
TIMEOUT_S = 5.0
"""For an answer to Consul's own checks; at most the interval."""
_COMPARED = ("Service", "Address", "Port", "Tags", "Meta", "Weights")


class Instance(NamedTuple):
    """One to register. `body` is Consul's registration without the checks' status, so that it is the same as long as nothing is changed."""

    registration: ConsulRegistration
    id: str
    address: str
    """For people: `10.0.0.5:80`, `:80` where Consul's node has the address."""
    body: dict[str, Any]

    @property
    def ttl_check(self) -> str:
        """The check that has to be kept alive; "" = none."""
        return check_id(self.id, "ttl") if "ttl" in self.registration.checks else ""

    @property
    def check_ids(self) -> set[str]:
        return {check_id(self.id, kind) for kind in self.registration.checks}

    def with_status(self, status: str) -> dict[str, Any]:
        """The registration with what the checks say before they were made once."""
        return {**self.body, "Checks": [{**check, "Status": status} for check in self.body["Checks"]]}

    def stale(self, checks: set[str]) -> set[str]:
        """Those of `checks` that are of a former registration of ours."""
        return {check_id(self.id, kind) for kind in ("ttl", "ready", "tcp")} & checks - self.check_ids


def check_id(instance: str, kind: str) -> str:
    return f"{instance}:{kind}"


def instance_of(registration: ConsulRegistration, bound: SocketAddress | None, admin: SocketAddress | None, node: str) -> Instance | None:
    """What is registered while the listener is bound to `bound`; None for one that has no address now. `node` tells it from others'."""
    if registration.listener and bound is None:
        return None
    own = bound.host if bound is not None and not _is_wildcard(bound.host) else ""
    host, port = registration.address or own, registration.port or (bound.port if bound is not None else 0)
    name = registration.id or f"{registration.service}-{node}"
    every = _seconds(registration.interval_s)
    common: dict[str, Any] = {"Interval": every, "Timeout": _seconds(min(TIMEOUT_S, registration.interval_s))}
    reached = host or ("::1" if bound is not None and ":" in bound.host else "127.0.0.1")
    kinds: dict[str, dict[str, Any]] = {
        "ttl": {"Name": "meshproxy serves", "TTL": _seconds(registration.interval_s * TTL_INTERVALS)},
        "ready": {"Name": "meshproxy is ready", "HTTP": f"http://{_local(admin)}/ready", **common},
        "tcp": {"Name": "the listener accepts", "TCP": _joined(reached, port), **common},
    }
    ends = {"DeregisterCriticalServiceAfter": _seconds(registration.deregister_after_s)} if registration.deregister_after_s else {}
    body = {
        "ID": name, "Name": registration.service, "Address": host, "Port": port, "Tags": list(registration.tags),
        "Meta": dict(registration.meta), "Weights": {"Passing": registration.weight, "Warning": registration.warning_weight},
        "Checks": [{"CheckID": check_id(name, kind), **kinds[kind], **ends} for kind in registration.checks],
    }  # fmt: skip
    return Instance(registration, name, _joined(host, port), body)


def differs(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What Consul has otherwise than it was told: the field's name; "" = nothing."""
    told = {**wanted, "Service": wanted["Name"]}
    return next((field for field in _COMPARED if (found.get(field) or None) != (told[field] or None)), "")


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _local(admin: SocketAddress | None) -> str:
    if admin is None:
        return "127.0.0.1"
    loopback = "[::1]" if ":" in admin.host else "127.0.0.1"
    return f"{loopback}:{admin.port}" if _is_wildcard(admin.host) else str(admin)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _seconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
