"""Truths about the data path's corners: ends of bodies, retries, pipelining, tunnels, hosts that leave, clients that do not read."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers import bootstrap
from tests.processes import meshes
from tests.support.origin import OK, Connection, Origin, Request, answer
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, ClosedError, get, post

Script = Callable[[Connection, Request], None]
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
FRAMED_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def never(connection: Connection, request: Request) -> None:
    """An origin that takes a request and says nothing."""


def mesh(origin: Origin | SmallQueue, route: dict | None = None, cluster: dict | None = None, **manager) -> dict:
    routes = [
        {"match": {"path": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "d" * 4000}}},
        bootstrap.route("/", {"cluster": "origin", **(route or {"timeout": "0s"})}),
    ]
    listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host(routes)], **manager)
    return bootstrap.bootstrap([listener], [bootstrap.cluster("origin", origin.port, **(cluster or {}))])


def worker_of(node: Node) -> int:
    return int(node.ready_workers()[0]["pid"])


class Stopped:
    """A worker that stands still, so that what happens meanwhile comes to it as one batch of events."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __enter__(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGCONT)


class SmallQueue:
    """A listening socket that lets one connection wait; with `fill` its queue is full and connects to it hang."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port: int = self.listener.getsockname()[1]
        self.fillers: list[socket.socket] = []

    def fill(self) -> None:
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)

    def close(self) -> None:
        for each in (*self.fillers, self.listener):
            each.close()


# -- the end of a request's body


@pytest.mark.parametrize("body", [b"body", b""])
def test_a_post_has_the_routes_timeout(node_of, body: bytes) -> None:
    with Origin(never) as origin:
        node = node_of(mesh(origin, {"timeout": "0.3s"}))
        with Client(node.port_of("ingress")) as client:
            client.sock.settimeout(5)
            client.send(post(body))
            assert client.answer().status == 504


def test_posts_leave_the_upstream_connection_usable(node_of) -> None:
    with Origin() as origin:
        node = node_of(mesh(origin))
        with Client(node.port_of("ingress")) as client:
            for _ in range(4):
                assert client.ask(post(b"body")).status == 200
        assert origin.connections == 1


# -- time


def test_a_routes_idle_timeout_needs_no_other_timeout(node_of) -> None:
    with Origin(never) as origin:
        node = node_of(mesh(origin, {"timeout": "0s", "idle_timeout": "0.3s"}))
        with Client(node.port_of("ingress")) as client:
            client.sock.settimeout(5)
            client.send(get("/"))
            assert client.answer().status in (408, 504)


FILTERS = '''
import gc
import weakref

from gevent import Timeout, sleep


class Nap:
    ALIVE = weakref.WeakSet()

    def __init__(self, mark=""):
        self.ALIVE.add(self)

    def on_request(self, request):
        if request.path == "/alive":
            gc.collect()
            request.respond(200, str(len(self.ALIVE)))
        elif request.path == "/timeout":
            with Timeout(0.01):
                sleep(60)
        elif request.path == "/exit":
            sleep(0.01)
            raise SystemExit(3)
        else:
            sleep(0.01)
'''

FILTERED = """
listeners:
  - name: ingress
    address: 127.0.0.1:0
    filters:
      - python: reviewfilters:Nap
        settings: {{mark: "{mark}"}}
    routes:
      - prefix: /
        to: origin
        timeout: {timeout}
clusters:
  origin: [127.0.0.1:{port}]
