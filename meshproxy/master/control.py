"""The control socket: commands connect, send an Order, and get an Answer. Its file's permissions say who may.

Mode 0600; with a group in the configuration 0660 and that group.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from meshproxy.errors import BindError, ControlError, FrameError
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.frames import MAX_ORDER_BYTES, close_all
from meshproxy.ipc.messages import Order
from meshproxy.master.bind import Wish, bind, is_live
from meshproxy.master.journal import Journal
from meshproxy.master.loop import Loop
from meshproxy.master.privileges import Identity
from meshproxy.model import PipeAddress

MAX_CLIENTS = 64
"""Commands at once; a script that leaves more behind is told by a closed connection."""


def open_control(path: str, who: Identity) -> int:
    """The listening descriptor. Raises ControlError when a node lives there already; a leftover of a killed one is replaced."""
    _make_directory(os.path.dirname(path), who)
    if is_live(path):
        raise ControlError(
            f"a node already runs with the control socket {path}. Use `meshproxy reload` or `meshproxy upgrade` to change it, "
            "`meshproxy stop` to end it, or --control PATH for a second one."
        )
    try:
        fd, _ = bind(Wish("control socket", PipeAddress(path, 0o660 if who.gid >= 0 else 0o600), backlog=MAX_CLIENTS))
    except BindError as error:
        raise ControlError(str(error)) from None
    if who.uid >= 0:
        os.chown(path, who.uid, who.gid)
    return fd


@dataclass
class ControlServer:
    """Serves `fd`. `on_order` is the master's: the order and where its answer goes."""

    fd: int
    loop: Loop
    journal: Journal
    on_order: Callable[[Order, Channel], None]
    _clients: set[Channel] = field(default_factory=set)

    def open(self) -> None:
        self.loop.watch(self, self._accept)

    def fileno(self) -> int:
        return self.fd

    def hand_over(self) -> None:
        """Another master listens on the socket now; clients that wait for an answer keep their connections."""
        self.loop.forget(self)
        close_all([self.fd])

    def close(self) -> None:
        """Flushes answers as far as they go, and ends: a command that waits for the end of the node hears of it by this."""
        for client in self._clients:
            client.flush()
            client.close()
        self._clients.clear()

    def _accept(self) -> None:
        with socket.socket(fileno=os.dup(self.fd)) as listening:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
        if len(self._clients) >= MAX_CLIENTS:
            self.journal.warning("too many commands at once", limit=MAX_CLIENTS)
            connection.close()
            return
        client = Channel(connection, MAX_ORDER_BYTES)
        self._clients.add(client)
        self.loop.watch(client, lambda: self._hear(client))

    def _hear(self, client: Channel) -> None:
        try:
            messages = client.receive()
        except FrameError as error:
            messages = []
            self.journal.warning("a command said what is no order", error=error)
        for message, fds in messages:
            close_all(fds)
            if isinstance(message, Order):
                self.on_order(message, client)
        if client.closed:
            self.loop.forget(client)
            self._clients.discard(client)


def _make_directory(path: str, who: Identity) -> None:
    """Only ours to enter where it is ours to make: a directory below the temporary one must not be another user's trap."""
    if not path:
        return
    try:
        os.makedirs(path, mode=0o755 if os.geteuid() == 0 else 0o700)
        if who.uid >= 0:
            os.chown(path, who.uid, who.gid)
    except FileExistsError:
        pass
    except OSError as error:
        raise ControlError(
            f"control socket: cannot make the directory {path}: {(error.strerror or str(error)).lower()}. "
            "Name another place with --control PATH."
        ) from None
