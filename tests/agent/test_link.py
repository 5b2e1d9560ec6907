"""The line to the master: orders find their answers, the end is noticed, nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent import socket as gsocket

from meshproxy.agent import link as link_module
from meshproxy.agent.link import MasterLink
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Answer, NodeState, Order, PutResource, Stop
from meshproxy.master.journal import Journal
from meshproxy.model import EndpointSet, ResourceKind
from meshproxy.model.snapshot import pack
from tests.cli.node import node_state


class Line:
    """Both ends: the agent's link, which reads in a greenlet, and the master's channel, which the test plays."""

    def __init__(self) -> None:
        ours, self.master = Channel.pair()
        self.link = MasterLink(ours, Journal("error"))
        self.heard: list[object] = []
        self.reading = gevent.spawn(self.link.run, {NodeState: self.heard.append, Stop: self.heard.append})

    def at_the_master(self, count: int = 1) -> list:
        got: list = []
        while len(got) < count:
            gsocket.wait_read(self.master.fileno(), timeout=20)
            got += [message for message, _ in self.master.receive()]
        return got


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.link.close()
    made.master.close()


def test_answers_find_their_orders_in_any_order(line: Line) -> None:
    asked = [gevent.spawn(line.link.order, Order(verb=verb)) for verb in ("reopen_logs", "status")]
    first, second = line.at_the_master(2)
    line.master.send(Answer(id=second.id, body=b"second"))
    line.master.send(Answer(id=first.id, body=b"first"))

    assert {first.verb, second.verb} == {"reopen_logs", "status"}
    bodies = {one.get(timeout=20).body for one in asked}
    assert bodies == {b"first", b"second"}
    assert asked[0].value.id == first.id


def test_an_order_whose_answer_does_not_come_is_not_ok(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "ORDER_PATIENCE_S", 0.01)
    answer = line.link.order(Order(verb="status"))

    assert not answer.ok
    assert "status" in answer.errors[0]
    line.master.send(Answer(id=answer.id))  # too late, and nobody minds
    line.master.send(node_state())
    gsocket.wait_read(line.link._channel.fileno(), timeout=20)


def test_what_the_master_says_is_heard(line: Line) -> None:
    line.master.send(node_state())
    line.master.send(Stop())
    while len(line.heard) < 2:
        gevent.sleep(0)

    assert [type(message) for message in line.heard] == [NodeState, Stop]


def test_the_end_of_the_master_ends_the_reading_and_every_waiting(line: Line) -> None:
    waiting = gevent.spawn(line.link.order, Order(verb="status"))
    line.at_the_master()
    line.master.close()

    assert waiting.get(timeout=20).errors == ["the master is gone"]
    line.reading.join(20)
    assert line.reading.successful()


def test_more_than_the_socket_takes_goes_when_the_master_reads(line: Line) -> None:
    found = pack(ResourceKind.ENDPOINTS, "x" * 100_000, EndpointSet(cluster="x"))
    for _ in range(20):
        line.link.send(PutResource(resource=found))

    assert len(line.at_the_master(20)) == 20
