"""What a child gets at its birth. It is handed on by the fork itself, so nothing here is encoded and everything may be shared pages.

What the entry of a child (`meshproxy.workers.main:run`, `meshproxy.agent.main:run`) finds done when it is called: all file descriptors
but its own are closed; SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are ignored, every other signal has its default; the process
title is set; faulthandler writes to `crash_fd`; the entry's module is imported; privileges are dropped. The entry sends `Ready` on the
channel when it serves, and returns its exit code (`ExitCode`). The end of the channel means that the master is gone: the child exits.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from meshproxy.ipc.messages import Directory, ListenerSocket, NodeSettings, NodeState
from meshproxy.model import Process, Resource

if TYPE_CHECKING:
    from meshproxy.scoreboard.region import Region


class ExitCode(enum.IntEnum):
    """What a child's exit code says to the master."""

    DONE = 0
    """Drained or told to stop."""
    BUG = 1
    """An exception escaped: the slot gets an heir."""
    BOOT_ERROR = 3
    """It could not start (an import, a missing build): an heir would end the same way, so there is none."""
    CONFIG_REFUSED = 4
    """It could not compile the configuration that it was born with: no heir until the configuration changes."""


class WorkerBoot(msgspec.Struct, kw_only=True, gc=False):
    """A worker's beginning. `sockets[i]` is about `fds[i]`; the descriptors belong to the worker."""

    slot: int
    """Its page of the scoreboard; also the N of its title."""
    slots: int
    """Pages that the region has: what a sum over the node goes through."""
    generation: int
    channel_fd: int
    region: Region
    version: str
    resources: list[Resource]
    """In the order of making, with blocks."""
    sockets: list[ListenerSocket]
    fds: list[int]
    process: Process
    ticket_root: bytes
    """What the workers' TLS session tickets are sealed from: a client may resume at any of them, also after an upgrade."""
    crash_fd: int
    """Where the report of a death goes; the master reads it afterwards. Not to be closed."""
    idle: bool = False
    """It is born with what nobody else wants of the processors, and ends that before it is ready (`meshproxy.priority`)."""


class AgentBoot(msgspec.Struct, kw_only=True, gc=False):
    """The agent's beginning."""

    channel_fd: int
    region: Region
    version: str
    resources: list[Resource]
    settings: NodeSettings
    directory: Directory
    admin_fd: int
    """A listening socket (TCP or UNIX) for the admin API, -1 = none is configured."""
    state: NodeState
    crash_fd: int = -1
    state_directory: str = ""
    """Where it may keep what is needed at the next start; "" = nowhere."""
    idle: bool = False
    """As a worker's."""
