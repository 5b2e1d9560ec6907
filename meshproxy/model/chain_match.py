"""Chain matches as a tree of decisions in Envoy's order: the most specific value of a criterion wins before the next is looked at, and
there is no way back. Compiled by workers; a configuration whose chains overlap is refused with `overlap`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

from meshproxy.model.listener import ChainMatch

LEVELS = (
    "destination_port", "prefix_ranges", "server_names", "transport_protocol", "application_protocols", "direct_source_prefix_ranges",
    "source_type", "source_prefix_ranges", "source_ports",
)
"""Fields of ChainMatch in the order in which they decide."""
RANGES = {"prefix_ranges", "direct_source_prefix_ranges", "source_prefix_ranges"}

Range = tuple[int, int, bytes]
"""(family, length of the prefix, its bytes): (4, 8, b"\\x0a\\0\\0\\0")."""
EVERYWHERE: tuple[Range, Range] = ((4, 0, bytes(4)), (6, 0, bytes(16)))
Key = int | str | Range
ANY: dict[str, Key] = {
    "destination_port": 0, "server_names": "", "transport_protocol": "", "application_protocols": "", "source_type": "any",
    "source_ports": 0,
}
"""The key of what every connection passes that has nothing more specific; for ranges these are EVERYWHERE."""


@dataclass(frozen=True, eq=False)
class Fork:
    """One decision. A criterion that no chain under it names is not a decision and is left out."""

    criterion: str
    branches: dict[Key, Tree]
    """A server name's key is lower case, `*.a.b` is ".a.b"."""


Tree = Fork | int
"""The place of the chain, at the end."""


class OverlapError(Exception):
    """Two matches have a connection in common that neither is more specific for; the arguments are their places."""


def tree_of(matches: Sequence[ChainMatch]) -> Tree | None:
    """None when there are no matches. Raises OverlapError."""
    if not matches:
        return None
    keys = [[_keys(match, criterion) for criterion in LEVELS] for match in matches]
    return _grow(0, tuple(range(len(matches))), keys, {})


def overlap(matches: Sequence[ChainMatch]) -> tuple[int, int] | None:
    """The places of the first two matches that overlap; None when none do."""
    try:
        tree_of(matches)
    except OverlapError as error:
        return error.args
    return None


def _grow(level: int, places: tuple[int, ...], keys: list[list[tuple[Key, ...]]], grown: dict[tuple[int, tuple[int, ...]], Tree]) -> Tree:
    """Equal sets of chains share one tree, so that what does not decide can be seen and left out."""
    if level == len(LEVELS):
        if len(places) > 1:
            raise OverlapError(*places[:2])
        return places[0]
    known = grown.get((level, places))
    if known is not None:
        return known
    holders: dict[Key, list[int]] = {}
    for place in places:
        for key in keys[place][level]:
            holders.setdefault(key, []).append(place)
    branches = {key: _grow(level + 1, tuple(held), keys, grown) for key, held in holders.items()}
    criterion = LEVELS[level]
    tree: Tree = Fork(criterion, branches)
    if branches.keys() == set(any_keys(criterion)) and len(set(map(id, branches.values()))) == 1:
        tree = next(iter(branches.values()))
    grown[level, places] = tree
    return tree


def any_keys(criterion: str) -> tuple[Key, ...]:
    return EVERYWHERE if criterion in RANGES else (ANY[criterion],)


def _keys(match: ChainMatch, criterion: str) -> tuple[Key, ...]:
    value = getattr(match, criterion)
    values: Iterable[int | str] = value if isinstance(value, tuple) else (value,)
    if criterion in RANGES:
        return tuple(dict.fromkeys(map(_range, values))) or EVERYWHERE
    if criterion == "server_names":
        values = (name.lower().removeprefix("*") for name in values)
    return tuple(dict.fromkeys(values)) or any_keys(criterion)


def _range(text: str | int) -> Range:
    network = ip_network(text, strict=False)
    family = 4 if isinstance(network, IPv4Network) else 6
    return family, network.prefixlen, network.network_address.packed
