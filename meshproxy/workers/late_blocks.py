"""Places in the scoreboard for what shows itself only in traffic: asked of the master by name, given once for all workers."""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.ipc.messages import BlockGiven, WantBlock
from meshproxy.scoreboard.region import Region

Move = Callable[[Region, int, int], None]
"""Told the region, the worker's slot and the block's first cell."""


class LateBlocks:
    """What this worker has asked for. Who is refused (the table is full) goes on counting by himself, for nobody to see."""

    def __init__(self, region: Region, slot: int, send: Callable[[WantBlock], None]) -> None:
        self.region = region
        self.slot = slot
        self.send = send
        self._given: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], list[Move]] = {}

    def want(self, kind: str, name: str, move: Move) -> None:
        if (kind, name) in self._given:
            move(self.region, self.slot, self._given[kind, name])
            return
        asked = (kind, name) in self._waiting
        self._waiting.setdefault((kind, name), []).append(move)
        if not asked:
            self.send(WantBlock(kind=kind, name=name))

    def given(self, message: BlockGiven) -> None:
        key = message.kind, message.name
        self._given[key] = message.cell
        for move in self._waiting.pop(key, ()):
            move(self.region, self.slot, message.cell)
