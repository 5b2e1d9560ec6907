"""TCP through the relay, in conversations between sockets. Run on Envoy too (MESHPROXY_TESTS_ON=envoy) where they claim what it does."""

from __future__ import annotations

import hashlib
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.corpus import hellos
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports, program
from tests.processes.conftest import ON_ENVOY
from tests.support.processes import Node, wait_until

PATIENCE_S = 20.0
MIB = 1 << 20
FILTERS = f"{bootstrap.TYPES}.extensions.filters"
RESET = struct.pack("ii", 1, 0)

Json = dict[str, Any]


class Endpoint:
    """Accepts connections and gives them to the test, or to `serve` in a thread each."""

    def __init__(self, serve: Callable[[socket.socket], None] | None = None, path: Path | None = None) -> None:
        if path is None:
            self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            self.port = self.listener.getsockname()[1]
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
            self.listener.listen(64)
        self.serve = serve
        self.accepted: queue.Queue[socket.socket] = queue.Queue()
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.count += 1
            connection.settimeout(PATIENCE_S)
            if self.serve is None:
                self.accepted.put(connection)
            else:
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.serve(connection)
            except OSError:
                pass

    def next(self) -> socket.socket:
        return self.accepted.get(timeout=PATIENCE_S)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        while not self.accepted.empty():
            self.accepted.get().close()


class Relay:
    """A proxy with TCP listeners."""

    def __init__(self, peer: Peer, ports: dict[str, int], admin: int, log: Path) -> None:
        self.peer, self.ports, self.admin, self.log = peer, ports, admin, log

    def connect(self, listener: str = "relay") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=PATIENCE_S)

    def counter(self, name: str) -> int:
        for line in requests.get(f"http://127.0.0.1:{self.admin}/stats", timeout=PATIENCE_S).text.splitlines():
            if line.startswith(f"{name}: "):
                return int(line.partition(": ")[2])
        return 0

    def wait_counter(self, name: str, value: int) -> None:
        assert wait_until(lambda: self.counter(name) == value, PATIENCE_S), f"{name} is {self.counter(name)}, not {value}"

    def logged(self, count: int) -> list[str]:
        """The log's lines, once there are so many."""
        assert wait_until(lambda: self.log.exists() and len(self.log.read_text().splitlines()) >= count, PATIENCE_S), self.peer.output()
        return self.log.read_text().splitlines()

    def workers(self) -> list[int]:
        return [row["pid"] for row in self.peer.ready_workers()] if isinstance(self.peer, Node) else []


Start = Callable[..., Relay]


@pytest.fixture
def relay_of(tmp_path: Path) -> Iterator[Start]:
    """`relay_of(listeners, clusters)`: listeners are functions of a port."""
    started: list[Peer] = []

    def start(listeners: dict[str, Callable[[str, int], Json]], clusters: list[Json], **node: Any) -> Relay:
        directory = tmp_path / f"proxy-{len(started)}"
        *chosen, admin = free_ports(len(listeners) + 1)
        ports = dict(zip(listeners, chosen, strict=True))
        log = tmp_path / "access.log"
        config = bootstrap.bootstrap([make(name, ports[name]) for name, make in listeners.items()], clusters, admin)
        config = _with_log(config, str(log))
        if ON_ENVOY:
            try:
                peer: Peer = Envoy(directory, config, [admin])
            except PeerMissingError as error:
                pytest.skip(str(error))
        else:
            peer = Node(directory, config, **node)
        started.append(peer)
        peer.start()
        # Nobody may connect to a listener only to see whether it is there: the endpoint would be told.
        assert wait_until(lambda: requests.get(f"http://127.0.0.1:{admin}/ready", timeout=PATIENCE_S).text == "LIVE\n", PATIENCE_S)
        return Relay(peer, ports, admin, log)

    yield start
    for peer in started:
        died = peer.process is not None and peer.process.poll() is not None and not getattr(peer, "expected_end", False)
        peer.stop()
        assert not died, peer.output()
        assert not (isinstance(peer, Node) and peer.wreckage()), peer.output()


