"""Every service of Consul's catalogue as a cluster with a route. Decides, and does no I/O.

A service is its own cluster, found by `discovery.consul`; the route table gets a virtual host for each, behind those of the file. Virtual
hosts of services are known by their names, so that a table tells what of it is the file's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from meshproxy.model import (
    Cluster,
    ConsulCatalog,
    ConsulService,
    ForwardAction,
    PathMatch,
    Route,
    RouteTable,
    VirtualHost,
    WeightedCluster,
)

OWN_SERVICE = "consul"
"""Consul's servers themselves: nobody sends requests there by this way."""
_PROTOCOLS = {"http": "http1", "http1": "http1", "http/1.1": "http1", "http2": "http2", "h2": "http2", "grpc": "http2", "tcp": "tcp"}
"""Words of the meta datum `protocol` -> a cluster's protocol; for `tcp` there is a cluster and no route."""


def selected(services: Mapping[str, Any], catalog: ConsulCatalog) -> list[str]:
    """Names of the services that count, in order. `services`: name -> tags, as Consul lists them; raises ValueError for another shape."""
    found = []
    for name, tags in services.items():
        if not isinstance(tags, list):
            raise ValueError(f"service {name}: its tags are no list")
        if name == OWN_SERVICE or any(fnmatchcase(name, each) for each in catalog.exclude):
            continue
        if catalog.only and not any(fnmatchcase(name, each) for each in catalog.only):
            continue
        if set(catalog.tags) <= set(tags):
            found.append(name)
    return sorted(found)


def protocol_of(instances: Iterable[Any]) -> str:
    """What most of the instances say that they speak, by their meta data; "" when none does."""
    said: Counter[str] = Counter()
    for row in instances:
        service = row.get("Service") if isinstance(row, dict) else None
        meta = service.get("Meta") if isinstance(service, dict) else None
        word = meta.get("protocol") if isinstance(meta, dict) else None
        if isinstance(word, str) and word.lower() in _PROTOCOLS:
            said[_PROTOCOLS[word.lower()]] += 1
    return min(said, key=lambda word: (-said[word], word)) if said else ""


def cluster_for(service: str, catalog: ConsulCatalog, like: Cluster | None, protocol: str) -> Cluster:
    """The service's cluster: as the cluster `like`, where there is one, with its own endpoints and protocol."""
    source = ConsulService(
        service=service, tags=catalog.tags, datacenter=catalog.datacenter, checks=catalog.checks, consistency=catalog.consistency,
        server=catalog.server,
    )
    made = msgspec.structs.replace(
        like or Cluster(name=service), name=service, discovery="found", endpoints=(), sources=(source,), alt_stat_name="",
        keep_last_s=catalog.keep_last_s,
    )
    return msgspec.structs.replace(made, protocol=protocol) if protocol in ("http1", "http2") else made


def table_for(table: RouteTable, services: Mapping[str, str]) -> RouteTable:
    """The table with routes to exactly these services (name -> protocol). Hosts that the file has are the file's."""
    assert table.catalog is not None
    base = of_file(table)
    taken = {domain.lower() for host in base for domain in host.domains}
    hosts = []
    for service, protocol in sorted(services.items()):
        if protocol == "tcp":
            continue
        domains = [domain for each in table.catalog.domains if (domain := each.replace("{service}", service.lower())) not in taken]
        taken.update(domains)
        if domains:
            hosts.append(_host(service, tuple(domains), table.catalog))
    return msgspec.structs.replace(table, virtual_hosts=(*base, *hosts))


def of_file(table: RouteTable) -> tuple[VirtualHost, ...]:
    """The virtual hosts that stand in the file."""
    return tuple(host for host in table.virtual_hosts if not host.name.startswith(VirtualHost.OF_CATALOG))


def of_services(table: RouteTable) -> set[str]:
    """The services that it has routes to."""
    names = (host.name for host in table.virtual_hosts if host.name.startswith(VirtualHost.OF_CATALOG))
    return {name.removeprefix(VirtualHost.OF_CATALOG) for name in names}


def _host(service: str, domains: tuple[str, ...], catalog: ConsulCatalog) -> VirtualHost:
    action = ForwardAction(clusters=(WeightedCluster(name=service),), timeout_s=catalog.timeout_s)
    route = Route(path=PathMatch("prefix", "/"), action=action)
    return VirtualHost(name=f"{VirtualHost.OF_CATALOG}{service}", domains=domains, routes=(route,), retry=catalog.retry)
