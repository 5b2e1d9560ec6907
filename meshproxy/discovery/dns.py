"""STRICT_DNS: every address that a host name has is an endpoint.

`StrictDns` decides and does no I/O: which names are due, what an answer changes, when to ask again. The agent asks
(`resolve`), in threads, and sends what changed. Rules are Envoy's:

- each host name of a cluster has a schedule of its own, `dns_refresh_s` after its last answer, or with `respect_dns_ttl` when that
  answer's TTL is over;
- an answer without addresses ("no such name", "no address of this family") is an answer: the name has no endpoints;
- a lookup that fails (a timeout, a server that does not answer) changes nothing; it is tried again after a wait that doubles
  from `dns_refresh_s` up to ten times of it, with jitter, so that a fleet does not ask a sick server in step.

`getaddrinfo` tells no TTL; who wants it asks by `discovery.name_servers`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from meshproxy.model import Cluster, Endpoint, EndpointSet, SocketAddress

Family = Literal["auto", "v4_only", "v6_only", "v4_preferred", "all"]


class Found(NamedTuple):
    """An answer: addresses, [] for "there are none". `ttl_s` 0: whoever answered told none."""

    addresses: list[str]
    ttl_s: int = 0


Resolve = Callable[[str, int], Found]
"""(host name, AF_INET or AF_INET6) -> the answer; OSError for "could not find out"."""

MAX_ADDRESSES = 1000
"""Of one name. A DNS message over TCP (64 KiB) holds at most some 4,000; a service that large belongs in a registry."""
LONGEST_WAIT = 10
"""The longest wait after failures, in `dns_refresh_s`; Envoy's `dns_failure_refresh_rate` has the same factor."""
LEAST_REFRESH_S = 0.001

# What getaddrinfo says when the servers answered and the answer is "none". EAI_NODATA and EAI_ADDRFAMILY are glibc's.
NO_ADDRESS = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}
V4, V6 = socket.AF_INET, socket.AF_INET6
# In the order of asking. "either": the second is asked only when the first has none.
FAMILIES: dict[Family, tuple[tuple[int, ...], bool]] = {
    "auto": ((V6, V4), True),
    "v4_preferred": ((V4, V6), True),
    "v4_only": ((V4,), False),
    "v6_only": ((V6,), False),
    "all": ((V6, V4), False),
}


def resolve(lookup: Resolve, host: str, family: Family) -> Found:
    """The addresses of a name under Envoy's `dns_lookup_family`, sorted, so that a rotating answer is no change; the least TTL of both.

    Raises OSError when a needed lookup failed and no other gave an address.
    """
    order, either = FAMILIES[family]
    addresses: list[str] = []
    ttls_s: list[int] = []
    failure: OSError | None = None
    for version in order:
        try:
            found = lookup(host, version)
        except OSError as error:
            failure = error
            continue
        addresses += found.addresses
        ttls_s += [found.ttl_s] if found.ttl_s else []
        if addresses and either:
            break
    if failure is not None and not addresses:
        raise failure
    return Found(sorted(set(addresses))[:MAX_ADDRESSES], min(ttls_s, default=0))


