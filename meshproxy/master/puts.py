"""What control planes brought, beside the file: what of a put is to be done, and what of it outlives another file. Pure.

The file has the last word: a control plane cannot change or remove what has a name of the file's. A secret that the file only says where
to ask for is the control plane's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from meshproxy.ipc.messages import NodeSettings, PutResources, Refusal
from meshproxy.model import Cluster, HttpConnectionManager, Listener, Resource, ResourceKind, RouteTable, Secret, VirtualHost
from meshproxy.model.snapshot import pack, unpack

Key = tuple[ResourceKind, str]


@dataclass
class Asked:
    """A put, and what of it was refused until now. Its answer is for the agent with this pid alone."""

    put: PutResources
    agent: int
    refused: list[Refusal] = field(default_factory=list)

    def without(self, refused: Iterable[Refusal]) -> Asked:
        """The same without resources that were refused."""
        told = list(refused)
        keys = {(each.kind, each.name) for each in told}
        upserts = [each for each in self.put.upserts if (each.kind, each.name) not in keys]
        return Asked(msgspec.structs.replace(self.put, upserts=upserts), self.agent, self.refused + told)


class Plan(NamedTuple):
    """What a put changes. `left` is what the file has the last word on."""

    upserts: list[Resource]
    removes: list[Key]
    left: list[Key]


def is_brought(resource: Resource) -> bool:
    """Whether it did not come with the file."""
    return resource.origin != ""


def plan(put: PutResources, get: Callable[[Key], Resource | None]) -> Plan:
    """`get` gives what is in force. What is there already, byte for byte, is no change; endpoints of no cluster are dropped."""
    upserts: list[Resource] = []
    left: list[Key] = []
    clusters = {each.name for each in put.upserts if each.kind is ResourceKind.CLUSTER}
    gone = {(ResourceKind(kind), name) for kind, name in put.removes}
    for resource in put.upserts:
        key = resource.kind, resource.name
        before = get(key)
        if resource.kind is ResourceKind.ENDPOINTS:
            owner = (ResourceKind.CLUSTER, resource.name)
            if resource.name not in clusters and (owner in gone or get(owner) is None):
                continue
        elif before is not None and before.origin != put.origin and not is_asked_for(before, put.origin):
            left.append(key)
            continue
        else:
            resource = msgspec.structs.replace(resource, origin=put.origin)
        gone.discard(key)
        if before is None or before.body != resource.body or before.origin != resource.origin:
            upserts.append(resource)
    removes = []
    for key in sorted(gone):
        there = get(key)
        if there is None:
            continue
        if key[0] is ResourceKind.ENDPOINTS or there.origin == put.origin:
            removes.append(key)
            if key[0] is ResourceKind.CLUSTER and get(endpoints := (ResourceKind.ENDPOINTS, key[1])) and endpoints not in gone:
                removes.append(endpoints)
        else:
            left.append(key)
    return Plan(upserts, removes, left)


def is_asked_for(resource: Resource, origin: str) -> bool:
    """A secret that the file says only where to ask for; a route table of the file's that the catalogue adds to."""
    if resource.kind not in (ResourceKind.SECRET, ResourceKind.ROUTE_TABLE) or is_brought(resource):
        return False
    value = unpack(resource)
    if isinstance(value, RouteTable):
        return origin == "consul" and value.catalog is not None
    return origin == "xds" and isinstance(value, Secret) and value.source is not None


class Kept(NamedTuple):
    """What outlives another file: resources to have beside the file's, and lines about what does not."""

    resources: list[Resource]
    told: list[str]


