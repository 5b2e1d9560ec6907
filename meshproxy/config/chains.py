"""Rules of filter chains that both forms obey."""

from __future__ import annotations

import math

from meshproxy.config.problems import Path, Problems
from meshproxy.model import ChainMatch, FilterChain, Listener, ListenerFilter, OriginalDst, TlsInspector
from meshproxy.model.chain_match import overlap

MOST_COMBINATIONS = 100_000
"""Of one listener's chain matches. Envoy's own table of them is of this size too."""


def with_needed_filters(
    filters: tuple[ListenerFilter, ...], chains: tuple[FilterChain, ...], use_original_dst: bool
) -> tuple[ListenerFilter, ...]:
    """With what finds out what the matches ask of a connection."""
    if needs_tls_inspector(filters, chains):
        filters = (*filters, TlsInspector())
    return with_original_dst(filters, use_original_dst)


def with_original_dst(filters: tuple[ListenerFilter, ...], use_original_dst: bool) -> tuple[ListenerFilter, ...]:
    """With what finds out which address the client meant, where it is used (Envoy adds it too)."""
    if use_original_dst and not any(isinstance(each, OriginalDst) for each in filters):
        filters = (*filters, OriginalDst())
    return filters


def needs_tls_inspector(filters: tuple[ListenerFilter, ...], chains: tuple[FilterChain, ...]) -> bool:
    """Whether a chain is for something that only a TLS inspector finds out, and there is none."""
    there = any(isinstance(each, TlsInspector) for each in filters)
    return not there and any(_asks_for_tls(chain.match) for chain in chains)


def _asks_for_tls(match: ChainMatch) -> bool:
    asks = bool(match.server_names or match.application_protocols)
    return match.transport_protocol == "tls" or (not match.transport_protocol and asks)


def check_chains(listener: Listener, paths: list[Path], problems: Problems) -> None:
    """Two chains of one name, or that the same connection would match. `paths`: one for each of `listener.chains`."""
    names: set[str] = set()
    combinations = 0
    for chain, path in zip(listener.chains, paths, strict=True):
        if chain.name and chain.name in names:
            problems.error(path, f'listener "{listener.name}": filter chain "{chain.name}" is there twice. Rename one.')
        names.add(chain.name)
        combinations += _combinations(chain.match)
        if combinations > MOST_COMBINATIONS:
            wrong = f"has more than {MOST_COMBINATIONS} combinations of match criteria. Use fewer values."
            problems.error(path, f'listener "{listener.name}" {wrong}')
            return
    if (places := overlap([chain.match for chain in listener.chains])) is not None:
        first, second = places
        wrong = f"filter chain {second + 1} matches the same connections as filter chain {first + 1}"
        problems.error(paths[second], f'listener "{listener.name}": {wrong}. Change a match or remove one.')


def _combinations(match: ChainMatch) -> int:
    several = (
        match.prefix_ranges, match.server_names, match.application_protocols, match.direct_source_prefix_ranges, match.source_prefix_ranges,
        match.source_ports,
    )
    return math.prod(max(len(values), 1) for values in several)
