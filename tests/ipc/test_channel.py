"""Channels over real socket pairs."""

import os
import socket

import pytest

from meshproxy.errors import FrameError
from meshproxy.ipc.channel import MAX_QUEUED_MESSAGES, Channel
from meshproxy.ipc.messages import Applied, Configure, Drain, ListenerSocket, Ready, Sockets
from meshproxy.model import Resource, ResourceKind


@pytest.fixture
def pair():
    """`Channel.pair` whose ends are closed when the test ends."""
    made: list[Channel] = []
    original = Channel.pair

    def pair() -> tuple[Channel, Channel]:
        made.extend(original())
        return made[-2], made[-1]

    yield pair
    for channel in made:
        channel.close()


def cluster(name: str, body: bytes) -> Resource:
    return Resource(ResourceKind.CLUSTER, name, body)


def hear_all(sender: Channel, receiver: Channel) -> list:
    """Everything that `sender` still has to say."""
    heard = receiver.receive()
    while sender.want_write:
        sender.flush()
        heard += receiver.receive()
    return heard


def test_messages_and_descriptors_arrive_in_order(pair) -> None:
    one, other = pair()
    read_end, write_end = os.pipe()

    one.send(Ready(version="1"))
    one.send(Drain(limit_s=2), [write_end])
    os.close(write_end)
    heard = other.receive()

    assert [message for message, _ in heard] == [Ready(version="1"), Drain(limit_s=2)]
    (passed,) = heard[1][1]
    assert not os.get_inheritable(passed)
    os.write(passed, b"through")
    assert os.read(read_end, 10) == b"through"
    for fd in (passed, read_end):
        os.close(fd)

def test_a_slow_reader_gets_the_latest_of_each_name(pair) -> None:
    one, other = pair()
    big = bytes(1 << 20)
    one.send(Configure(version="1", upserts=[cluster("filler", big)]))
    assert one.want_write

    for number in range(2, 1000):
        one.send(Configure(version=str(number), upserts=[cluster("a", b"%d" % number), cluster(f"b{number % 10}", big)]))
    one.send(Configure(version="1000", removes=[(ResourceKind.CLUSTER, "b3")]))
    heard = [message for message, _ in hear_all(one, other)]

    assert [message.version for message in heard] == ["1", "1000"]
    assert {each.name for each in heard[1].upserts} == {"a", *(f"b{n}" for n in range(10) if n != 3)}
    assert next(each.body for each in heard[1].upserts if each.name == "a") == b"999"
    assert heard[1].removes == [(ResourceKind.CLUSTER, "b3")]


def test_merged_sockets_are_the_latest_of_each_listener_and_nothing_leaks(pair) -> None:
    one, other = pair()
    one.send(Configure(version="1", upserts=[cluster("filler", bytes(1 << 20))]))
    before = len(os.listdir("/proc/self/fd"))
    pipes = [os.pipe() for _ in range(3)]

    one.send(Configure(version="2", sockets=[ListenerSocket(listener="a", address_index=0)]), [pipes[0][1]])
    one.send(Configure(version="3", sockets=[ListenerSocket(listener="b", address_index=0)]), [pipes[1][1]])
    one.send(Configure(version="4", sockets=[ListenerSocket(listener="a", address_index=0)]), [pipes[2][1]])
    heard = hear_all(one, other)

    message, fds = heard[-1]
    assert [each.listener for each in message.sockets] == ["b", "a"]
    os.write(fds[1], b"newest")
    assert os.read(pipes[2][0], 10) == b"newest"
    for fd in [*fds, *(end for pipe in pipes for end in pipe)]:
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_sockets_than_one_message_takes_go_ahead_in_messages_of_their_own(pair) -> None:
    one, other = pair()
    null = os.open("/dev/null", os.O_RDONLY)
    wanted = [ListenerSocket(listener="l", address_index=at) for at in range(450)]

    one.send(Configure(version="2", sockets=wanted), [null] * 450)
    heard = hear_all(one, other)

    assert [type(message) for message, _ in heard] == [Sockets, Sockets, Configure]
    assert [socket for message, _ in heard for socket in message.sockets] == wanted
    assert [len(fds) for _, fds in heard] == [200, 200, 50]
    for fd in [null, *(fd for _, fds in heard for fd in fds)]:
        os.close(fd)


def test_the_end_of_the_stream_closes_the_channel_after_the_last_message(pair) -> None:
    one, other = pair()
    one.send(Applied(version="1"))
    one.close()

    assert [message for message, _ in other.receive()] == [Applied(version="1")]
    assert other.closed
    other.send(Applied(version="2"))
    assert not other.want_write


def test_words_of_a_peer_that_is_gone_are_still_heard(pair) -> None:
    one, other = pair()
    other.send(Applied(version="1", error="refused"))
    other.close()

    one.send(Drain(limit_s=1))
    assert [message for message, _ in one.receive()] == [Applied(version="1", error="refused")]
    assert one.closed


def test_what_is_no_message_closes_the_channel() -> None:
    raw, sock = socket.socketpair()
    channel = Channel(sock)
    raw.sendall(b"GET / HTTP/1.1\r\n\r\n")

    with pytest.raises(FrameError):
        channel.receive()

    assert channel.closed
    raw.close()


def test_a_peer_that_never_reads_is_bounded(pair) -> None:
    one, _ = pair()

    def say_much() -> None:
        for _ in range(MAX_QUEUED_MESSAGES * 20):
            one.send(Applied(version="1", error="x" * 4096))

    with pytest.raises(FrameError, match="does not read"):
        say_much()
