"""What a reload would do: the difference of two configurations as steps, in the order in which they are applied.

Pure, and of the model alone, so that `meshproxy check --plan` prints exactly what the master does. New clusters come before routes that
name them and those before listeners; removals go the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from meshproxy.model import Listener, ResourceKind, RouteTable, Snapshot, VirtualHost
from meshproxy.model.cluster import without_tokens
from meshproxy.model.discovery import node_without_token
from meshproxy.model.route import table_without_token
from meshproxy.model.snapshot import without_call_metadata
from meshproxy.model.tls import without_keys
from meshproxy.model.xds import shown

MOST_REASONS = 8
"""A change of everything is said by its first differences."""

NEEDS_RESTART = ("workers", "user", "group", "control", "pid_file")
"""Fields of Process that a running master does not change. `workers` it could (TTIN, TTOU), but a file is not asked twice."""
_REBIND = ("addresses", "backlog", "ipv6_only", "freebind", "transparent", "bind_to_port")
_NOUNS = {
    ResourceKind.SECRET: "secret",
    ResourceKind.CLUSTER: "cluster",
    ResourceKind.ROUTE_TABLE: "route table",
    ResourceKind.LISTENER: "listener",
}
_MAKING = (ResourceKind.SECRET, ResourceKind.CLUSTER, ResourceKind.ROUTE_TABLE, ResourceKind.LISTENER)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a reload does.

    `kind` None: a setting of the node, `name` is its field. Action `move`: a listener gets other addresses; `restart`: the setting is
    not taken over by a reload, and the old one stays until the node starts anew. `reasons` say what differs, for people.
    """

    action: Literal["add", "change", "move", "remove", "restart"]
    kind: ResourceKind | None
    name: str
    reasons: tuple[str, ...] = ()
    rebinds: bool = False
    """Listening sockets are made anew, for other addresses or socket options."""

    def __str__(self) -> str:
        thing = f'{_NOUNS[self.kind]} "{self.name}"' if self.kind is not None else f"setting {self.name}"
        text = f"{self.action} {thing}"
        if self.action == "restart":
            text = f"{thing} needs a restart to take effect"
        return f"{text}: {'; '.join(self.reasons)}" if self.reasons else text


def plan(old: Snapshot, new: Snapshot) -> list[Step]:
    """The steps from `old` to `new`, in the order of applying; none when nothing differs. An empty Snapshot makes everything new."""
    before, after = _resources(old), _resources(new)
    steps = _settings(old, new)
    removed = []
    for kind in _MAKING:
        for name, value in after[kind].items():
            step = _step(kind, name, before[kind].get(name), value)
            if step is not None:
                steps.append(step)
        removed += [
            Step(action="remove", kind=kind, name=name, reasons=_addresses(value))
            for name, value in before[kind].items() if name not in after[kind]
        ]
    removed.sort(key=lambda step: -int(step.kind or 0))
    return steps + removed


def text_of(steps: list[Step]) -> str:
    """The plan as `check --plan` prints it, a step a line."""
    return "\n".join(str(step) for step in steps) if steps else "nothing changes"


def _resources(snapshot: Snapshot) -> dict[ResourceKind, dict[str, msgspec.Struct]]:
    return {
        ResourceKind.SECRET: {secret.name: without_keys(secret) for secret in snapshot.secrets},
        ResourceKind.CLUSTER: {cluster.name: without_tokens(cluster) for cluster in snapshot.clusters},
        ResourceKind.ROUTE_TABLE: {table.name: _of_file(table) for table in snapshot.route_tables},
        ResourceKind.LISTENER: {listener.name: without_call_metadata(listener) for listener in snapshot.listeners},
    }


def _of_file(table: RouteTable) -> RouteTable:
    """As it may be shown, without what a catalogue added at run time."""
    hosts = tuple(host for host in table.virtual_hosts if not host.name.startswith(VirtualHost.OF_CATALOG))
    return table_without_token(msgspec.structs.replace(table, virtual_hosts=hosts) if table.catalog is not None else table)


