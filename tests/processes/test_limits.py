"""Bounds: a slow peer, too many files, ten thousand idle clients. Memory stays, and nobody dies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.processes import meshes
from tests.support.load import Load
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import Node, pss_bytes, raise_open_files, wait_until
from tests.support.wire import Client, ask, get

MIB = 1 << 20
BULK_BYTES = 64 * MIB
HELD_AT_MOST_BYTES = 8 * MIB
"""The watermark is 1 MiB for each side; the rest is room for the allocator."""
IDLE_CONNECTIONS = 10_000
SPARE_FILES = 300


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as standing:
        yield standing


def worker_pss(node: Node) -> int:
    return pss_bytes([row["pid"] for row in node.ready_workers()])


class Counted:
    """How many bytes a sender got rid of, and when it last could."""

    def __init__(self) -> None:
        self.sent = 0

    def stands_still(self) -> bool:
        """Whether nothing more goes out: the count is the same at two looks half a second apart."""
        before = self.sent
        threading.Event().wait(0.5)
        return self.sent == before and self.sent > 0


def test_a_client_that_does_not_read_holds_no_memory(node_of) -> None:
    counted = Counted()

    def script(connection: Connection, request: Request) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BULK_BYTES)
        for _ in range(BULK_BYTES // MIB):
            connection.send(b"z" * MIB)
            counted.sent += MIB

    with Origin(script) as origin:
        node = node_of(meshes.plain(origin.port), workers=1)
        port = node.port_of("ingress")
        before = worker_pss(node)
        with Client(port, receive_buffer=65536) as client:
            client.send(get("/"))
            assert wait_until(counted.stands_still, 20)
            held, stuck_at = worker_pss(node) - before, counted.sent

            assert stuck_at < BULK_BYTES, "back-pressure reached the origin"
            assert held < HELD_AT_MOST_BYTES
            client.until(b"\r\n\r\n")
            assert client.exactly(BULK_BYTES) == b"z" * BULK_BYTES


def test_an_origin_that_does_not_read_holds_no_memory(node_of) -> None:
    counted, may_read = Counted(), threading.Event()

    def converse(connection: Connection) -> None:
        head = connection.head()
        may_read.wait(30)
        connection.exactly(int(head.header("content-length") or 0))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Origin(raw=converse) as origin:
        node = node_of(meshes.plain(origin.port), workers=1)
        before = worker_pss(node)
        with Client(node.port_of("ingress")) as client:
            client.send(get("/", "mesh.test", f"Content-Length: {BULK_BYTES}", method="POST"))

            def upload() -> None:
                for _ in range(BULK_BYTES // MIB):
                    client.send(b"z" * MIB)
                    counted.sent += MIB

            uploading = threading.Thread(target=upload)
            uploading.start()
            assert wait_until(counted.stands_still, 20)
            held, stuck_at = worker_pss(node) - before, counted.sent
            may_read.set()

            assert stuck_at < BULK_BYTES, "back-pressure reached the client"
            assert held < HELD_AT_MOST_BYTES
            assert client.answer().status == 200
            uploading.join()


def test_at_the_limit_of_files_the_node_lives_and_recovers(node_of, origin: Origin) -> None:
    limit = 150
    node = node_of(meshes.plain(origin.port), workers=1, open_files=limit)
    port = node.port_of("ingress")
    pids = [row["pid"] for row in node.ready_workers()]
    with contextlib.ExitStack() as held:
        for _ in range(2 * limit):
            sock = held.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
    # All gone again: what waited is dropped, and new clients are served.
    with Load(port, 5) as load:
        load.wait_answers(100)
        report = load.stop()

    assert report.failed == 0, report.failures
    assert [row["pid"] for row in node.ready_workers()] == pids


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ten_thousand_idle_connections(node_of, origin: Origin) -> None:
    limit = raise_open_files()
    if limit < IDLE_CONNECTIONS + SPARE_FILES:
        pytest.skip(f"the limit of open files is {limit}, and {IDLE_CONNECTIONS} connections need {IDLE_CONNECTIONS + SPARE_FILES}")
    node = node_of(meshes.plain(origin.port), workers=1)
    port = node.port_of("ingress")
    ask(port, get("/"))
    before = worker_pss(node)
    with contextlib.ExitStack() as held:
        clients = []
        for _ in range(IDLE_CONNECTIONS):
            clients.append(held.enter_context(Client(port)))
            assert clients[-1].ask(get("/")).status == 200
        each = (worker_pss(node) - before) / IDLE_CONNECTIONS
        assert clients[0].ask(get("/")).status == 200
        assert clients[-1].ask(get("/")).status == 200

    assert each <= 1536, f"an idle connection costs {each:.0f} bytes"


def test_slow_heads_do_not_stop_others(node_of, origin: Origin) -> None:
    """Clients that send a byte and wait hold a connection, and nothing else."""
    node = node_of(meshes.plain(origin.port), workers=1)
    port = node.port_of("ingress")
    with contextlib.ExitStack() as held:
        for _ in range(200):
            held.enter_context(Client(port)).send(b"G")
        with Load(port, 10) as load:
            load.wait_answers(200)
            report = load.stop()

    assert report.failed == 0, report.failures
