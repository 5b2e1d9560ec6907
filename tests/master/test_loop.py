"""The poll loop, on real sockets."""

import socket

from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Configure
from meshproxy.master.loop import Loop
from meshproxy.model import Resource, ResourceKind


def test_who_has_something_is_called_until_he_is_forgotten() -> None:
    loop, called = Loop(), []
    one, other = socket.socketpair()
    loop.watch(one, lambda: called.append(one.recv(10)))

    other.send(b"a")
    loop.turn(5)
    loop.forget(one)
    other.send(b"b")
    loop.turn(0)

    assert called == [b"a"]
    one.close()
    other.close()


def test_a_full_channel_is_flushed_when_its_reader_reads() -> None:
    loop = Loop()
    one, other = Channel.pair()
    loop.watch(one, lambda: None)
    one.send(Configure(version="1", upserts=[Resource(ResourceKind.CLUSTER, "a", bytes(1 << 20))]))
    assert one.want_write

    heard = []
    while not heard:
        heard = other.receive()
        loop.turn(0)

    assert not one.want_write
    one.close()
    other.close()


def test_one_that_is_closed_in_the_same_turn_is_not_called() -> None:
    loop, called = Loop(), []
    pairs = [socket.socketpair() for _ in range(2)]

    def close_all(name: int) -> None:
        called.append(name)
        for one, _ in pairs:
            loop.forget(one)
            one.close()

    for number, (one, other) in enumerate(pairs):
        loop.watch(one, lambda number=number: close_all(number))
        other.send(b"x")
    loop.turn(5)

    assert len(called) == 1
    for _, other in pairs:
        other.close()