def _with_log(config: Json, path: str) -> Json:
    """All relays log to one file."""
    line = "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %REQUESTED_SERVER_NAME%\n"
    for listener in config["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            terminal = chain["filters"][-1]["typed_config"]
            if terminal["@type"] == bootstrap.TCP_PROXY:
                terminal["access_log"] = [bootstrap.file_log(path, line)]
    return config


def relay(cluster: str | Json = "origin", filters: list[Json] | None = None, **proxy: Any) -> Callable[[str, int], Json]:
    return lambda name, port: bootstrap.tcp_listener(name, port, cluster, filters, **proxy)


def network_filter(kind: str, message: str, **settings: Any) -> Json:
    return {"name": f"envoy.filters.network.{kind}", "typed_config": {"@type": f"{FILTERS}.network.{kind}.v3.{message}", **settings}}


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def read_all(connection: socket.socket) -> bytes:
    connection.settimeout(PATIENCE_S)
    parts = []
    while data := connection.recv(65536):
        parts.append(data)
    return b"".join(parts)


def exactly(connection: socket.socket, length: int) -> bytes:
    """So many bytes, or less at the end."""
    data = bytearray()
    while len(data) < length and (part := connection.recv(min(length - len(data), 65536))):
        data += part
    return bytes(data)


def send_in_background(connection: socket.socket, data: bytes) -> threading.Thread:
    def send() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- bytes


def test_both_sides_speak_whenever_they_like(relay_of: Start) -> None:
    with Endpoint() as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client, origin.next() as server:
            server.sendall(b"hello")
            assert client.recv(100) == b"hello"
            client.sendall(b"hi")
            assert server.recv(100) == b"hi"
            client.shutdown(socket.SHUT_WR)
            assert server.recv(100) == b""
            server.sendall(b"still here")
            assert client.recv(100) == b"still here"
            server.close()
            assert client.recv(100) == b""

        assert proxy.logged(1) == [f"- 2 15 origin 127.0.0.1:{origin.port} -"]
        proxy.wait_counter("cluster.origin.upstream_cx_active", 0)
        assert proxy.counter("tcp.relay.downstream_cx_total") == 1
        assert proxy.counter("tcp.relay.downstream_cx_rx_bytes_total") == 2
        assert proxy.counter("tcp.relay.downstream_cx_tx_bytes_total") == 15


def test_the_endpoint_may_end_first(relay_of: Start) -> None:
    with Endpoint() as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client, origin.next() as server:
            server.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
            client.sendall(b"more")
            assert server.recv(100) == b"more"
            client.close()
            assert server.recv(100) == b""


def test_much_goes_both_ways_at_once_whole_and_in_order(relay_of: Start) -> None:
    up, down = os.urandom(24 * MIB), os.urandom(24 * MIB + 12345)
    with Endpoint() as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client, origin.next() as server:
            received: list[str] = []
            reading = threading.Thread(target=lambda: received.append(digest(read_all(server))))
            reading.start()
            senders = [send_in_background(client, up), send_in_background(server, down)]
            assert digest(read_all(client)) == digest(down)
            reading.join(PATIENCE_S)
            assert received == [digest(up)]
            for sender in senders:
                sender.join(PATIENCE_S)
        assert proxy.logged(1) == [f"- {len(up)} {len(down)} origin 127.0.0.1:{origin.port} -"]


def pipes_of(pid: int) -> int:
    return sum(os.readlink(link).startswith("pipe:") for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())


@pytest.mark.skipif(ON_ENVOY, reason="looks into a worker")
def test_bulk_goes_through_a_pipe_and_little_does_not(relay_of: Start) -> None:
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        (worker,) = proxy.workers()
        before = pipes_of(worker)
        with proxy.connect() as client:
            for _ in range(50):
                client.sendall(b"x" * 1000)
                assert len(exactly(client, 1000)) == 1000
            assert pipes_of(worker) == before
            data = os.urandom(16 * MIB)
            sender = send_in_background(client, data)
            assert read_all(client) == data
            sender.join(PATIENCE_S)
        assert pipes_of(worker) > before


def test_little_and_much_in_turn(relay_of: Start) -> None:
    """The ways of moving bytes change under one connection, and nothing is lost or overtaken."""
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client:
            for size in [1, 4 * MIB, 100, *[3000] * 30, 2 * MIB, 1, 6 * MIB]:
                data = os.urandom(size)
                sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
                sender.start()
                assert exactly(client, size) == data
                sender.join(PATIENCE_S)


def test_who_does_not_read_stops_who_sends(relay_of: Start) -> None:
    sent = 0
    full = threading.Event()
    block = os.urandom(MIB)
    most = 256

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        connection.settimeout(1.0)
        for _ in range(most):
            try:
                connection.sendall(block)
            except TimeoutError:
                break
            sent += 1
        full.set()

    with Endpoint(flood) as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            assert full.wait(PATIENCE_S)
            # What kernels hold in four socket buffers, and the relay's watermark.
            assert sent < 64
            received = read_all(client)
        assert received[: sent * MIB] == block * sent


def test_unix_sockets_on_both_sides(relay_of: Start, tmp_path: Path) -> None:
    path = tmp_path / "origin.sock"
    front = tmp_path / "front.sock"
    with Endpoint(echo, path):
        cluster = bootstrap.cluster("origin")
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(path)}}}}]}]
        listener = relay()
        on_pipe = {"address": {"pipe": {"path": str(front)}}}
        proxy = relay_of({"relay": lambda name, port: listener(name, port) | on_pipe, "tcp": relay()}, [cluster])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(front))
            data = os.urandom(8 * MIB)
            send_in_background(client, data)
            assert read_all(client) == data
        with proxy.connect("tcp") as client:
            send_in_background(client, b"abc")
            assert read_all(client) == b"abc"


