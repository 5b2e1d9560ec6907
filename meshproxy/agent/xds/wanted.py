"""What control planes want of this node, and what came of what is asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec

from meshproxy.agent.view import NodeView
from meshproxy.clock import unix_s
from meshproxy.discovery.xds.kinds import RDS, SDS, short
from meshproxy.discovery.xds.watch import Errors, Update
from meshproxy.model import (
    Cluster,
    ConfigSource,
    Dynamic,
    ForwardAction,
    HttpConnectionManager,
    Listener,
    Resource,
    ResourceKind,
    RouteTable,
    Secret,
    TcpProxy,
)
from meshproxy.model.snapshot import unpack

MOST_LINES = 100
"""Of what is not in force: a control plane's habits show themselves in the first."""
Key = tuple[ResourceKind, str]


class Translated(Protocol):
    """A resource as the model has it, what came inside it, and what of it is not in force."""

    name: str
    resource: Any
    secrets: tuple[Secret, ...]
    tables: tuple[RouteTable, ...]
    notes: tuple[str, ...]


class Translator(Protocol):
    """`config.envoy.dynamic`. All raise ConfigError."""

    def cluster(self, packed: Any, source: ConfigSource | None) -> Translated: ...

    def listener(self, packed: Any, source: ConfigSource | None, clusters: Container[str] | None) -> Translated: ...

    def route_table(self, packed: Any, clusters: Container[str] | None) -> Translated: ...

    def endpoints(self, packed: Any) -> Translated: ...

    def secret(self, packed: Any, source: ConfigSource) -> Translated: ...


class Subscription(Protocol):
    """An interest in one kind."""

    def set_names(self, names: set[str]) -> None: ...

    def cancel(self) -> None: ...


class Xds(Protocol):
    """`agent.xds.client`. `names` None = all there is."""

    dynamic: Dynamic

    def subscribe(
        self, type_url: str, source: ConfigSource, names: set[str] | None, handler: Callable[[Update], Errors], *,
        on_missing: Callable[[str], None], on_failed: Callable[[str], None], known: dict[str, str],
    ) -> Subscription: ...

    def counters(self) -> dict[str, int]: ...

    def gauges(self) -> dict[str, int]: ...

    def close(self) -> None: ...


@dataclass
class Thing:
    """A cluster or listener as it is wanted. `resources` are it, packed, and what came inside it."""

    value: Cluster | Listener
    resources: list[Resource]
    raw: bytes
    version: str
    notes: tuple[str, ...]
    state: str = "warming"
    """warming, ready (to be put), sent, active, refused, or the file's (which has one of that name)."""
    error: str = ""
    updated_s: float = field(default_factory=unix_s)

    def secrets(self) -> dict[str, Secret]:
        """That came inside it, by name."""
        return {each.name: unpack(each) for each in self.resources if each.kind is ResourceKind.SECRET}  # type: ignore[misc]


class Came(NamedTuple):
    """A route table or secret."""

    value: Any
    raw: bytes
    version: str
    notes: tuple[str, ...]
    updated_s: float


@dataclass
class Standing:
    """How it goes with one kind of one source."""

    version: str = ""
    updated_s: float = 0.0
    refused: str = ""
    failed: str = ""


class Named:
    """One kind that is asked for by name, of one source."""

    def __init__(self) -> None:
        self.subscription: Subscription | None = None
        self.names: set[str] = set()
        self.came: dict[str, Came] = {}
        self.missed: set[str] = set()

    def is_here(self, name: str) -> bool:
        """It came, or is not waited for any more."""
        return name in self.came or name in self.missed


