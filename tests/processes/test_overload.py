"""A worker's totals: near the one for buffers reading pauses, at it new requests get 503; at the one for connections new ones are closed.

The bounds are looked at where a worker counts what it holds (`server.buffered_bytes`) and in its memory, never by the clock.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.support.origin import OK, Connection, Origin, Request
from tests.support.processes import Node, pss_bytes, wait_until
from tests.support.wire import Client, get, post

MIB = 1 << 20
LIMIT_BYTES = 2 * MIB
INBOX_BYTES = 64 << 10
"""The most that one more read may add to what is held."""
BULK_BYTES = 32 * MIB
ALLOCATOR_BYTES = 6 * MIB
PEERS = 12
PATIENCE_S = 30.0


def mesh(origin_port: int, overload: str) -> str:
    return f"""
admin: 127.0.0.1:0
overload: {{{overload}}}
listeners:
- name: ingress
  address: 127.0.0.1:0
  routes:
  - {{prefix: /kept, to: origin, timeout: 0, retry: {{on: [connect-failure], times: 1}}}}
  - {{prefix: /, to: origin, timeout: 0}}
clusters:
  origin: [127.0.0.1:{origin_port}]
"""


@pytest.fixture
def started(node_of: Callable[..., Node]) -> Callable[..., Node]:
    """Starts a node of one worker: `started(origin_port)` with a small total for buffers, or with another `overload`."""

    def start(origin_port: int, overload: str = f"max_worker_buffer: {LIMIT_BYTES}B") -> Node:
        node = node_of(mesh(origin_port, overload), workers=1)
        node.port = node.port_of("ingress")
        node.admin = node.status()["admin"]
        return node

    return start


def stat(node: Node, name: str) -> int:
    """A counter or gauge of the node, now."""
    lines = requests.get(f"http://{node.admin}/stats", timeout=PATIENCE_S).text.splitlines()
    return next(int(line.rpartition(": ")[2]) for line in lines if line.startswith(f"{name}: "))


def held_bytes(node: Node) -> int:
    """What the worker holds for slow peers."""
    return stat(node, "server.buffered_bytes")


def memory_bytes(node: Node) -> int:
    return pss_bytes([row["pid"] for row in node.ready_workers()])


def bulk(connection: Connection, request: Request) -> None:
    """Much for `/bulk`, "ok" for everything else."""
    if request.target != "/bulk":
        connection.send(OK)
        return
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BULK_BYTES)
    for _ in range(BULK_BYTES // MIB):
        connection.send(b"z" * MIB)


@contextlib.contextmanager
def readers(node: Node, enough: Callable[[], bool]) -> Iterator[list[Client]]:
    """Clients that ask for much and read nothing, one after the other until it is `enough`."""
    with contextlib.ExitStack() as held:
        clients: list[Client] = []
        while not wait_until(enough, 0.2):
            assert len(clients) < 100, f"100 clients that do not read, and the worker holds {held_bytes(node)} bytes"
            clients.append(held.enter_context(Client(node.port, receive_buffer=4096)))
            clients[-1].send(get("/bulk"))
        yield clients


def test_full_buffers_refuse_new_requests_until_there_is_room(started: Callable[..., Node]) -> None:
    with Origin(bulk) as origin:
        node = started(origin.port)
        with Client(node.port) as early:
            assert early.ask(get("/")).body == b"ok"
            before = memory_bytes(node)
            with readers(node, lambda: held_bytes(node) > LIMIT_BYTES) as slow:
                said = early.ask(get("/"))
                with Client(node.port) as late:
                    late_said = late.ask(get("/"))
                assert held_bytes(node) <= LIMIT_BYTES + len(slow) * INBOX_BYTES
                assert memory_bytes(node) - before <= held_bytes(node) + ALLOCATOR_BYTES
            for answer in (said, late_said):
                assert (answer.status, answer.header("x-envoy-overloaded"), answer.body) == (503, "true", b"envoy overloaded")
            assert stat(node, "server.overload_rejected_rq") == 2
            assert stat(node, "http.ingress.downstream_rq_overload_close") == 2
            assert stat(node, "server.overload_paused_reading") > 0

            assert wait_until(lambda: held_bytes(node) == 0, PATIENCE_S), "who goes takes along what was held for him"
            assert early.ask(get("/")).body == b"ok", "the connection that was refused a request is served again"


def test_who_was_read_near_the_total_is_read_on(started: Callable[..., Node]) -> None:
    """Many downloads at once, each of which alone may hold 1 MiB: all pause early, and all come through whole."""
    with Origin(bulk) as origin:
        # The tenth of it that is "near" has room for three more reads. In a tenth of 2 MiB the third reader may find the total reached.
        node = started(origin.port, f"max_worker_buffer: {2 * LIMIT_BYTES}B")
        with readers(node, lambda: stat(node, "server.overload_paused_reading") >= 3) as slow:
            for client in slow:
                client.until(b"\r\n\r\n")
                assert client.exactly(BULK_BYTES) == b"z" * BULK_BYTES
        assert held_bytes(node) == 0


def test_uploads_pause_near_the_total_and_come_through(started: Callable[..., Node]) -> None:
    may_read = threading.Event()

    def converse(connection: Connection) -> None:
        head = connection.head()
        may_read.wait(PATIENCE_S)
        connection.exactly(int(head.header("content-length") or 0))
        connection.send(OK)

    def upload(client: Client) -> None:
        for _ in range(BULK_BYTES // MIB):
            client.send(b"z" * MIB)

    with Origin(raw=converse) as origin, contextlib.ExitStack() as held:
        node = started(origin.port)
        before = memory_bytes(node)
        clients = [held.enter_context(Client(node.port)) for _ in range(PEERS)]
        for client in clients:
            client.send(get("/", "mesh.test", f"Content-Length: {BULK_BYTES}", method="POST"))
        assert wait_until(lambda: stat(node, "http.ingress.downstream_rq_active") == PEERS, PATIENCE_S)
        threads = [threading.Thread(target=upload, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: all_paused(node), PATIENCE_S)
        holds, memory = held_bytes(node), memory_bytes(node) - before
        may_read.set()

        # Each may have read once more, and what comes before there is a connection is kept with room for as much again.
        assert holds <= LIMIT_BYTES + PEERS * 3 * INBOX_BYTES < PEERS * MIB, "each upload alone may hold 1 MiB"
        assert memory <= holds + ALLOCATOR_BYTES
        for client, thread in zip(clients, threads, strict=True):
            assert client.answer().body == b"ok"
            thread.join()
        assert stat(node, "server.overload_paused_reading") > 0
        assert stat(node, "server.overload_rejected_rq") == 0
        assert held_bytes(node) == 0


def all_paused(node: Node) -> bool:
    """Whether the worker reads from no upload any more."""
    paused = stat(node, "http.ingress.downstream_flow_control_paused_reading_total")
    return paused - stat(node, "http.ingress.downstream_flow_control_resumed_reading_total") == PEERS


def test_near_the_total_no_body_is_kept_for_a_retry(started: Callable[..., Node]) -> None:
    """An upstream that takes bodies as they come and is slow to answer: what is kept of them for a retry has the same total."""
    body = b"z" * (256 << 10)
    taken, may_answer = threading.Semaphore(0), threading.Event()

    def script(connection: Connection, request: Request) -> None:
        assert request.body == body
        taken.release()
        may_answer.wait(PATIENCE_S)
        connection.send(OK)

    with Origin(script) as origin, contextlib.ExitStack() as held:
        node = started(origin.port)
        clients = [held.enter_context(Client(node.port)) for _ in range(PEERS)]
        for client in clients:
            client.send(post(body, "/kept"))
            assert taken.acquire(timeout=PATIENCE_S)
        holds = held_bytes(node)
        may_answer.set()

        assert len(body) < holds <= LIMIT_BYTES + 2 * len(body) < PEERS * len(body)
        assert [client.answer().body for client in clients] == [b"ok"] * PEERS
        assert held_bytes(node) == 0
        assert origin.failures == []


@pytest.mark.parametrize("sent", ["a head that is not whole", "requests ahead of an answer"])
def test_what_clients_send_before_it_is_wanted_counts(started: Callable[..., Node], sent: str) -> None:
    """Clients that each make the worker hold some tens of KiB, and there are many of them."""
    may_answer = threading.Event()
    large = get("/", "mesh.test", f"X-Large: {'x' * 40_000}")
    data = large[:-2] if sent == "a head that is not whole" else get("/slow") + large

    def script(connection: Connection, request: Request) -> None:
        if request.target == "/slow":
            may_answer.wait(PATIENCE_S)
        connection.send(OK)

    with Origin(script) as origin, contextlib.ExitStack() as held:
        node = started(origin.port)
        with Client(node.port) as early:
            assert early.ask(get("/")).status == 200
            clients: list[Client] = []
            while not wait_until(lambda: held_bytes(node) > LIMIT_BYTES, 0.05):
                assert len(clients) < 100, f"100 such clients, and the worker holds {held_bytes(node)} bytes"
                clients.append(held.enter_context(Client(node.port)))
                clients[-1].send(data)
            assert early.ask(get("/")).status == 503
            may_answer.set()
            for client in clients:
                client.close()

            assert wait_until(lambda: held_bytes(node) == 0, PATIENCE_S)
            assert early.ask(get("/")).status == 200


def test_at_the_total_of_connections_new_ones_are_closed(started: Callable[..., Node]) -> None:
    with Origin() as origin, contextlib.ExitStack() as held:
        node = started(origin.port, "max_worker_connections: 5")
        clients = [held.enter_context(Client(node.port)) for _ in range(5)]
        for client in clients:
            assert client.ask(get("/")).body == b"ok"
        for _ in range(3):
            with Client(node.port) as refused:
                assert refused.is_closed()

        assert stat(node, "server.overload_rejected_cx") == 3
        assert stat(node, "listener.127.0.0.1_0.downstream_cx_overload_reject") == 3
        assert [client.ask(get("/")).body for client in clients] == [b"ok"] * 5

        clients.pop().close()
        assert wait_until(lambda: stat(node, "server.total_connections") == 4, PATIENCE_S)
        with Client(node.port) as admitted:
            assert admitted.ask(get("/")).body == b"ok"