def keep(table: Iterable[Resource], file: list[Resource], settings: NodeSettings, taken: Callable[[Listener, list[Listener]], str]) -> Kept:
    """Of `table`, beside `file`. `taken` tells whose address a listener wants, "" = nobody's.

    Clusters and listeners stay while the file says where they come from; route tables and secrets while somebody names them. A route table
    of the file's that the catalogue adds to keeps what was added.
    """
    table = list(table)
    catalogued = _catalogued(table, file)
    tables = [unpack(each) for each in file if each.kind is ResourceKind.ROUTE_TABLE]
    with_catalog = any(isinstance(each, RouteTable) and each.catalog is not None for each in tables)
    names = {(each.kind, each.name): each for each in file}
    listeners: list[Listener] = [unpack(each) for each in file if each.kind is ResourceKind.LISTENER]  # type: ignore[misc]
    own = list(listeners)
    clusters: list[Cluster] = [unpack(each) for each in file if each.kind is ResourceKind.CLUSTER]  # type: ignore[misc]
    sources = {ResourceKind.CLUSTER: settings.dynamic.cds, ResourceKind.LISTENER: settings.dynamic.lds}
    resources: list[Resource] = []
    told: list[str] = []
    brought = [each for each in table if is_brought(each)]
    for each in brought:
        if each.origin == "consul":
            if each.kind is not ResourceKind.CLUSTER or not with_catalog or (each.kind, each.name) in names:
                continue
        elif each.kind not in sources or sources[each.kind] is None:
            continue
        if (each.kind, each.name) in names:
            told.append(f'{each.kind.name.lower()} "{each.name}": the file has one of this name now, and the control plane\'s goes')
            continue
        value = unpack(each)
        if isinstance(value, Listener):
            if owner := taken(value, own):
                told.append(f'listener "{each.name}" of the control plane goes: {owner} of the file has its address now')
                continue
            listeners.append(value)
        elif isinstance(value, Cluster):
            clusters.append(value)
        resources.append(each)
    wanted = {(ResourceKind.ROUTE_TABLE, name) for name in route_tables_of(listeners)}
    wanted |= {(ResourceKind.SECRET, name) for name in secrets_of(listeners, clusters)}
    for each in brought:
        key = each.kind, each.name
        if each.origin == "xds" and key in wanted and (key not in names or _is_the_one_asked_for(each, names[key])):
            resources.append(each)
    return Kept(resources + catalogued, told)


def _catalogued(table: Iterable[Resource], file: list[Resource]) -> list[Resource]:
    """Route tables of the file with what the catalogue added to those of their names."""
    there = {each.name: each for each in table if each.kind is ResourceKind.ROUTE_TABLE and each.origin == "consul"}
    made = []
    for each in file:
        if each.kind is not ResourceKind.ROUTE_TABLE or each.name not in there:
            continue
        fresh, before = unpack(each), unpack(there[each.name])
        if isinstance(fresh, RouteTable) and isinstance(before, RouteTable) and fresh.catalog is not None:
            taken = {domain.lower() for host in fresh.virtual_hosts for domain in host.domains}
            found = [host for host in before.virtual_hosts if host.name.startswith(VirtualHost.OF_CATALOG)]
            found = [host for host in found if not taken & set(host.domains)]
            whole = msgspec.structs.replace(fresh, virtual_hosts=(*fresh.virtual_hosts, *found))
            made.append(msgspec.structs.replace(pack(each.kind, each.name, whole), origin="consul"))
    return made


def _is_the_one_asked_for(brought: Resource, asked: Resource) -> bool:
    """Whether this is what the file's own secret waits for."""
    if brought.kind is not ResourceKind.SECRET:
        return False
    has, wants = unpack(brought), unpack(asked)
    return isinstance(has, Secret) and isinstance(wants, Secret) and wants.source is not None and has.source == wants.source


def route_tables_of(listeners: Iterable[Listener]) -> set[str]:
    """Names of the tables that these have, by RDS too."""
    terminals = [chain.terminal for listener in listeners for chain in listener.all_chains]
    return {each.route_table for each in terminals if isinstance(each, HttpConnectionManager)}


def secrets_of(listeners: Iterable[Listener], clusters: Iterable[Cluster]) -> set[str]:
    """Names of the secrets that these have."""
    downstream = [chain.tls for listener in listeners for chain in listener.all_chains if chain.tls is not None]
    upstream = [cluster.tls for cluster in clusters if cluster.tls is not None]
    names = {name for tls in downstream for name in (*tls.certificates, tls.ticket_keys)} | {tls.certificate for tls in upstream}
    names |= {tls.validation.trusted_ca for tls in (*downstream, *upstream) if tls.validation is not None}
    return names - {""}
