"""What the choice of a filter chain must say: at each criterion, of the chains that are left keep those with the most specific value that
fits the connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from meshproxy.model import ChainMatch

Ip = IPv4Address | IPv6Address


class Place(NamedTuple):
    """`ip` None = a UNIX socket."""

    ip: Ip | None
    port: int


class Connection(NamedTuple):
    local: Place
    remote: Place
    direct_remote: Place
    sni: str | None = None
    transport_protocol: str | None = None
    offered_alpn: tuple[str, ...] | None = None


def choose(matches: Sequence[ChainMatch], connection: Connection) -> int | None:
    """The place of the chain."""
    left = list(range(len(matches)))
    for values_of, wanted in criteria(connection):
        values = {place: values_of(matches[place]) for place in left}
        best = next((value for value in wanted if any(value in values[place] for place in left)), None)
        left = [place for place in left if best in values[place]]
    assert len(left) <= 1, "the matches overlap"
    return left[0] if left else None


def criteria(connection: Connection) -> Iterator[tuple[Callable[[ChainMatch], tuple], list]]:
    """Of each criterion: a match's values, and those that fit the connection, the most specific first."""
    yield lambda match: (match.destination_port,), [connection.local.port, 0]
    yield lambda match: ranges(match.prefix_ranges), around(connection.local.ip)
    yield lambda match: tuple(name.lower() for name in match.server_names) or ("",), [*names(connection.sni), ""]
    yield lambda match: (match.transport_protocol,), [connection.transport_protocol or "raw_buffer", ""]
    yield lambda match: match.application_protocols or ("",), [*(connection.offered_alpn or ()), ""]
    yield lambda match: ranges(match.direct_source_prefix_ranges), around(connection.direct_remote.ip)
    yield lambda match: (match.source_type,), [source_type(connection), "any"]
    yield lambda match: ranges(match.source_prefix_ranges), around(connection.remote.ip)
    yield lambda match: match.source_ports or (0,), [connection.remote.port, 0]


def ranges(texts: tuple[str, ...]) -> tuple:
    return tuple(ip_network(text, strict=False) for text in texts or ("0.0.0.0/0", "::/0"))


def around(ip: Ip | None) -> list:
    ip = ip or ip_address("255.255.255.255")
    return [ip_network((ip, bits), strict=False) for bits in range(ip.max_prefixlen, -1, -1)]


def names(sni: str | None) -> list[str]:
    labels = (sni or "").split(".")
    return [sni or "", *("*." + ".".join(labels[at:]) for at in range(1, len(labels)) if labels[-1])]


def source_type(connection: Connection) -> str:
    remote = connection.remote.ip
    is_near = remote is None or remote in (ip_address("127.0.0.1"), ip_address("::1")) or remote == connection.local.ip
    return "same_ip_or_loopback" if is_near else "external"