"""


def filtered(port: int, timeout: str = "300ms", mark: str = "") -> str:
    return FILTERED.format(port=port, timeout=timeout, mark=mark)


@pytest.fixture
def filter_node(node_of, tmp_path: Path) -> Callable[[str], Node]:
    (tmp_path / "reviewfilters.py").write_text(FILTERS)
    return lambda config: node_of(config, environment={"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])})


def test_a_request_whose_filter_waited_has_the_routes_timeout(filter_node) -> None:
    with Origin(never) as origin:
        node = filter_node(filtered(origin.port))
        with Client(node.port_of("ingress")) as client:
            client.sock.settimeout(5)
            client.send(get("/nap"))
            assert client.answer().status == 504


def test_reloads_leave_no_filters_behind(filter_node) -> None:
    with Origin() as origin:
        node = filter_node(filtered(origin.port))
        port = node.port_of("ingress")
        for number in range(6):
            with Client(port) as client:
                client.ask(get("/nap"))
            node.configure(filtered(origin.port, mark=str(number)))
            assert node.reload().returncode == 0
        with Client(port) as client:
            for _ in range(3):
                client.ask(get("/nap"))
            assert int(client.ask(get("/alive")).body) <= 2


# -- pipelining


def test_requests_that_came_ahead_are_whole_when_more_comes_with_the_answer(node_of) -> None:
    """The answer and more requests in one batch of events: what is held must be read from its start."""
    held: list[Connection] = []

    def script(connection: Connection, request: Request) -> None:
        if request.target == "/1":
            held.append(connection)
        else:
            connection.send(OK)

    with Origin(script) as origin:
        node = node_of(mesh(origin))
        port, pid = node.port_of("ingress"), worker_of(node)
        with Client(port) as client:
            client.send(get("/1") + get("/2"))
            origin.next_request()
            assert wait_until(lambda: held, 5)
            with Stopped(pid):
                held[0].send(OK)
                threading.Event().wait(0.05)
                client.send(get("/3"))
                threading.Event().wait(0.05)
            assert [client.answer().status for _ in range(3)] == [200, 200, 200]


def accepted_bytes(client: Client, data: bytes, limit_bytes: int) -> int:
    """How much of endless `data` goes out before nothing more goes for a second."""
    client.sock.setblocking(False)
    sent = 0
    while sent < limit_bytes:
        if not select.select([], [client.sock], [], 1.0)[1]:
            break
        sent += client.sock.send(data)
    return sent


def test_a_client_that_pipelines_and_does_not_read_is_no_longer_read(node_of) -> None:
    with Origin() as origin:
        node = node_of(mesh(origin))
        with Client(node.port_of("ingress"), receive_buffer=65536) as client:
            limit = 8 << 20
            assert accepted_bytes(client, get("/direct") * 500, limit) < limit


def test_a_slow_reader_that_pipelines_gets_every_answer(node_of) -> None:
    """The end of back-pressure and more requests come in one event: what is held must be read from its start."""
    count = 6000
    with Origin() as origin:
        node = node_of(mesh(origin))
        with Client(node.port_of("ingress"), receive_buffer=4096) as client:
            sender = threading.Thread(target=lambda: [client.sock.sendall(get("/direct") * 20) for _ in range(count // 20)], daemon=True)
            sender.start()
            threading.Event().wait(0.5)
            statuses = [client.answer().status for _ in range(count)]
            sender.join()
        assert statuses == [200] * count


# -- clients that do not read


def test_an_idle_client_that_does_not_read_is_closed(node_of) -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"b" * 4000000
    with Origin(answer(body)) as origin:
        config = mesh(origin, common_http_protocol_options={"idle_timeout": "1s"}, delayed_close_timeout="0.5s")
        config["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = 16 << 20
        node = node_of(config)
        with Client(node.port_of("ingress"), receive_buffer=4096) as client:
            client.send(get("/"))
            client.until(b"\r\n\r\n")
            pid = worker_of(node)
            assert wait_until(lambda: established(pid, client.sock) == 0, 6)


def established(pid: int, sock: socket.socket) -> int:
    """How many sockets this machine has for the server's side of `sock`, in state ESTABLISHED."""
    here, there = sock.getsockname()[1], sock.getpeername()[1]
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(
        1 for row in rows if row.split()[1].endswith(f":{there:04X}") and row.split()[2].endswith(f":{here:04X}") and row.split()[3] == "01"
    )


