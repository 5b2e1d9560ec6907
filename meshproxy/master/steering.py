"""Which of the sockets that share a port gets a new connection: a classic BPF program that answers with a place in the kernel's group.

The kernel numbers a group's sockets in the order of their `listen`; when one leaves, the last takes its place (net/core/sock_reuseport.c).
`Group` keeps the same book. Without a program the kernel spreads by a hash of the addresses.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68
_LOAD_ABSOLUTE = 0x20
_MODULO = 0x94
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_RANDOM = 0xFFFFF000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM: loading from there gives a random number."""


class Group:
    """The order of one port's sockets, each known by its lane."""

    def __init__(self, lanes: list[int]) -> None:
        self.lanes = lanes
        self.steered: frozenset[int] = frozenset()
        """To whom a program steers now; empty = the kernel's hash."""

    def joined(self, lane: int) -> None:
        self.lanes.append(lane)

    def left(self, lane: int) -> None:
        last = self.lanes.pop()
        if last != lane:
            self.lanes[self.lanes.index(lane)] = last

    def steer(self, fd: int, ready: frozenset[int], force: bool = False) -> None:
        """New connections only to `ready` lanes; to all when none or all of them are. `fd` is any socket of the group."""
        target = ready & frozenset(self.lanes)
        if target == frozenset(self.lanes):
            target = frozenset()
        if target == self.steered and not force:
            return
        self.steered = target
        with socket.socket(fileno=os.dup(fd)) as sock:
            if target:
                _attach(sock, program([place for place, lane in enumerate(self.lanes) if lane in target]))
            else:
                _detach(sock)


def program(places: list[int]) -> list[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, constant) that answer with one of `places`, each as likely as the others."""
    instructions = [(_LOAD_ABSOLUTE, 0, 0, _RANDOM), (_MODULO, 0, 0, len(places))]
    for number, place in enumerate(places[:-1]):
        instructions += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, place)]
    return [*instructions, (_RETURN, 0, 0, places[-1])]


def _attach(sock: socket.socket, instructions: list[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(instructions), ctypes.addressof(code)))


def _detach(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
    except FileNotFoundError:
        # ENOENT: there was no program.
        pass
