"""Blocks that workers ask for while they serve, because what they count shows itself only in traffic."""

from __future__ import annotations

from meshproxy.errors import TableFullError
from meshproxy.ipc.messages import BlockGiven, WantBlock
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.configuration import Change
from meshproxy.master.crew import Crew, Worker
from meshproxy.master.node import Node

MOST = 4096
"""Names come from clients. A page has room for some hundred thousand cells, and a name takes some hundred."""


class LateBlocks:
    """Each name gets one block, for all workers and for as long as the master lives."""

    def __init__(self, node: Node, crew: Crew, keeper: AgentKeeper) -> None:
        self.node = node
        self.crew = crew
        self.keeper = keeper
        self._cells: dict[tuple[str, str], int] = {}

    def give(self, worker: Worker, wanted: WantBlock) -> None:
        """Answer at once; who is refused hears nothing."""
        key = wanted.kind, wanted.name
        if key not in self._cells:
            if len(self._cells) >= MOST:
                return
            try:
                self._cells[key] = self.node.configuration.allocator.lend(*key)
            except TableFullError as error:
                self.node.journal.error("a block is refused", error=error)
                return
            rows = Change(self.node.configuration.versions.latest, [], [])
            self.node.configuration.note_rows(rows)
            self.keeper.tell(rows.for_agent())
        self.crew.tell(worker, BlockGiven(kind=wanted.kind, name=wanted.name, cell=self._cells[key]))
