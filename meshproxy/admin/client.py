"""What commands ask of a running node, over its control socket. One connection an order; it blocks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshproxy.errors import ControlError, LayoutError
from meshproxy.ipc.client import connect, converse
from meshproxy.ipc.messages import Answer, Directory, NodeState, Order

if TYPE_CHECKING:
    from meshproxy.model import Snapshot
    from meshproxy.scoreboard.region import Region

T = TypeVar("T")

QUICK_S = 10.0
"""For what the master answers out of its own memory: past it the master hangs."""
LONG_S = 300.0
"""For a reload or an upgrade: the node has limits of its own, far below; this one is for a node that lost its way."""
PATIENCE_S = {"reload": LONG_S, "upgrade": LONG_S}


class ControlClient:
    """One node, by the path of its control socket. Every method raises ControlError: `usage` when no node is there, else the node's no."""

    def __init__(self, path: str) -> None:
        self.path = path

    def order(
        self, verb: str, *, argument: str = "", listeners: list[str] | None = None, limit_s: float = 0.0, graceful: bool = True,
    ) -> bytes:
        """Have something done; returns the answer's body, often empty. What it means for each verb: `ipc.messages.Order`."""
        order = Order(id=1, verb=verb, argument=argument, listeners=listeners or [], limit_s=limit_s, graceful=graceful)
        answer, fds = converse(self.path, order, PATIENCE_S.get(verb, QUICK_S))
        _close(fds)
        return _granted(verb, answer).body

    def order_and_wait(self, verb: str, limit_s: float = 0.0, graceful: bool = True, patience_s: float = 3600.0) -> bytes:
        """Have the node end, and return when its master is gone: the connection is held, and ends with the process."""
        channel = connect(self.path)
        try:
            channel.send(Order(id=1, verb=verb, limit_s=limit_s, graceful=graceful))
            messages = channel.wait(QUICK_S)
            body = b""
            if messages and isinstance(messages[0][0], Answer):
                body = _granted(verb, messages[0][0]).body
            elif not channel.closed:
                raise ControlError(f"{verb}: no answer within {QUICK_S:g} s ({self.path}); the node's log on stderr tells more")
            channel.wait(patience_s)
            if not channel.closed:
                raise ControlError(f"{verb}: the node still runs after {patience_s:g} s ({self.path})")
            return body
        finally:
            channel.close()

    def status(self) -> NodeState:
        """The node's processes, as the admin API tells them too."""
        return self._decoded("status", self.order("status"), NodeState)

    def dump(self, of_file: bool = False) -> Snapshot:
        """The configuration that the node runs on; `of_file`: without what control planes and catalogues brought."""
        from meshproxy.model import Snapshot

        return self._decoded("dump", self.order("dump", argument="file" if of_file else ""), Snapshot, msgspec.msgpack.decode)

    def scoreboard(self) -> tuple[Region, Directory]:
        """The live metrics: the region, mapped here, and whose block is where at this moment."""
        from meshproxy.scoreboard.region import Region

        answer, fds = converse(self.path, Order(id=1, verb="scoreboard"), QUICK_S)
        try:
            directory = self._decoded("scoreboard", _granted("scoreboard", answer).body, Directory)
            if len(fds) != 1:
                raise ControlError(f"scoreboard: {len(fds)} file descriptors came with the answer, not 1 ({self.path})")
        except ControlError:
            _close(fds)
            raise
        try:
            return Region.open(fds[0]), directory  # which owns the descriptor now, in any case
        except LayoutError as error:
            raise ControlError(f"{error}. Use the meshproxy command of the version that runs.") from None

    def directory(self) -> Directory:
        """Whose block is where now, for who has the region already."""
        return self._decoded("scoreboard", self.order("scoreboard"), Directory)

    def _decoded(self, verb: str, body: bytes, shape: type[T], decode: Callable[..., T] = msgspec.json.decode) -> T:
        try:
            return decode(body, type=shape)
        except msgspec.MsgspecError as error:
            raise ControlError(f"{verb}: the answer is not one of this version of meshproxy ({self.path}): {error}") from None


def _granted(verb: str, answer: Answer) -> Answer:
    if not answer.ok:
        raise ControlError("\n".join(answer.errors) or f"{verb}: refused by the node without a reason; its log on stderr tells more")
    return answer


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
