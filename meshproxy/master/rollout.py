"""Waiting until every worker has a change, and giving its blocks out again when none needs the old. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshproxy.ipc.messages import Refusal


@dataclass
class Rollout:
    """One change on its way. Workers are known by pid: an heir was born with the change, so it is not waited for.

    Forward: a worker that dies or hangs does not stop it (its heir starts with the change). Back: a worker that refuses does.
    """

    version: str
    deadline_s: float
    waiting: set[int]
    refusals: list[str] = field(default_factory=list)
    blamed: list[Refusal] = field(default_factory=list)
    """The resources that are to blame, where a worker could tell."""

    def applied(self, pid: int, error: str, blamed: Iterable[Refusal] = ()) -> None:
        if error and pid in self.waiting:
            self.refusals.append(error)
            self.blamed += blamed
        self.waiting.discard(pid)

    def gone(self, pid: int) -> None:
        self.waiting.discard(pid)

    def is_over(self, now_s: float) -> bool:
        return bool(self.refusals) or not self.waiting or now_s >= self.deadline_s


class Retirement:
    """Blocks that were released, each with the workers that may still count in them."""

    def __init__(self, reclaim: Callable[[int], None]) -> None:
        self._reclaim = reclaim
        self._held: list[tuple[int, list[int], set[int]]] = []
        self.predecessor = False
        """Workers of an earlier master are still there, and it is not known which: nothing is given out again meanwhile."""

    def add(self, order: int, tokens: list[int], pids: Iterable[int]) -> None:
        """`order` is the order of the version that no longer has them."""
        if tokens:
            self._held.append((order, tokens, set(pids)))
            self._sweep()

    def let_go(self, pid: int, order: int) -> None:
        for version_order, _, pids in self._held:
            if version_order <= order:
                pids.discard(pid)
        self._sweep()

    def gone(self, pid: int) -> None:
        for _, _, pids in self._held:
            pids.discard(pid)
        self._sweep()

    def predecessor_gone(self) -> None:
        self.predecessor = False
        self._sweep()

    def _sweep(self) -> None:
        if self.predecessor:
            return
        for _, tokens, pids in self._held:
            if not pids:
                for token in tokens:
                    self._reclaim(token)
        self._held = [each for each in self._held if each[2]]