def system_lookup(getaddrinfo: Callable[..., list[tuple]]) -> Resolve:
    """A `Resolve` over a `getaddrinfo` (the agent's runs in gevent's threads)."""

    def lookup(host: str, family: int) -> Found:
        try:
            rows = getaddrinfo(host, None, family, socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in NO_ADDRESS:
                return Found([])
            raise
        return Found([row[4][0] for row in rows])

    return lookup


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address, which needs no lookup (a zone such as `fe80::1%eth0` included)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def names_of(cluster: Cluster) -> list[str]:
    """What has to be resolved before the cluster is complete: host names among its endpoints, each once; none of a static cluster."""
    if cluster.discovery == "static":
        return []
    hosts = [endpoint.address.host for endpoint in cluster.endpoints if isinstance(endpoint.address, SocketAddress)]
    return [host for host in dict.fromkeys(hosts) if not is_literal(host)]


@dataclass
class Name:
    """One host name of one cluster, and when to ask for it next."""

    host: str
    due_s: float
    addresses: list[str] | None = None
    """None = never answered."""
    failures: int = 0
    asking: bool = False


@dataclass(frozen=True)
class Lookup:
    """A question to be asked now. `name` is the schedule's own object: an answer to a cluster that changed meanwhile is nobody's."""

    cluster: str
    host: str
    family: Family
    by_ttl: bool
    """The answer should tell its TTL."""
    name: Name = field(repr=False, compare=False)


class Watched:
    """One STRICT_DNS cluster: its names, and the endpoints that were last told."""

    def __init__(self, cluster: Cluster, now_s: float, told: EndpointSet | None) -> None:
        self.cluster = cluster
        self.told = told
        self.names = {host: Name(host, due_s=now_s) for host in names_of(cluster)}

    def inherit(self, old: Watched) -> None:
        """Keep what is known of names that stay, so that a changed setting does not empty the cluster meanwhile."""
        for host, name in self.names.items():
            if host in old.names:
                name.addresses = old.names[host].addresses

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Each configured endpoint spread over its addresses; an address that comes twice is taken once, as in Envoy."""
        spread: dict[str, Endpoint] = {}
        for endpoint in self.cluster.endpoints:
            for place in self._places(endpoint):
                spread.setdefault(str(place.address), place)
        return tuple(spread.values())

    def _places(self, endpoint: Endpoint) -> Iterable[Endpoint]:
        address = endpoint.address
        if not isinstance(address, SocketAddress) or address.host not in self.names:
            return (endpoint,)
        return [
            Endpoint(
                address=SocketAddress(host=found, port=address.port),
                weight=endpoint.weight,
                hostname=endpoint.hostname or address.host,
                healthy=endpoint.healthy,
            )
            for found in self.names[address.host].addresses or ()
        ]

    def change(self) -> EndpointSet | None:
        """The endpoints when they differ from those told; None as long as no name has an answer and no endpoint is an IP address."""
        now = EndpointSet(cluster=self.cluster.name, endpoints=self.endpoints())
        unanswered = self.names and all(name.addresses is None for name in self.names.values())
        if now == self.told or (unanswered and not now.endpoints):
            return None
        self.told = now
        return now

    def is_warm(self) -> bool:
        """Whether each name was answered or failed once, or the node is not to wait for it."""
        return not self.cluster.wait_for_warm or all(name.addresses is not None or name.failures for name in self.names.values())


class StrictDns:
    """All STRICT_DNS clusters of the node. The owner asks `due`, resolves, and gives back `answered` or `failed`."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}

    def put(self, cluster: Cluster, now_s: float, told: EndpointSet | None = None) -> EndpointSet | None:
        """Watch a cluster, or watch its new form. `told` are the endpoints that the node has already.

        Returns endpoints to send at once: those of a cluster whose names are all literal addresses or known from its old form.
        """
        old = self._watched.get(cluster.name)
        if old is not None and old.cluster == cluster:
            return None
        new = Watched(cluster, now_s, told if old is None else old.told)
        if old is not None:
            new.inherit(old)
        self._watched[cluster.name] = new
        return new.change()

    def remove(self, cluster: str) -> None:
        """Watch it no longer; a lookup under way is forgotten."""
        self._watched.pop(cluster, None)

    def due(self, now_s: float) -> list[Lookup]:
        """What is to be asked now. Each is marked as asked until `answered` or `failed`."""
        listed = []
        for watched in self._watched.values():
            for name in watched.names.values():
                if not name.asking and name.due_s <= now_s:
                    name.asking = True
                    cluster = watched.cluster
                    listed.append(Lookup(cluster.name, name.host, cluster.dns_lookup_family, cluster.respect_dns_ttl, name))
        return listed

    def next_due_s(self) -> float | None:
        """When `due` has something next; None while nothing is watched or all is asked."""
        times = [name.due_s for watched in self._watched.values() for name in watched.names.values() if not name.asking]
        return min(times, default=None)

    def answered(self, lookup: Lookup, found: Found, now_s: float) -> EndpointSet | None:
        """Take an answer; returns the cluster's endpoints if they changed."""
        watched = self._owner(lookup)
        if watched is None:
            return None
        name = lookup.name
        name.asking, name.failures, name.addresses = False, 0, found.addresses
        wait_s = found.ttl_s if lookup.by_ttl and found.ttl_s else watched.cluster.dns_refresh_s
        name.due_s = now_s + max(wait_s, LEAST_REFRESH_S)
        return watched.change()

    def failed(self, lookup: Lookup, now_s: float, random: float) -> None:
        """Take a failure: the last endpoints stay. `random` in [0, 1) spreads the next try over the upper half of the wait."""
        watched = self._owner(lookup)
        if watched is None:
            return
        name = lookup.name
        longest = max(watched.cluster.dns_refresh_s, LEAST_REFRESH_S) * min(2**name.failures, LONGEST_WAIT)
        name.asking, name.failures = False, min(name.failures + 1, LONGEST_WAIT)
        name.due_s = now_s + longest * (0.5 + random / 2)

    def is_warm(self) -> bool:
        """Whether every cluster is."""
        return all(watched.is_warm() for watched in self._watched.values())

    def is_warm_of(self, cluster: str) -> bool:
        """Whether this one is, or is not watched."""
        watched = self._watched.get(cluster)
        return watched is None or watched.is_warm()

    def _owner(self, lookup: Lookup) -> Watched | None:
        watched = self._watched.get(lookup.cluster)
        return watched if watched is not None and watched.names.get(lookup.host) is lookup.name else None