# -- ends that are no good ends


def test_a_reset_by_the_endpoint_is_one_for_the_client(relay_of: Start) -> None:
    with Endpoint() as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client:
            server = origin.next()
            server.sendall(b"half of")
            assert client.recv(100) == b"half of"
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            server.close()
            with pytest.raises(ConnectionResetError):
                client.recv(100)


def test_a_reset_by_the_client_is_one_for_the_endpoint(relay_of: Start) -> None:
    with Endpoint() as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        client = proxy.connect()
        with origin.next() as server:
            client.sendall(b"half of")
            assert server.recv(100) == b"half of"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            with pytest.raises(ConnectionResetError):
                server.recv(100)


def test_the_next_endpoint_is_tried(relay_of: Start) -> None:
    (dead,) = free_ports(1)
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay(max_connect_attempts=3)}, [bootstrap.cluster("origin", dead, origin.port)])
        for _ in range(6):
            with proxy.connect() as client:
                client.sendall(b"x")
                assert client.recv(10) == b"x"
        assert proxy.counter("cluster.origin.upstream_cx_connect_fail") >= 2
        assert proxy.counter("cluster.origin.upstream_cx_connect_attempts_exceeded") == 0


def test_nobody_there(relay_of: Start) -> None:
    (dead,) = free_ports(1)
    proxy = relay_of({"relay": relay(max_connect_attempts=2)}, [bootstrap.cluster("origin", dead)])
    with proxy.connect() as client:
        assert client.recv(10) == b""

    assert proxy.logged(1) == [f"UF,URX 0 0 origin 127.0.0.1:{dead} -"]
    assert proxy.counter("cluster.origin.upstream_cx_connect_fail") == 2
    assert proxy.counter("cluster.origin.upstream_cx_connect_attempts_exceeded") == 1


def test_no_endpoint_at_all(relay_of: Start) -> None:
    proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin")])
    with proxy.connect() as client:
        assert client.recv(10) == b""

    assert proxy.logged(1) == ["UH 0 0 origin - -"]
    assert proxy.counter("cluster.origin.upstream_cx_none_healthy") == 1


