"""Signals of the master. A handler only notes that it came; the loop wakes by a socket and acts later, in its own time."""

from __future__ import annotations

import signal
import socket
from collections import deque
from types import FrameType

ORDERS: dict[signal.Signals, str] = {
    signal.SIGHUP: "reload",
    signal.SIGUSR2: "upgrade",
    signal.SIGTTIN: "more",
    signal.SIGTTOU: "fewer",
    signal.SIGUSR1: "reopen_logs",
    signal.SIGTERM: "drain",
    signal.SIGINT: "stop",
    signal.SIGQUIT: "stop",
    signal.SIGCHLD: "reap",
}
"""What each asks for."""

DEAF = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU,
)
"""What children ignore: a terminal and systemd tell a whole group what is meant for the master, and only its word counts."""


class SignalQueue:
    """Installed by `open`. `fileno()` is readable when `take()` has something."""

    def __init__(self) -> None:
        self._noted: deque[signal.Signals] = deque()
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)

    def open(self) -> None:
        for number in ORDERS:
            signal.signal(number, self._note)
        # Python writes a byte here from its C handler, so a wait in `select` ends even if the note comes just before it begins.
        signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in ORDERS:
            signal.signal(number, signal.SIG_DFL)
        self._read_end.close()
        self._write_end.close()

    def fileno(self) -> int:
        return self._read_end.fileno()

    def take(self) -> list[str]:
        """Orders in the order they came."""
        try:
            while self._read_end.recv(4096):
                pass
        except BlockingIOError:
            pass
        orders = []
        while self._noted:
            orders.append(ORDERS[self._noted.popleft()])
        return orders

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(signal.Signals(number))


def become_deaf() -> None:
    """In a child, first thing: none of the master's handlers, and deaf to what only the master hears."""
    signal.set_wakeup_fd(-1)
    for number in ORDERS:
        signal.signal(number, signal.SIG_IGN if number in DEAF else signal.SIG_DFL)
