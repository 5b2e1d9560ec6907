"""How HTTP/2 connections of clients end when the node wants them to: streams under way are answered, later ones go elsewhere."""

from __future__ import annotations

import contextlib
import signal
import threading

from tests.peers.process import free_ports
from tests.processes import meshes
from tests.support.http2_wire import ACK, GOAWAY, NO_ERROR, PING, Frame, Http2Client, frame
from tests.support.origin import OK, Connection, Origin, Request
from tests.support.wire import ClosedError, get

LAST_ID = 2**31 - 1


class Held:
    """An origin's script that answers `/held` only when told."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.told = threading.Event()

    def __call__(self, connection: Connection, request: Request) -> None:
        if request.target == "/held":
            self.asked.set()
            self.told.wait(20)
        connection.send(OK)


def last_stream(got: Frame) -> int:
    return int.from_bytes(got.payload[:4], "big")


def said_goodbye(client: Http2Client) -> list[tuple[int, int]]:
    """(last stream, code) of each GOAWAY, when the connection has closed."""
    with contextlib.suppress(ClosedError):
        while True:
            client.read()
    return [(last_stream(each), each.code) for each in client.frames if each.type == GOAWAY]


def test_a_node_that_ends_lets_streams_finish(node_of) -> None:
    script = Held()
    with Origin(script) as origin:
        node = node_of(meshes.plain(origin.port), workers=1)
        with Http2Client(node.port_of("ingress")) as client:
            client.request(1, path="/held")
            assert script.asked.wait(20)
            node.expected_end = True
            node.signal(signal.SIGTERM)
            first = client.of_type(GOAWAY)
            client.request(3, path="/late")      # before the client has answered the PING: it may not have heard yet
            assert client.message(3).body == b"ok"
            script.told.set()

            assert client.message(1).body == b"ok"
            assert (last_stream(first), first.code) == (LAST_ID, NO_ERROR)
            assert said_goodbye(client)[-1][1] == NO_ERROR


def test_the_answer_to_another_ping_does_not_end_a_drain(node_of) -> None:
    """That of a keep-alive is under way when the drain begins: the client may not have read the GOAWAY yet."""
    script = Held()
    with Origin(script) as origin:
        node = node_of(meshes.plain(origin.port), workers=1)
        with Http2Client(node.port_of("ingress")) as client:
            client.request(1, path="/held")
            assert script.asked.wait(20)
            node.expected_end = True
            node.signal(signal.SIGTERM)
            client.of_type(GOAWAY)
            client.send(frame(PING, ACK, 0, bytes(8)))
            client.request(3, path="/late")
            assert client.message(3).body == b"ok"
            script.told.set()

            assert client.message(1).body == b"ok"
            assert said_goodbye(client)[-1][1] == NO_ERROR


def test_a_connection_at_rest_goes_when_its_listener_goes(node_of) -> None:
    ports = free_ports(2)
    with Origin(Held()) as origin:
        node = node_of(meshes.plain(origin.port, port=ports[0]), workers=1)
        with Http2Client(ports[0]) as client:
            client.request(1)
            assert client.message(1).body == b"ok"
            node.configure(meshes.plain(origin.port, port=ports[1], name="other"))
            assert node.reload().returncode == 0

            assert said_goodbye(client)[-1] == (1, NO_ERROR)


def test_streams_take_a_reloads_settings_as_they_begin(node_of) -> None:
    script = Held()
    with Origin(script) as origin:
        node = node_of(meshes.plain(origin.port, mark="old"), workers=1)
        with Http2Client(node.port_of("ingress")) as client:
            client.request(1, path="/held")
            assert script.asked.wait(20)
            node.configure(meshes.plain(origin.port, mark="new"))
            assert node.reload().returncode == 0
            client.request(3)
            assert client.message(3).header("x-mark") == "new"
            script.told.set()
            assert client.message(1).header("x-mark") == "old"


def test_a_longest_life_ends_the_connection_not_the_stream(node_of) -> None:
    script = Held()
    with Origin(script) as origin:
        config = meshes.plain(origin.port, common_http_protocol_options={"max_connection_duration": "0.2s"}, drain_timeout="0.1s")
        node = node_of(config, workers=1)
        with Http2Client(node.port_of("ingress")) as client:
            client.request(1, path="/held")
            goodbyes = [last_stream(client.of_type(GOAWAY)) for _ in range(2)]
            script.told.set()

            assert goodbyes == [LAST_ID, 1]
            assert client.message(1).body == b"ok"


def test_a_codec_may_be_the_only_one(node_of) -> None:
    with Origin(Held()) as origin:
        only = {name: meshes.plain(origin.port, codec_type=name) for name in ("HTTP1", "HTTP2")}
        one, two = (node_of(config, workers=1) for config in only.values())
        with Http2Client(one.port_of("ingress")) as client:
            assert client.wire.rest().startswith(b"HTTP/1.1 4")
        with Http2Client(two.port_of("ingress")) as client:
            client.wire.sock.close()
        with Http2Client(two.port_of("ingress")) as client:
            client.request(1)
            assert client.message(1).body == b"ok"
        with Http2Client(two.port_of("ingress")) as client:
            client.request(1)
            client.send(get("/"))
            assert said_goodbye(client) != []