def test_the_breaker_counts_relays(relay_of: Start) -> None:
    with Endpoint(echo) as origin:
        cluster = bootstrap.cluster("origin", origin.port, circuit_breakers={"thresholds": [{"max_connections": 1}]})
        proxy = relay_of({"relay": relay()}, [cluster])
        with proxy.connect() as first:
            first.sendall(b"x")
            assert first.recv(10) == b"x"
            with proxy.connect() as second:
                assert second.recv(10) == b""
            assert proxy.logged(1)[0].startswith("UO 0 0 origin ")
            assert proxy.counter("cluster.origin.upstream_cx_overflow") == 1
        proxy.wait_counter("cluster.origin.upstream_cx_active", 0)
        with proxy.connect() as third:
            third.sendall(b"x")
            assert third.recv(10) == b"x"


def test_what_is_idle_is_closed_and_what_moves_is_not(relay_of: Start) -> None:
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay(idle_timeout="0.5s")}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as idle:
            assert idle.recv(10) == b""
        assert proxy.counter("tcp.relay.idle_timeout") == 1


def test_a_life_has_an_end(relay_of: Start) -> None:
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay(max_downstream_connection_duration="0.3s")}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client:
            assert client.recv(10) == b""
        assert proxy.counter("tcp.relay.max_downstream_connection_duration") == 1
        assert proxy.logged(1)[0].split()[0] == "DT"


def test_the_log_may_be_written_before_the_end(relay_of: Start) -> None:
    options = {"flush_access_log_on_connected": True, "access_log_flush_interval": "0.1s"}
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay(access_log_options=options)}, [bootstrap.cluster("origin", origin.port)])
        with proxy.connect() as client:
            client.sendall(b"abc")
            assert client.recv(10) == b"abc"
            lines = proxy.logged(3)
        assert lines[0] == f"- 0 0 origin 127.0.0.1:{origin.port} -"
        assert lines[-1] == f"- 3 3 origin 127.0.0.1:{origin.port} -"


# -- where to


def is_refused(client: socket.socket) -> bool:
    """Closed, in peace or over what it had sent."""
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


def test_by_weight(relay_of: Start) -> None:
    with Endpoint(echo) as one, Endpoint(echo) as other, Endpoint(echo) as nobody:
        weighted = {"weighted_clusters": {"clusters": [{"name": "one", "weight": 1}, {"name": "other", "weight": 1}]}}
        clusters = [bootstrap.cluster("one", one.port), bootstrap.cluster("other", other.port), bootstrap.cluster("nobody", nobody.port)]
        proxy = relay_of({"relay": relay(weighted)}, clusters)
        for _ in range(40):
            with proxy.connect() as client:
                client.sendall(b"x")
                assert client.recv(10) == b"x"

        assert one.count + other.count == 40
        assert one.count > 0
        assert other.count > 0
        assert nobody.count == 0


def test_the_name_that_tls_asks_for_picks_the_cluster(relay_of: Start) -> None:
    inspector = {"name": "tls", "typed_config": {"@type": f"{FILTERS}.listener.tls_inspector.v3.TlsInspector"}}
    by_name = relay("origin", [network_filter("sni_cluster", "SniCluster")])
    with Endpoint() as origin, Endpoint() as named:
        clusters = [bootstrap.cluster("origin", origin.port), bootstrap.cluster("named.test", named.port)]
        proxy = relay_of({"relay": lambda name, port: by_name(name, port) | {"listener_filters": [inspector]}}, clusters)
        for name, endpoint in (("named.test", named), (None, origin)):
            hello = hellos.of_openssl(name)
            with proxy.connect() as client:
                client.sendall(hello)
                with endpoint.next() as server:
                    assert exactly(server, len(hello)) == hello
        with proxy.connect() as client:
            client.sendall(hellos.of_openssl("unknown.test"))
            assert is_refused(client)

        flags = sorted((line.split()[0], line.split()[3], line.split()[5]) for line in proxy.logged(3))
        assert flags == [("-", "named.test", "named.test"), ("-", "origin", "-"), ("NC", "-", "unknown.test")]
        assert proxy.counter("tcp.relay.downstream_cx_no_route") == 1