class Wanted:
    """All of it. What is in force is the node's view."""

    def __init__(self, view: NodeView) -> None:
        self.view = view
        self.things: dict[Key, Thing] = {}
        """Clusters and listeners."""
        self.warming: set[Key] = set()
        """Those that are not in force as they are wanted."""
        self.named: dict[tuple[str, ConfigSource], Named] = {}
        """What is asked for by name, by type URL and source."""

    def is_in_force(self, resource: Resource) -> bool:
        """Whether the node has it as it is here, or as a control plane has filled it."""
        there = self.view.resource(resource.kind, resource.name)
        if there is None:
            return False
        return there.body == resource.body or (resource.kind is ResourceKind.SECRET and unpack(resource).source is not None)

    def clusters(self) -> dict[str, Cluster]:
        """As they are wanted, and the file's."""
        clusters = {each.name: each for each in self.view.clusters() if not self.view.is_brought((ResourceKind.CLUSTER, each.name))}
        return {name: thing.value for (kind, name), thing in self.things.items() if kind is ResourceKind.CLUSTER} | clusters  # type: ignore[dict-item]

    def listeners(self) -> dict[str, Listener]:
        """As they are wanted, and the file's."""
        listeners = {each.name: each for each in self.view.listeners() if not self.view.is_brought((ResourceKind.LISTENER, each.name))}
        return {name: thing.value for (kind, name), thing in self.things.items() if kind is ResourceKind.LISTENER} | listeners  # type: ignore[dict-item]

    def secrets(self) -> dict[str, Secret]:
        """All that are named, as they are declared."""
        secrets = {each.name: each for each in self.view.secrets()}
        for thing in self.things.values():
            secrets |= thing.secrets()
        return secrets

    def filled(self, secret: Secret) -> Secret:
        """With what came."""
        if secret.source is None:
            return secret
        named = self.named.get((SDS.type_url, secret.source))
        came = named.came.get(secret.sds_name or secret.name) if named is not None else None
        if came is not None:
            return msgspec.structs.replace(secret, value=came.value.value)
        there = self.view.resource(ResourceKind.SECRET, secret.name)
        return unpack(there) if there is not None else secret  # type: ignore[return-value]

    def table(self, name: str, listeners: Iterable[Listener]) -> RouteTable | None:
        """What came of it."""
        for table, manager in rds_of(listeners):
            if table == name and (named := self.named.get((RDS.type_url, manager.rds))) is not None and name in named.came:
                return named.came[name].value  # type: ignore[no-any-return]
        return None

    def is_here(self, type_url: str, source: ConfigSource, name: str) -> bool:
        """It came, or is not waited for any more."""
        named = self.named.get((type_url, source))
        return named is not None and named.is_here(name)

    def names_of(self, thing: Thing) -> set[str]:
        """Clusters that a listener with all that is in it sends to."""
        assert isinstance(thing.value, Listener)
        tables: list[RouteTable] = [unpack(each) for each in thing.resources if each.kind is ResourceKind.ROUTE_TABLE]  # type: ignore[misc]
        return relayed_to(thing.value).union(*map(clusters_of, tables))

    def not_in_force(self) -> list[str]:
        """Parts that this proxy does without, and what was refused; at most some."""
        lines = []
        for (kind, name), thing in self.things.items():
            lines += [f'{kind.name.lower()} "{name}": {note}' for note in thing.notes]
            lines += [f'{kind.name.lower()} "{name}": {thing.error}'] if thing.error else []
        for (type_url, _), named in self.named.items():
            lines += [f'{short(type_url)} "{name}": {note}' for name, came in named.came.items() for note in came.notes]
        return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]

    def version_of(self, key: Key) -> tuple[str, float, tuple[str, ...], str] | None:
        """Of what a control plane brought: its version, when it came (UNIX time), what of it is not in force, and why it was refused."""
        if (thing := self.things.get(key)) is not None:
            return thing.version, thing.updated_s, thing.notes, thing.error
        for (type_url, _), named in self.named.items():
            if type_url == _NAMED.get(key[0]) and (came := named.came.get(key[1])) is not None:
                return came.version, came.updated_s, came.notes, ""
        return None


def clusters_of(table: RouteTable) -> set[str]:
    """Names of the clusters that it sends to."""
    actions = (route.action for host in table.virtual_hosts for route in host.routes)
    return {cluster.name for action in actions if isinstance(action, ForwardAction) for cluster in action.clusters}


def relayed_to(listener: Listener) -> set[str]:
    """Names of the clusters that its connections go to."""
    terminals = (chain.terminal for chain in listener.all_chains)
    return {cluster.name for terminal in terminals if isinstance(terminal, TcpProxy) for cluster in terminal.clusters}


def rds_of(listeners: Iterable[Listener]) -> Iterable[tuple[str, HttpConnectionManager]]:
    """Names of route tables that are asked for, each with who has it."""
    terminals = (chain.terminal for listener in listeners for chain in listener.all_chains)
    return [(each.route_table, each) for each in terminals if isinstance(each, HttpConnectionManager) and each.rds is not None]


_NAMED = {ResourceKind.ROUTE_TABLE: RDS.type_url, ResourceKind.SECRET: SDS.type_url}