def test_a_slow_client_gets_all_of_the_last_answer(node_of) -> None:
    """Steady progress, however slow, is no reason for a cut: the delayed close counts from the last byte that went."""
    size = 6_000_000

    def script(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size)
        connection.rest()

    with Origin(raw=script) as origin:
        config = mesh(origin, delayed_close_timeout="1s")
        config["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = 16 << 20
        node = node_of(config)
        with Client(node.port_of("ingress"), receive_buffer=65536) as client:
            client.send(get("/", "mesh.test", "Connection: close", "Content-Length: 10", method="POST") + b"12345")
            client.until(b"\r\n\r\n")
            got = 0
            while got < size:
                threading.Event().wait(0.05)
                got += len(client.exactly(min(100_000, size - got)))
        assert got == size


def test_a_steady_reader_is_not_cut_by_the_delayed_close(node_of) -> None:
    """The kernel tells of room only when a third of its buffer is free: at 400 kB/s that is later than the default second."""
    size = 6_000_000
    body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"b" * size
    with Origin(answer(body)) as origin:
        node = node_of(mesh(origin))
        with Client(node.port_of("ingress"), receive_buffer=65536) as client:
            client.send(get("/", "mesh.test", "Connection: close"))
            client.until(b"\r\n\r\n")
            got = 0
            for _ in range(180):
                threading.Event().wait(0.05)
                got += len(client.exactly(20_000))
            assert got + len(client.exactly(size - got)) == size


def test_nothing_is_served_after_the_last_answer(node_of) -> None:
    """RFC 9112 9.6: whoever has said `Connection: close` processes no further request, also while that answer still goes out."""
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + b"b" * 8000000
    with Origin(answer(body)) as origin:
        config = mesh(origin, delayed_close_timeout="20s")
        config["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = 32 << 20
        node = node_of(config)
        with Client(node.port_of("ingress"), receive_buffer=4096) as client:
            client.send(get("/1", "mesh.test", "Connection: close"))
            client.until(b"\r\n\r\n")
            threading.Event().wait(0.5)
            client.send(get("/2"))
            threading.Event().wait(0.5)
            assert [origin.next_request().target for _ in range(origin.seen.qsize())] == ["/1"]


# -- retries


def test_a_retry_after_a_stale_connection_outlives_the_tries_timeout(node_of) -> None:
    """The pooled connection is stale, the new connect hangs, and the try's deadline passes meanwhile."""
    full = SmallQueue()
    policy = {"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.3s"}
    try:
        node = node_of(mesh(full, {"timeout": "3s", "retry_policy": policy}))
        pid = worker_of(node)
        with Client(node.port_of("ingress")) as client:
            client.send(get("/"))
            upstream = Connection(full.listener.accept()[0], 1)
            upstream.request()
            upstream.send(OK)
            assert client.answer().status == 200
            full.fill()
            client.send(get("/"))
            upstream.request()
            upstream.close()
            assert client.answer().status in (503, 504)
        assert worker_of(node) == pid, "the worker died"
    finally:
        full.close()


def test_a_retried_request_has_the_same_head_but_for_the_host(node_of) -> None:
    tries: list[Request] = []

    def script(connection: Connection, request: Request) -> None:
        tries.append(request)
        connection.send(OK if len(tries) == 2 else b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    with Origin(script) as origin:
        endpoint = {"address": bootstrap.address(origin.port), "hostname": "an-endpoint.test"}
        assignment = {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}
        route = {"auto_host_rewrite": True, "retry_policy": {"retry_on": "5xx", "num_retries": 1}}
        node = node_of(mesh(origin, route, {"load_assignment": assignment}))
        with Client(node.port_of("ingress")) as client:
            client.send(b"GET http://absolute.example.test/ HTTP/1.1\r\nHost: absolute.example.test\r\n\r\n")
            assert client.answer().status == 200
        assert len(tries) == 2
        assert sorted(tries[0].headers) == sorted(tries[1].headers)


# -- tunnels


def test_nothing_goes_up_before_the_upgrade_is_accepted(node_of) -> None:
    """An origin that knows no upgrade would take a client's early bytes for a request that no filter and no route has seen."""
    heads: list[str] = []

    def script(connection: Connection, request: Request) -> None:
        heads.append(request.target)
        if len(heads) == 1:
            threading.Event().wait(0.3)
        connection.send(OK)

    with Origin(script) as origin:
        node = node_of(mesh(origin, {"timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]}))
        with Client(node.port_of("ingress")) as client:
            client.send(get("/ws", "mesh.test", *UPGRADE))
            origin.next_request()
            client.send(get("/smuggled"))
            client.answer()
            client.rest()
        threading.Event().wait(0.3)
        assert heads == ["/ws"]


def test_an_upgrade_with_a_body_is_answered_and_keeps_its_framing(node_of) -> None:
    heads: list[str] = []

    def script(connection: Connection, request: Request) -> None:
        heads.append(request.target)
        connection.send(OK)

    with Origin(script) as origin:
        node = node_of(mesh(origin, {"timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]}))
        inner = b"0\r\n\r\n" + get("/smuggled")
        with Client(node.port_of("ingress")) as client:
            head = get("/ws", "mesh.test", *UPGRADE, "Transfer-Encoding: chunked", method="POST")
            client.sock.settimeout(5)
            client.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner))
            assert client.answer().status < 500
        threading.Event().wait(0.3)
        assert "/smuggled" not in heads


def test_a_tunnel_ends_when_the_origin_ends_first_and_then_the_client(node_of) -> None:
    def raw(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.rest() == b"late"

    with Origin(raw=raw) as origin:
        node = node_of(mesh(origin, {"timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]}))
        with Client(node.port_of("ingress")) as client:
            client.send(get("/ws", "mesh.test", *UPGRADE))
            client.until(b"\r\n\r\n")
            assert client.rest() == b"bye"
            client.send(b"late")
            client.sock.shutdown(socket.SHUT_WR)
            threading.Event().wait(0.3)
        assert origin.failures == []


# -- hosts that leave


def test_a_request_that_waits_for_a_connection_is_served_though_its_host_leaves(node_of) -> None:
    held: list[Connection] = []

    def script(connection: Connection, request: Request) -> None:
        if request.target == "/1":
            held.append(connection)
        else:
            connection.send(OK)

    with Origin(script) as origin, Origin() as other:
        one = {"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 10}]}}
        node = node_of(mesh(origin, None, one))
        port = node.port_of("ingress")
        with Client(port) as first, Client(port) as second:
            first.send(get("/1"))
            origin.next_request()
            second.sock.settimeout(5)
            second.send(get("/2"))
            threading.Event().wait(0.2)
            node.configure(mesh(other, None, one))
            assert node.reload().returncode == 0
            assert wait_until(lambda: held, 5)
            held[0].send(OK)
            assert first.answer().status == 200
            assert second.answer().status in (200, 503)


def test_an_idle_connection_of_a_removed_listener_is_served_or_closed(node_of) -> None:
    with Origin() as origin:
        both = meshes.plain(origin.port)
        gone = bootstrap.http_listener("gone", 0, [bootstrap.virtual_host([bootstrap.route("/", "origin")])])
        both["static_resources"]["listeners"].append(gone)
        node = node_of(both)
        with Client(node.port_of("gone")) as client:
            assert client.ask(get("/")).status == 200
            node.configure(meshes.plain(origin.port))
            assert node.reload().returncode == 0
            try:
                client.send(get("/"))
                status = client.answer().status
            except (ClosedError, BrokenPipeError):
                return
            assert status == 200


# -- what a reload takes out of use


def http_prefix_cells(node: Node) -> dict[str, int]:
    from meshproxy.admin.client import ControlClient

    return {name: cell for kind, name, cell in ControlClient(str(node.control)).directory().rows if kind == "HTTP"}


def test_the_place_of_a_connection_managers_metrics_is_used_again_after_a_burst(node_of) -> None:
    held: list[Connection] = []
    with Origin(lambda connection, request: held.append(connection)) as origin:
        node = node_of(meshes.plain(origin.port, stat_prefix="first"))
        place = http_prefix_cells(node)["first"]
        port = node.port_of("ingress")
        clients = [Client(port) for _ in range(20)]
        for client in clients:
            client.send(get("/"))
        assert wait_until(lambda: len(held) == 20, 10)
        for connection in held:
            connection.send(FRAMED_CLOSE)
        for client in clients:
            client.answer()
            client.close()

        def next_place(number: int) -> int:
            node.configure(meshes.plain(origin.port, stat_prefix=f"next-{number}"))
            assert node.reload().returncode == 0
            return http_prefix_cells(node)[f"next-{number}"]

        assert any(next_place(number) == place for number in range(12))


# -- sizes


def test_a_head_as_large_as_the_limit_allows_passes(node_of) -> None:
    with Origin() as origin:
        node = node_of(mesh(origin, max_request_headers_kb=512))
        with Client(node.port_of("ingress")) as client:
            client.send(get("/", "mesh.test", *(f"X-{n}: {'v' * 6000}" for n in range(60))))
            assert client.answer().status in (200, 431)