def test_the_endpoint_is_told_whose_connection_it_is(relay_of: Start) -> None:
    def telling(version: str) -> Json:
        config = {"@type": f"{bootstrap.TYPES}.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"}
        raw = {"name": "raw", "typed_config": {"@type": f"{bootstrap.TYPES}.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}
        config |= {"config": {"version": version}, "transport_socket": raw}
        return {"transport_socket": {"name": "proxy_protocol", "typed_config": config}}

    with Endpoint() as origin:
        clusters = [bootstrap.cluster(version, origin.port, **telling(version)) for version in ("V1", "V2")]
        proxy = relay_of({"one": relay("V1"), "two": relay("V2")}, clusters)
        for name in ("one", "two"):
            with proxy.connect(name) as client:
                own, there = client.getsockname()[1], client.getpeername()[1]
                one = f"PROXY TCP4 127.0.0.1 127.0.0.1 {own} {there}\r\n".encode()
                two = b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + bytes([127, 0, 0, 1]) * 2 + struct.pack("!HH", own, there)
                client.sendall(b"then this")
                expected = (one if name == "one" else two) + b"then this"
                with origin.next() as server:
                    assert exactly(server, len(expected)) == expected


# -- what a connection has to pass


def test_so_many_connections_and_no_more(relay_of: Start) -> None:
    limit = network_filter("connection_limit", "ConnectionLimit", stat_prefix="few", max_connections=2)
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay("origin", [limit])}, [bootstrap.cluster("origin", origin.port)], workers=2)

        def served() -> socket.socket | None:
            client = proxy.connect()
            try:
                client.sendall(b"x")
                if client.recv(10) == b"x":
                    return client
            except ConnectionError:
                pass
            client.close()
            return None

        held = [client for client in (served() for _ in range(12)) if client]
        assert len(held) == 2
        assert proxy.counter("connection_limit.few.limited_connections") == 10
        assert proxy.counter("connection_limit.few.active_connections") == 2
        for client in held:
            client.close()
        proxy.wait_counter("connection_limit.few.active_connections", 0)
        again = served()
        assert again
        again.close()


def test_so_fast_and_no_faster(relay_of: Start) -> None:
    bucket = {"max_tokens": 5, "tokens_per_fill": 1, "fill_interval": "3600s"}
    rate = network_filter("local_ratelimit", "LocalRateLimit", stat_prefix="slow", token_bucket=bucket)
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay("origin", [rate])}, [bootstrap.cluster("origin", origin.port)], workers=2)
        served = 0
        for _ in range(20):
            with proxy.connect() as client:
                try:
                    client.sendall(b"x")
                    served += client.recv(10) == b"x"
                except ConnectionError:
                    pass
        assert served == 5
        assert proxy.counter("local_rate_limit.slow.rate_limited") == 15


def rules(action: str, *principals: Json, **permission: Any) -> Json:
    policy = {"permissions": [permission or {"any": True}], "principals": list(principals) or [{"any": True}]}
    return {"action": action, "policies": {"all": policy}}


