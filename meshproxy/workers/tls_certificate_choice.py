"""Which certificates a server shows for a server name: Envoy's rules, worked out for every name when the configuration changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Places = tuple[int, ...]
"""Places in the list of certificates, at most one for each key type."""


class Choices(NamedTuple):
    """What to show for a name: `exact`, else `suffixes` by what stands behind the name's first label, else `mismatched`."""

    exact: dict[bytes, Places]
    suffixes: dict[bytes, Places]
    nameless: Places
    mismatched: Places


def choices(certificates: Sequence[tuple[Sequence[bytes], bool]], full_scan: bool) -> Choices:
    """`certificates`: the names of each and whether its key is ECDSA. `full_scan`: a name that none has is served as no name is."""
    exact: dict[bytes, list[int]] = {}
    suffixes: dict[bytes, list[int]] = {}
    for place, (names, _) in enumerate(certificates):
        for name in names:
            table, key = (suffixes, name[2:]) if name.startswith(b"*.") else (exact, name)
            table.setdefault(key, []).append(place)
    everyone = list(range(len(certificates)))
    ecdsa = [is_ecdsa for _, is_ecdsa in certificates]
    last = [everyone] if full_scan else []

    def places(*phases: list[int]) -> Places:
        """For a client that can verify ECDSA and for one that cannot; the first certificate when nothing fits."""
        found = [_pick(phases, ecdsa, capable) or 0 for capable in (True, False)]
        return tuple(found[:1] if ecdsa[found[0]] == ecdsa[found[1]] else found)

    return Choices(
        {name: places(own, suffixes.get(name.partition(b".")[2], []), *last) for name, own in exact.items()},
        {suffix: places(own, *last) for suffix, own in suffixes.items()},
        places(everyone),
        places(*last),
    )


def _pick(phases: Sequence[list[int]], ecdsa: list[bool], capable: bool) -> int | None:
    """The first certificate of the first phase that has one for such a client: ECDSA before RSA where the client can."""
    for phase in phases:
        best = [place for place in phase if ecdsa[place] == capable]
        second = [place for place in phase if capable and not ecdsa[place]]
        if best or second:
            return (best or second)[0]
    return None
