"""The admin API's listening socket: bound by the master, because only it may have the right to; served by the agent."""

from __future__ import annotations

import os
from dataclasses import dataclass

from meshproxy.ipc.frames import close_all
from meshproxy.master.bind import Wish, bind, refuse_taken
from meshproxy.master.node import Node
from meshproxy.master.privileges import give
from meshproxy.model import Address, Admin, PipeAddress

BACKLOG = 128
"""People and scrapers, not traffic."""


@dataclass(frozen=True)
class AdminSocket:
    """`fd` -1: the configuration has no admin any more."""

    fd: int
    address: Address | None
    asked: Address | None

    def close(self) -> None:
        close_all([self.fd] if self.fd >= 0 else [])
        if self.fd >= 0 and isinstance(self.address, PipeAddress):
            os.unlink(self.address.path)


NONE = AdminSocket(-1, None, None)


def replacement(node: Node, admin: Admin | None) -> AdminSocket | None:
    """What takes the place of the present socket; None if it stays. Raises BindError."""
    asked = admin.address if admin is not None else None
    if asked == node.admin_asked:
        return None
    return open_admin(node, admin)


def open_admin(node: Node, admin: Admin | None) -> AdminSocket:
    """Raises BindError."""
    if admin is None:
        return NONE
    wish = Wish("admin", admin.address, BACKLOG, place=node.command.config_path)
    refuse_taken(wish)
    fd, address = bind(wish)
    give(fd, node.who)
    return AdminSocket(fd, address, admin.address)


def install(node: Node, socket: AdminSocket) -> None:
    """From now on it is this one; the agent gets it at its next start."""
    AdminSocket(node.admin_fd, node.admin_address, node.admin_asked).close()
    node.admin_fd, node.admin_address, node.admin_asked = socket.fd, socket.address, socket.asked
