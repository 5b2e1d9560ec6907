"""Where metrics are in their blocks, by name."""

from __future__ import annotations

from meshproxy.scoreboard.catalogue import BlockKind, offsets


def names(kind: BlockKind) -> dict[int, str]:
    """Name of each metric by its cell's place in the block."""
    return {at: row.name for at, row in offsets(kind)}


LISTENER_SSL = names(BlockKind.LISTENER_SSL)
