"""What clients may send ahead: behind an upgrade that is not granted, and behind answers that they do not read."""

from __future__ import annotations

import json
import queue
import socket
import urllib.request
from collections.abc import Callable

import pytest

from tests.processes import meshes
from tests.support.origin import Connection, Origin
from tests.support.processes import Node
from tests.support.wire import Client, ClosedError, ask, get

UPGRADE = get("/", "mesh.test", "Connection: Upgrade", "Upgrade: websocket")
GRANTED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def upgrading(origin_port: int) -> dict:
    return meshes.plain(origin_port, upgrade_configs=[{"upgrade_type": "websocket"}])


def test_what_follows_a_refused_upgrade_reaches_nobody(node_of: Callable[..., Node]) -> None:
    heard: queue.Queue[bytes] = queue.Queue()

    def script(connection: Connection) -> None:
        connection.until(b"\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
        heard.put(connection.rest())

    with Origin(raw=script) as origin:
        node = node_of(upgrading(origin.port))
        with Client(node.port_of("ingress")) as client:
            client.send(UPGRADE + b"GET /smuggled HTTP/1.1\r\nHost: mesh.test\r\n\r\n")
            said = client.answer()

            assert (said.status, said.header("connection")) == (200, "close")
            assert client.is_closed()
        assert heard.get(timeout=20) == b""


def test_what_follows_a_granted_upgrade_goes_on_after_the_101(node_of: Callable[..., Node]) -> None:
    def script(connection: Connection) -> None:
        head = connection.until(b"\r\n\r\n")
        assert b"first" not in head
        connection.send(GRANTED + b"hello")
        connection.send(connection.exactly(11)[::-1])
        connection.rest()

    with Origin(raw=script) as origin:
        node = node_of(upgrading(origin.port))
        with Client(node.port_of("ingress")) as client:
            client.send(UPGRADE + b"first ")
            assert client.answer().status == 101
            client.send(b"other")

            assert client.exactly(16) == b"hello" + b"first other"[::-1]


def test_each_side_of_a_tunnel_may_end_first(node_of: Callable[..., Node]) -> None:
    def script(connection: Connection) -> None:
        order = connection.until(b"\r\n\r\n").split(b" ")[1]
        connection.send(GRANTED)
        if order == b"/origin-first":
            connection.send(b"bye")
            connection.sock.shutdown(socket.SHUT_WR)
            heard.put(connection.rest())
        else:
            heard.put(connection.rest())
            connection.send(b"bye")

    heard: queue.Queue[bytes] = queue.Queue()
    with Origin(raw=script) as origin:
        node = node_of(upgrading(origin.port))
        for path in ("/origin-first", "/client-first"):
            with Client(node.port_of("ingress")) as client:
                client.send(UPGRADE.replace(b" / ", b" " + path.encode() + b" "))
                assert client.answer().status == 101
                if path == "/origin-first":
                    assert client.rest() == b"bye"
                    client.send(b"last words")
                    client.sock.shutdown(socket.SHUT_WR)
                else:
                    client.send(b"last words")
                    client.sock.shutdown(socket.SHUT_WR)
                    assert client.rest() == b"bye"

                assert heard.get(timeout=20) == b"last words"


def test_a_client_that_asks_and_does_not_read_holds_little(node_of: Callable[..., Node]) -> None:
    """Answers made here cost the proxy memory until they are taken: at the high watermark it stops reading."""
    listener = {
        "name": "ingress", "address": "127.0.0.1:0", "buffer_limit": "64KiB",
        "respond": {"status": 200, "body": "x" * 1000},
    }  # fmt: skip
    node = node_of({"admin": "127.0.0.1:0", "listeners": [listener]})
    requests = 500_000                           # 20 MB: more than the kernel holds for us
    with Client(node.port_of("ingress"), receive_buffer=4096) as client:
        client.sock.setblocking(False)
        pending = memoryview(get("/") * requests)
        full = 0
        while pending and full < 50:
            try:
                pending = pending[client.sock.send(pending) :]
                full = 0
            except BlockingIOError:
                full += 1
                assert ask(node.port_of("ingress"), get("/")).status == 200   # others are served meanwhile
        with urllib.request.urlopen(f"http://{node.status()['admin']}/stats?format=json&filter=server.buffered_bytes") as page:
            held = json.load(page)["stats"][0]["value"]
        client.sock.setblocking(True)

        assert full == 50
        assert held < 1 << 20
        client.sock.settimeout(20)
        assert client.answer().status == 200


def test_a_tunnel_outlives_a_reload_and_ends_with_its_sides(node_of: Callable[..., Node]) -> None:
    def script(connection: Connection) -> None:
        connection.until(b"\r\n\r\n")
        connection.send(GRANTED)
        try:
            while True:
                connection.send(connection.exactly(4))
        except ClosedError:
            return

    with Origin(raw=script) as origin:
        node = node_of(upgrading(origin.port))
        with Client(node.port_of("ingress")) as client:
            client.send(UPGRADE)
            assert client.answer().status == 101
            node.configure(upgrading(origin.port) | {"node": {"id": "other"}})
            assert node.reload().returncode == 0
            client.send(b"ping")

            assert client.exactly(4) == b"ping"


@pytest.mark.parametrize("kind", ["h2c", "websocket"])
def test_an_upgrade_that_nobody_allowed(node_of: Callable[..., Node], kind: str) -> None:
    """h2c is ours to grant (its settings here are none, so HTTP/1 goes on) and never carried on; anything else is refused."""
    with Origin() as origin:
        node = node_of(meshes.plain(origin.port))
        lines = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {kind}", "HTTP2-Settings: ???")
        said = ask(node.port_of("ingress"), get("/", "mesh.test", *lines))

        assert said.status == (200 if kind == "h2c" else 403)
        if kind == "h2c":
            seen = origin.next_request()
            assert seen.header("upgrade") is None
            assert seen.header("http2-settings") is None