LOCAL = {"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}}
FOREIGN = {"direct_remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}
LIVE_RULES: dict[str, tuple[bool, Json, dict[str, int]]] = {
    "allow_us": (True, {"rules": rules("ALLOW", LOCAL)}, {"allowed": 1, "denied": 0}),
    "allow_others": (False, {"rules": rules("ALLOW", FOREIGN)}, {"allowed": 0, "denied": 1}),
    "allow_nobody": (False, {"rules": {"action": "ALLOW", "policies": {}}}, {"allowed": 0, "denied": 1}),
    "deny_us": (False, {"rules": rules("DENY", LOCAL)}, {"allowed": 0, "denied": 1}),
    "deny_others": (True, {"rules": rules("DENY", FOREIGN)}, {"allowed": 1, "denied": 0}),
    "deny_nobody": (True, {"rules": {"action": "DENY", "policies": {}}}, {"allowed": 1, "denied": 0}),
    "neither": (False, {"rules": rules("ALLOW", {"not_id": LOCAL})}, {"denied": 1}),
    "both": (True, {"rules": rules("ALLOW", {"and_ids": {"ids": [LOCAL, {"not_id": FOREIGN}]}})}, {"allowed": 1}),
    "port": (False, {"rules": rules("DENY", destination_port_range={"start": 1, "end": 65536})}, {"denied": 1}),
    "other_port": (False, {"rules": rules("ALLOW", destination_port=1)}, {"denied": 1}),
    "address": (True, {"rules": rules("ALLOW", destination_ip={"address_prefix": "127.0.0.1", "prefix_len": 32})}, {"allowed": 1}),
    "six": (False, {"rules": rules("ALLOW", {"direct_remote_ip": {"address_prefix": "::", "prefix_len": 0}})}, {"denied": 1}),
    "name": (True, {"rules": rules("ALLOW", requested_server_name={"exact": ""})}, {"allowed": 1}),
    "certificate": (False, {"rules": rules("ALLOW", {"authenticated": {}})}, {"denied": 1}),
    "shadow": (True, {"shadow_rules": rules("DENY", LOCAL)}, {"shadow_denied": 1, "shadow_allowed": 0, "denied": 0, "allowed": 0}),
    "shadow_named": (
        True, {"shadow_rules": rules("DENY", LOCAL), "shadow_rules_stat_prefix": "dry"}, {"dry.shadow_denied": 1, "dry.shadow_allowed": 0},
    ),
    "shadow_passes": (
        False, {"rules": rules("DENY"), "shadow_rules": rules("ALLOW", LOCAL)}, {"denied": 1, "shadow_allowed": 1, "shadow_denied": 0},
    ),
}


def test_who_may_connect(relay_of: Start) -> None:
    """Each rule on a listener of its own; what it says and counts was checked against Envoy."""
    listeners = {
        name: relay("origin", [network_filter("rbac", "RBAC", stat_prefix=name, **settings)])
        for name, (_, settings, _) in LIVE_RULES.items()
    }
    with Endpoint(echo) as origin:
        proxy = relay_of(listeners, [bootstrap.cluster("origin", origin.port)])
        passed, counted = {}, {}
        for name, (_, _, counters) in LIVE_RULES.items():
            with proxy.connect(name) as client:
                try:
                    client.sendall(b"x")
                    passed[name] = client.recv(10) == b"x"
                except ConnectionError:
                    passed[name] = False
            counted[name] = {counter: proxy.counter(f"{name}.rbac.{counter}") for counter in counters}

        assert passed == {name: passes for name, (passes, _, _) in LIVE_RULES.items()}
        assert counted == {name: counters for name, (_, _, counters) in LIVE_RULES.items()}


# -- without an endpoint


def test_echo_and_a_fixed_response(relay_of: Start) -> None:
    def only(kind: str, message: str, **settings: Any) -> Callable[[str, int], Json]:
        chain = {"filters": [network_filter(kind, message, **settings)]}
        return lambda name, port: {"name": name, "address": bootstrap.address(port), "filter_chains": [chain]}

    fixed = only("direct_response", "Config", response={"inline_string": "so be it"})
    proxy = relay_of({"echo": only("echo", "Echo"), "fixed": fixed}, [])
    with proxy.connect("echo") as client:
        data = os.urandom(8 * MIB)
        send_in_background(client, data)
        assert read_all(client) == data
    with proxy.connect("fixed") as client:
        assert read_all(client) == b"so be it"


# -- life of the node


@pytest.mark.skipif(ON_ENVOY, reason="meshproxy's commands")
def test_a_reload_leaves_what_is_open_alone(relay_of: Start) -> None:
    data = os.urandom(8 * MIB)
    with Endpoint() as old, Endpoint(lambda connection: connection.sendall(b"new")) as new:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", old.port)])
        node = proxy.peer
        with proxy.connect() as client, old.next() as server:
            server.sendall(data[: MIB])
            assert exactly(client, MIB) == data[:MIB]
            admin = bootstrap.address(proxy.admin)
            listener = bootstrap.tcp_listener("relay", proxy.ports["relay"], "next")
            config = bootstrap.bootstrap([listener], [bootstrap.cluster("next", new.port)])
            node.configure(config | {"admin": {"address": admin}})
            assert node.reload().returncode == 0
            with proxy.connect() as other:
                assert read_all(other) == b"new"
            send_in_background(server, data[MIB:])
            assert read_all(client) == data[MIB:]


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.skipif(ON_ENVOY, reason="meshproxy's commands")
def test_a_node_that_ends_waits_for_its_relays(relay_of: Start) -> None:
    with Endpoint(echo) as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        node = proxy.peer
        with proxy.connect() as client:
            client.sendall(b"before")
            assert exactly(client, 6) == b"before"
            node.expected_end = True
            node.signal(signal.SIGTERM)
            assert wait_until(lambda: refuses(proxy.ports["relay"]), PATIENCE_S)
            client.sendall(b"still")
            assert exactly(client, 5) == b"still"
        assert wait_until(lambda: node.process.poll() is not None, PATIENCE_S), node.output()


@pytest.mark.skipif(ON_ENVOY, reason="looks into a worker")
def test_nothing_is_left_of_what_went(relay_of: Start) -> None:
    """Descriptors, after clients and endpoints that came and went in every way, in the middle of bulk too."""
    block = os.urandom(MIB)

    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(block)

    with Endpoint(flood) as origin:
        proxy = relay_of({"relay": relay()}, [bootstrap.cluster("origin", origin.port)])
        (worker,) = proxy.workers()

        def sockets() -> int:
            return sum(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{worker}/fd").iterdir() if link.is_symlink())

        before = sockets()
        for turn in range(30):
            client = proxy.connect()
            assert exactly(client, 4 * MIB)
            if turn % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        assert wait_until(lambda: sockets() == before, PATIENCE_S)
        proxy.wait_counter("cluster.origin.upstream_cx_active", 0)
        proxy.wait_counter("server.buffered_bytes", 0)
        # A pipe that still held something was closed, not given to the next.
        assert pipes_of(worker) <= 2 * 2 + 8


# -- real programs


def test_redis_through_it(relay_of: Start, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    try:
        server = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        benchmark = program("redis-benchmark", "redis-tools")
        command = program("redis-cli", "redis-tools")
    except PeerMissingError as error:
        pytest.skip(str(error))
    with subprocess.Popen(server, stdout=subprocess.DEVNULL) as redis:
        try:
            proxy = relay_of({"relay": relay(max_connect_attempts=5)}, [bootstrap.cluster("origin", port)])
            to = ["-h", "127.0.0.1", "-p", str(proxy.ports["relay"])]

            def answers() -> bool:
                return subprocess.run([command, *to, "ping"], capture_output=True, timeout=PATIENCE_S).stdout == b"PONG\n"

            assert wait_until(answers, PATIENCE_S)
            options = ["-n", "5000", "-c", "20", "-P", "4", "-d", "2000", "-t", "set,get,lrange_100", "--csv"]
            done = subprocess.run([benchmark, *to, *options], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert len(re.findall(r'^"(SET|GET|LRANGE_100)', done.stdout, re.MULTILINE)) == 3, done.stdout
            big = "v" * (3 * MIB)
            subprocess.run([command, *to, "-x", "set", "big"], input=big, text=True, check=True, capture_output=True, timeout=PATIENCE_S)
            got = subprocess.run([command, *to, "get", "big"], text=True, check=True, capture_output=True, timeout=PATIENCE_S)
            assert got.stdout.strip() == big
        finally:
            redis.terminate()
