"""Every listening socket of the node. For a TCP address one socket for each lane (a worker's place), sharing the port; for a UNIX
socket and one from systemd a single socket that all workers have.

The master keeps its own duplicate of each for as long as the lane lives, so the queue of a dead worker waits for its heir. Sockets are
known by their address and not by their listener: a listener that is renamed or split takes its sockets, and what waits in them, along.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from meshproxy.errors import BindError
from meshproxy.ipc.frames import close_all
from meshproxy.ipc.messages import ListenerRow, ListenerSocket
from meshproxy.master.bind import Wish, bind, refusal, refuse_taken, set_transparent
from meshproxy.master.privileges import Identity, give
from meshproxy.master.steering import Group
from meshproxy.model import Address, Listener, PipeAddress, SocketAddress

SHARED = -1
"""The lane of a socket that all lanes have."""
ACCEPTS_PER_TURN = 64
"""Of one queue without a worker: as many descriptors as one message takes easily, then the loop gets its turn."""


class BoundState(msgspec.Struct):
    """One address as it is handed to a new master; descriptors are inherited under their numbers."""

    key: str
    address: Address
    fds: dict[int, int]
    order: list[int]
    from_systemd: bool = False


@dataclass
class Bound:
    """The sockets of one address."""

    key: str
    address: Address
    fds: dict[int, int] = field(default_factory=dict)
    group: Group | None = None
    """None for a shared socket."""
    from_systemd: bool = False
    wish: Wish | None = None

    def fd_of(self, lane: int) -> int | None:
        return self.fds.get(SHARED, self.fds.get(lane))

    def renew(self, wish: Wish) -> None:
        """What of a wish can change on a socket that is bound already."""
        former, self.wish = self.wish, wish
        if former is None or former.backlog != wish.backlog:
            for fd in self.fds.values():
                with socket.socket(fileno=os.dup(fd)) as sock:
                    sock.listen(wish.backlog)
        if isinstance(wish.address, PipeAddress) and wish.address.mode and not self.from_systemd and wish.address.path[0] != "@":
            os.chmod(wish.address.path, wish.address.mode)
        if (former is not None and former.transparent) != wish.transparent and isinstance(wish.address, SocketAddress):
            for fd in self.fds.values():
                with socket.socket(fileno=os.dup(fd)) as sock:
                    set_transparent(sock, wish.transparent)

    def close(self) -> None:
        close_all(self.fds.values())
        self.fds.clear()


class Bindings:
    """What is bound now, and what each listener has of it."""

    def __init__(self, who: Identity, place: str = "") -> None:
        self._who = who
        self._place = place
        self._bound: dict[str, Bound] = {}
        self._systemd: list[int] = []
        self.lanes: list[int] = []

    # ---- taking over ----

    def offer(self, fds: Iterable[int]) -> None:
        """Sockets from systemd: `bind` takes those whose address a listener names."""
        self._systemd += fds

    def unclaimed(self) -> list[str]:
        """Addresses of systemd's sockets that no listener names; their descriptors are closed."""
        names = [str(_address_of(fd)) for fd in self._systemd]
        close_all(self._systemd)
        self._systemd.clear()
        return names

    def state(self) -> list[BoundState]:
        return [
            BoundState(each.key, each.address, dict(each.fds), list(each.group.lanes) if each.group else [], each.from_systemd)
            for each in self._bound.values()
        ]

    def adopt(self, states: Iterable[BoundState], lanes: Iterable[int]) -> None:
        """The sockets of a former master."""
        self.lanes = list(lanes)
        for state in states:
            group = Group(state.order) if state.order else None
            self._bound[state.key] = Bound(state.key, state.address, state.fds, group, state.from_systemd)

    # ---- binding ----

    def bind(self, listeners: Iterable[Listener]) -> list[str]:
        """Binds what `listeners` want and is not bound yet, and gives the new keys. All or nothing: BindError has a line a refusal."""
        made: list[str] = []
        refused: list[str] = []
        owners: dict[str, str] = {}
        for key, wish in self._wishes(listeners):
            if key in owners:
                taken = f"{owners[key]} has it. Give each its own address. ({self._place})"
                refused.append(f"{wish.owner}: cannot bind {wish.address}: {taken}")
                continue
            owners[key] = wish.owner
            try:
                made += self._bind_one(key, wish)
            except BindError as error:
                refused.append(str(error))
        if refused:
            self.close(made)
            raise BindError("\n".join(refused))
        return made

    def bind_each(self, there: Iterable[Listener], new: Iterable[Listener]) -> dict[str, str]:
        """Binds what each of `new` wants beside those that stay, and gives by name what is wrong with those that cannot have it."""
        owners = {key: wish.owner for key, wish in self._wishes(there)}
        refused: dict[str, str] = {}
        for listener in new:
            wishes = list(self._wishes([listener]))
            made: list[str] = []
            try:
                for key, wish in wishes:
                    if key in owners:
                        raise BindError(f"{wish.owner}: cannot bind {wish.address}: {owners[key]} has it. Give each its own address.")
                    made += self._bind_one(key, wish)
            except BindError as error:
                self.close(made)
                refused[listener.name] = str(error)
            else:
                owners.update((key, wish.owner) for key, wish in wishes)
        return refused

    def keys(self) -> list[str]:
        """Of all that is bound."""
        return list(self._bound)

    def taken(self, listener: Listener, by: Iterable[Listener]) -> str:
        """Who of these has an address of the listener; "" = nobody."""
        keys = {key for key, _ in self._wishes([listener])}
        return next((wish.owner for key, wish in self._wishes(by) if key in keys), "")

    def close(self, keys: Iterable[str]) -> None:
        for key in keys:
            bound = self._bound.pop(key)
            bound.close()
            if isinstance(bound.address, PipeAddress) and not bound.from_systemd:
                _unlink(bound.address.path)

    def unwanted(self, listeners: Iterable[Listener]) -> list[str]:
        """Keys of what is bound and none of `listeners` names."""
        wanted = {key for key, _ in self._wishes(listeners)}
        return [key for key in self._bound if key not in wanted]

    def add_lane(self, lane: int) -> None:
        """One more socket for each TCP address. Raises BindError, and then nothing is added."""
        made: list[tuple[Bound, int]] = []
        try:
            for bound in self._grouped():
                wish = bound.wish or Wish(f"lane {lane}", bound.address)
                fd, _ = bind(at(wish, bound.address), shares_port=True)
                made.append((bound, fd))
                give(fd, self._who)
        except BindError:
            close_all(fd for _, fd in made)
            raise
        for bound, fd in made:
            bound.fds[lane] = fd
            bound.group.joined(lane)
        self.lanes.append(lane)

    def remove_lane(self, lane: int) -> None:
        """Closes the lane's sockets. It has been steered away from, and its queue is empty."""
        self.lanes.remove(lane)
        for bound in self._grouped():
            bound.group.left(lane)
            os.close(bound.fds.pop(lane))

    def steer(self, ready: Iterable[int], force: bool = False) -> None:
        """New connections go to these lanes only. `force` writes programs anew after the groups have changed."""
        chosen = frozenset(ready)
        for bound in self._grouped():
            bound.group.steer(next(iter(bound.fds.values())), chosen, force)

    def close_all(self, unlink: bool) -> None:
        """`unlink`: the files of UNIX sockets go too; not when another master has them now."""
        for bound in self._bound.values():
            bound.close()
            if unlink and isinstance(bound.address, PipeAddress) and not bound.from_systemd:
                _unlink(bound.address.path)
        self._bound.clear()

    # ---- telling ----

    def sockets_of(self, listeners: Iterable[Listener], lane: int) -> list[tuple[ListenerSocket, int]]:
        """What a worker in this lane gets for these listeners; the descriptors stay ours."""
        sockets = []
        for listener in listeners:
            for index, bound in self._of(listener):
                if (fd := bound.fd_of(lane)) is not None:
                    sockets.append((ListenerSocket(listener=listener.name, address_index=index, shared=bound.group is None), fd))
        return sockets

    def rows(self, listeners: Iterable[Listener]) -> list[ListenerRow]:
        """What is listened on now: nothing any more while the node ends."""
        bound = [(each.name, [str(bound.address) for _, bound in self._of(each)]) for each in listeners]
        return [ListenerRow(name=name, addresses=addresses) for name, addresses in bound if addresses]

    def has_privileged_ports(self) -> bool:
        return any(isinstance(each.address, SocketAddress) and each.address.port < 1024 for each in self._bound.values())

    def has_transparent(self) -> bool:
        return any(each.wish is not None and each.wish.transparent for each in self._bound.values())

    def accept_queue(self, listeners: Iterable[Listener], lane: int) -> list[tuple[str, int, list[int]]]:
        """Takes what waits in the lane's own queues: (listener, address index, connections), none empty."""
        taken = []
        for listener in listeners:
            for index, bound in self._of(listener):
                if bound.group is not None and lane in bound.fds and (connections := _accept_some(bound.fds[lane])):
                    taken.append((listener.name, index, connections))
        return taken

    # ---- inside ----

    def _wishes(self, listeners: Iterable[Listener]) -> Iterator[tuple[str, Wish]]:
        for listener in listeners:
            for index, address in enumerate(listener.addresses if listener.bind_to_port else ()):
                wish = Wish(
                    f'listener "{listener.name}"', address, listener.backlog, listener.ipv6_only, listener.freebind, self._place,
                    listener.transparent,
                )
                yield key_of(listener, index), wish

    def _of(self, listener: Listener) -> list[tuple[int, Bound]]:
        keys = enumerate(key_of(listener, index) for index in range(len(listener.addresses) if listener.bind_to_port else 0))
        return [(index, self._bound[key]) for index, key in keys if key in self._bound]

    def _grouped(self) -> list[Bound]:
        return [each for each in self._bound.values() if each.group is not None]

    def _bind_one(self, key: str, wish: Wish) -> list[str]:
        if (bound := self._bound.get(key)) is not None:
            try:
                bound.renew(wish)
            except OSError as error:
                raise refusal(wish, error) from None
            return []
        if (fd := self._claim(wish.address)) is not None:
            self._bound[key] = Bound(key, _address_of(fd) or wish.address, {SHARED: fd}, None, True, wish)
            return [key]
        if isinstance(wish.address, PipeAddress):
            fd, address = bind(wish)
            self._bound[key] = Bound(key, address, {SHARED: fd}, None, False, wish)
            return [key]
        self._bound[key] = self._bind_group(key, wish)
        return [key]

    def _bind_group(self, key: str, wish: Wish) -> Bound:
        refuse_taken(wish)
        bound = Bound(key, wish.address, {}, Group([]), False, wish)
        try:
            for lane in self.lanes:
                # The first of them picks where the port is 0; the others follow it.
                fd, bound.address = bind(at(wish, bound.address), shares_port=True)
                bound.fds[lane] = fd
                bound.group.joined(lane)
                give(fd, self._who)
        except BindError:
            bound.close()
            raise
        return bound

    def _claim(self, address: Address) -> int | None:
        for fd in self._systemd:
            if _address_of(fd) == address or (isinstance(address, PipeAddress) and str(_address_of(fd)) == address.path):
                self._systemd.remove(fd)
                os.set_blocking(fd, False)
                return fd
        return None


def key_of(listener: Listener, index: int) -> str:
    """What a socket is known by: the address; where the kernel picks the port, the listener's name as well."""
    address = listener.addresses[index]
    if isinstance(address, PipeAddress):
        return f"unix {address.path}"
    scope = "" if listener.ipv6_only or ":" not in address.host else " dual"
    picked = f" {listener.name} {index}" if address.port == 0 else ""
    return f"tcp {address}{scope}{picked}"


def at(wish: Wish, address: Address) -> Wish:
    """The same wish for another address."""
    return replace(wish, address=address)


def _address_of(fd: int) -> Address | None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return PipeAddress("@" + name[1:].decode() if isinstance(name, bytes) else name)
        return SocketAddress(name[0], name[1])


def _accept_some(fd: int) -> list[int]:
    connections: list[int] = []
    with socket.socket(fileno=os.dup(fd)) as sock:
        while len(connections) < ACCEPTS_PER_TURN:
            try:
                connections.append(sock.accept()[0].detach())
            except OSError:
                break
    return connections


def _unlink(path: str) -> None:
    try:
        if not path.startswith("@"):
            os.unlink(path)
    except OSError:
        pass
