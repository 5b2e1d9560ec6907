"""A fake node for the commands: a control socket that answers orders as the test says, in the real frames of the real channel.

It is a fake of the master's control socket only; tests/processes run the commands against real nodes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Answer, ListenerRow, NodeState, Order, WorkerRow

Answering = Callable[[Order], tuple[Answer, Sequence[int]]]
ROOT = Path(__file__).resolve().parents[2]


def worker(slot: int, state: str = "READY", **fields: object) -> WorkerRow:
    return WorkerRow(slot=slot, pid=1000 + slot, state=state, generation=1, uptime_s=3725.0, **fields)


def node_state(**fields: object) -> NodeState:
    """A node with two workers, one of which was replaced once."""
    settings = {
        "pid": 999,
        "version": "0.1.0",
        "config_version": "3",
        "config_file": "/etc/meshproxy/meshproxy.yaml",
        "live": True,
        "draining": False,
        "uptime_s": 3725.0,
        "restart_epoch": 0,
        "workers": [worker(0), worker(1, restarts=1, last_death="ended by SIGKILL")],
        "agent": WorkerRow(slot=-1, pid=1100, state="READY", generation=1, uptime_s=3720.0),
        "listeners": [ListenerRow(name="ingress", addresses=["0.0.0.0:8080", "[::]:8080"])],
        "admin": "127.0.0.1:9901",
    }
    return NodeState(**{**settings, **fields})


@contextmanager
def fake_node(path: Path, answering: Answering, hold: threading.Event | None = None) -> Iterator[list[Order]]:
    """Serves until the block ends; yields the orders that came. With `hold` a connection stays open until it is set."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    orders: list[Order] = []
    thread = threading.Thread(target=_serve, args=(listener, answering, orders, hold), daemon=True)
    thread.start()
    try:
        yield orders
    finally:
        # Wakes the accept, which close alone does not.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listener.close()


def _serve(listener: socket.socket, answering: Answering, orders: list[Order], hold: threading.Event | None) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        channel = Channel(peer)
        for message, _ in channel.wait(10):
            assert isinstance(message, Order)
            orders.append(message)
            answer, fds = answering(message)
            channel.send(answer, fds)
        if hold is not None:
            hold.wait(10)
        channel.close()


def command(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`meshproxy ...` as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MESHPROXY_")}
    return subprocess.run(
        [sys.executable, "-m", "meshproxy.cli.main", *arguments],
        capture_output=True, text=True, timeout=60, cwd=cwd or ROOT, env={**clean, "PYTHONPATH": str(ROOT), **(env or {})},
    )
