"""The kernel does as the program says, and numbers the sockets of a group as `Group` believes."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from meshproxy.master.steering import Group

CONNECTS = 60
"""With two sockets and no steering, one gets none of them once in 2**59 runs."""


class Lanes:
    """Real sockets that share a port, by lane."""

    def __init__(self, count: int) -> None:
        self.port = 0
        self.sockets: dict[int, socket.socket] = {}
        self.group = Group([])
        for lane in range(count):
            self.add(lane)

    def add(self, lane: int) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(CONNECTS)
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self.sockets[lane] = sock
        self.group.joined(lane)

    def remove(self, lane: int) -> None:
        self.sockets.pop(lane).close()
        self.group.left(lane)

    def steer(self, *lanes: int, force: bool = False) -> None:
        self.group.steer(next(iter(self.sockets.values())).fileno(), frozenset(lanes), force)

    def spread(self) -> set[int]:
        """Which lanes get something of many connects."""
        clients = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(CONNECTS)]
        for client in clients:
            client.close()
        return {lane for lane, sock in self.sockets.items() if _accept_all(sock)}


def _accept_all(sock: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            count += 1
    return count


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(4)
    yield made
    for sock in made.sockets.values():
        sock.close()


def test_only_the_chosen_get_connections(lanes: Lanes) -> None:
    lanes.steer(0, 2)
    assert lanes.spread() == {0, 2}
    lanes.steer(3)
    assert lanes.spread() == {3}


def test_all_or_none_is_the_kernels_own_way(lanes: Lanes) -> None:
    lanes.steer(1)
    lanes.steer(0, 1, 2, 3)
    assert lanes.spread() == {0, 1, 2, 3}
    lanes.steer(1)
    lanes.steer()
    assert lanes.spread() == {0, 1, 2, 3}


@pytest.mark.parametrize("leaver", [0, 1, 2, 3])
def test_the_last_socket_takes_the_place_of_one_that_left(lanes: Lanes, leaver: int) -> None:
    lanes.remove(leaver)

    for lane in sorted(lanes.sockets):
        lanes.steer(lane, force=True)
        assert lanes.spread() == {lane}


def test_a_newcomer_is_last(lanes: Lanes) -> None:
    lanes.remove(1)
    lanes.add(9)

    lanes.steer(9, force=True)

    assert lanes.spread() == {9}