def _step(kind: ResourceKind, name: str, old: msgspec.Struct | None, new: msgspec.Struct) -> Step | None:
    if old is None:
        return Step(action="add", kind=kind, name=name, reasons=_addresses(new), rebinds=kind is ResourceKind.LISTENER)
    if old == new:
        return None
    rebinds = isinstance(new, Listener) and any(getattr(old, field) != getattr(new, field) for field in _REBIND)
    moved = isinstance(new, Listener) and isinstance(old, Listener) and old.addresses != new.addresses
    return Step(action="move" if moved else "change", kind=kind, name=name, reasons=tuple(differences(old, new)), rebinds=rebinds)


def _addresses(value: msgspec.Struct) -> tuple[str, ...]:
    return (", ".join(str(address) for address in value.addresses),) if isinstance(value, Listener) else ()


def _settings(old: Snapshot, new: Snapshot) -> list[Step]:
    steps = []
    for field in Snapshot.__struct_fields__:
        one, other = getattr(old, field), getattr(new, field)
        if field == "consul":
            one, other = node_without_token(one), node_without_token(other)
        if field == "dynamic":
            one, other = shown(one), shown(other)
        if field in ("listeners", "route_tables", "clusters", "secrets", "process") or one == other:
            continue
        action: Literal["add", "change", "remove"] = "add" if one is None else "remove" if other is None else "change"
        steps.append(Step(action=action, kind=None, name=field, reasons=tuple(differences(one, other)) if action == "change" else ()))
    for field in old.process.__struct_fields__:
        one, other = getattr(old.process, field), getattr(new.process, field)
        if one != other:
            action_here: Literal["restart", "change"] = "restart" if field in NEEDS_RESTART else "change"
            steps.append(Step(action=action_here, kind=None, name=field, reasons=(f"{_short(one)} -> {_short(other)}",)))
    return steps


def differences(old: Any, new: Any) -> list[str]:
    """What differs between two model values of one type, a line each: fields of structs, members of lists by their names."""
    found = _differences(old, new, "")
    left_out = len(found) - MOST_REASONS
    return found if left_out <= 0 else [*found[:MOST_REASONS], f"and {left_out} differences more"]


def _differences(old: Any, new: Any, place: str) -> list[str]:
    if old == new:
        return []
    if isinstance(old, msgspec.Struct) and type(old) is type(new) and not _is_text(old):
        prefix = f"{place}." if place else ""
        inside = [_differences(getattr(old, field), getattr(new, field), prefix + field) for field in old.__struct_fields__]
        return [line for lines in inside for line in lines]
    if isinstance(old, tuple) and isinstance(new, tuple):
        return _members(old, new, place)
    if isinstance(old, bytes) and isinstance(new, bytes):
        # May be a key: nobody is shown any of it.
        return [f"{place} is another"]
    return [f"{place} {_short(old)} -> {_short(new)}" if place else f"{_short(old)} -> {_short(new)}"]


def _members(old: tuple, new: tuple, place: str) -> list[str]:
    """Lists of things with names are compared by name, others by position or, when their lengths differ, by count."""
    before, after = _by_name(old), _by_name(new)
    if before is None or after is None:
        if len(old) != len(new) or not all(isinstance(item, msgspec.Struct) for item in (*old, *new)):
            gone, come = [item for item in old if item not in new], [item for item in new if item not in old]
            return [f"{place} +{len(come)} -{len(gone)}" if come or gone else f"{place} in another order"]
        pairs = zip(old, new, strict=True)
        return [line for index, (one, other) in enumerate(pairs) for line in _differences(one, other, f"{place}[{index}]")]
    found = [f"{place} +{name}" for name in after if name not in before] + [f"{place} -{name}" for name in before if name not in after]
    for name, value in after.items():
        if name in before:
            found += _differences(before[name], value, f"{place}[{name}]")
    return found or [f"{place} in another order"]


def _by_name(items: tuple) -> Mapping[str, Any] | None:
    """By name or address, when every item has one of its own."""
    named = {}
    for item in items:
        name = str(getattr(item, "name", "") or getattr(item, "address", ""))
        if not name or name in named:
            return None
        named[name] = item
    return named


def _is_text(value: msgspec.Struct) -> bool:
    """Whether it is best told as one word, like an address."""
    return "__str__" in type(value).__dict__


def _short(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        text = str(value) if _is_text(value) else type(value).__name__
    else:
        text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
