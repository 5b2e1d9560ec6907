"""WebSocket and CONNECT in all four mixes of HTTP/1 and HTTP/2, each end of the tunnel in the test's own hands.

HTTP/2 is spoken by the `h2` library on both sides (RFC 8441 for WebSocket), HTTP/1 by hand; windows are opened only as a test reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import queue
import random
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from tests.peers import bootstrap
from tests.processes.http2_mesh import http2
from tests.support.origin import Connection, Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, ClosedError, Stream

LIMIT_S = 20.0
MIB = 1 << 20
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
CELLS = tuple(itertools.product(("websocket", "connect"), (1, 2), (1, 2)))
IDLE_S = 0.6
DRAIN_S = 2
STREAM_BYTES = 8 * MIB
BUFFER_BYTES = MIB // 8
HELD_BYTES = MIB
"""A buffer, a window of four buffers at most, what one read brings, and a queue's slack."""
WINDOWS = {"initial_stream_window_size": 256 << 10, "initial_connection_window_size": MIB}
"""What the node may have to hold for a reader that does not read: all that it lets a peer send."""

Cell = tuple[str, int, int]
Headers = list[tuple[str, str]]


class Http1End:
    """One end of a tunnel over HTTP/1: the connection is the tunnel."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        stream.sock.settimeout(LIMIT_S)

    def send(self, data: bytes) -> None:
        self.stream.sock.sendall(data)

    def exactly(self, count: int) -> bytes:
        return self.stream.exactly(count)

    def rest(self) -> bytes:
        """Until the other side has said all; ConnectionError when it broke off."""
        return self.stream.rest()

    def end(self) -> None:
        self.stream.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.sock.close()

    def close(self) -> None:
        self.stream.close()

    def is_over(self) -> bool:
        """Whether the other side ends, in whatever way, with no byte more."""
        try:
            return self.stream.rest() == b""
        except ClosedError:
            return True
        except ConnectionError:
            return True


class Peer(h2.connection.H2Connection):
    """The library takes a GOAWAY for the connection's end; streams that were begun go on (RFC 9113 6.8)."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        return [], []


class Http2End:
    """One end of a tunnel over HTTP/2: a stream of its own connection."""

    def __init__(self, sock: socket.socket, *, client: bool) -> None:
        self.sock = sock
        sock.settimeout(LIMIT_S)
        config = h2.config.H2Configuration(
            client_side=client, header_encoding="utf-8", validate_inbound_headers=False, validate_outbound_headers=False,
        )
        self.connection = Peer(config)
        if not client:
            extended = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
            self.connection.local_settings = h2.settings.Settings(client=False, initial_values=extended)
        self.stream = 1
        self.heads: list[Headers] = []
        self.held = bytearray()
        self.acknowledged = 0
        """So many of the bytes held have had their window opened again."""
        self.ended = self.was_reset = self.closed = False
        self.connection.initiate_connection()
        self._flush()

    def _flush(self) -> None:
        if data := self.connection.data_to_send():
            self.sock.sendall(data)

    def more(self) -> None:
        """Read what the kernel has, and wait for it if that is nothing."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            raise ClosedError("the connection is closed")
        for event in self.connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
                self.stream = event.stream_id
                self.heads.append([(str(name), str(value)) for name, value in event.headers])
            elif isinstance(event, h2.events.DataReceived):
                self.held += event.data
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
            elif isinstance(event, h2.events.StreamReset):
                self.was_reset = True
        self._flush()

    def head(self) -> Headers:
        while not self.heads:
            self.more()
        return self.heads.pop(0)

    def say(self, headers: Headers, *, ends: bool = False) -> None:
        self.connection.send_headers(self.stream, headers, end_stream=ends)
        self._flush()

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = min(self.connection.local_flow_control_window(self.stream), self.connection.max_outbound_frame_size, len(view))
            if room <= 0:
                self.more()
                continue
            self.connection.send_data(self.stream, bytes(view[:room]))
            view = view[room:]
            self._flush()

    def exactly(self, count: int) -> bytes:
        while len(self.held) < count:
            if self.ended or self.was_reset:
                raise ClosedError(f"{len(self.held)} of {count} bytes came")
            self._take_in()
            self.more()
        return self._given(count)

    def _take_in(self) -> None:
        """What is held was read: as much may come again."""
        count = len(self.held) - self.acknowledged
        if count and not self.ended and not self.was_reset:
            self.connection.acknowledge_received_data(count, self.stream)
            self._flush()
        self.acknowledged += count

    def _given(self, count: int) -> bytes:
        self._take_in()
        data = bytes(self.held[:count])
        del self.held[:count]
        self.acknowledged -= count
        return data

    def rest(self) -> bytes:
        """Until the other side has said all; ConnectionError when it broke off."""
        while not self.ended and not self.was_reset:
            self._take_in()
            self.more()
        if self.was_reset:
            raise ConnectionResetError("RST_STREAM")
        return self._given(len(self.held))

    def end(self) -> None:
        self.connection.end_stream(self.stream)
        self._flush()

    def reset(self) -> None:
        self.connection.reset_stream(self.stream, 8)
        self._flush()

    def close(self) -> None:
        self.sock.close()

    def is_over(self) -> bool:
        with contextlib.suppress(ClosedError, ConnectionError):
            while not self.ended and not self.was_reset:
                self.more()
        return not self.held


End = Http1End | Http2End


@dataclasses.dataclass
class Tunnel:
    """A place of the mesh for one conversation."""

    kind: str
    downstream: int
    upstream: int
    name: str
    port: int
    arrivals: queue.Queue[Connection]
    ends: list[End] = dataclasses.field(default_factory=list)
    """What is to be closed when the test is over."""

    def ask(self) -> End:
        """The client's end, its request sent."""
        self.ends.append(self._asking())
        return self.ends[-1]

    def _asking(self) -> End:
        if self.downstream == 1:
            client = Client(self.port)
            if self.kind == "websocket":
                lines = ["GET /chat HTTP/1.1", f"Host: {self.name}", "Connection: Upgrade", "Upgrade: websocket"]
                lines += [f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
            else:
                lines = [f"CONNECT {self.name}:80 HTTP/1.1", f"Host: {self.name}:80"]
            client.send("\r\n".join([*lines, "", ""]).encode())
            return Http1End(client)
        end = Http2End(socket.create_connection(("127.0.0.1", self.port)), client=True)
        if self.kind == "websocket":
            end.say([
                (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/chat"), (":authority", self.name),
                ("sec-websocket-version", "13"),
            ])  # fmt: skip
        else:
            end.say([(":method", "CONNECT"), (":authority", f"{self.name}:80")])
        return end

    def heard(self) -> tuple[End, str]:
        """The endpoint's end and the request's method there."""
        connection = self.arrivals.get(timeout=LIMIT_S)
        if self.upstream == 1:
            return Http1End(connection), connection.until(b"\r\n\r\n").split(b" ")[0].decode()
        end = Http2End(connection.sock, client=False)
        fields = dict(end.head())
        assert fields.get(":protocol") == ("websocket" if self.kind == "websocket" else None)
        return end, fields[":method"]

    def grant(self, end: End) -> None:
        if isinstance(end, Http2End):
            end.say([(":status", "200")])
        elif self.kind == "websocket":
            end.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        else:
            end.send(b"HTTP/1.1 200 OK\r\n\r\n")

    def refuse(self, end: End) -> None:
        if isinstance(end, Http2End):
            end.say([(":status", "403"), ("content-length", "2")])
            end.send(b"no")
            end.end()
        else:
            end.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    def status(self, end: End) -> int:
        """Of the answer that the client got."""
        if isinstance(end, Http2End):
            return int(dict(end.head())[":status"])
        return int(end.stream.until(b"\r\n\r\n").split(b" ")[1])

    def open(self) -> tuple[End, End]:
        """Both ends of a tunnel that was granted: the client's and the endpoint's."""
        near = self.ask()
        far, method = self.heard()
        assert method == ("GET" if self.kind == "websocket" and self.upstream == 1 else "CONNECT")
        self.grant(far)
        assert self.status(near) == (101 if self.kind == "websocket" and self.downstream == 1 else 200)
        return near, far


TESTS = ("talk", "client-ends", "endpoint-ends", "endpoint-closes", "client-resets", "refused", "idle")


@contextlib.contextmanager
def places(
    directory: Path, purposes: tuple[str, ...], cells: tuple[Cell, ...] = CELLS, *, windows: dict[str, int] = WINDOWS,
    buffers: dict[str, int] | None = None,
) -> Iterator[tuple[Node, Any]]:
    """A node with a cluster and an origin for each cell and purpose, so that no conversation finds another's connection."""
    buffers = buffers or {}
    with contextlib.ExitStack() as stack:
        clusters, hosts, made, over = [], [], {}, threading.Event()
        for (kind, downstream, upstream), purpose in itertools.product(cells, purposes):
            name = f"{purpose}.{kind}-{downstream}-{upstream}.test"
            arrivals: queue.Queue[Connection] = queue.Queue()

            def script(connection: Connection, arrivals: queue.Queue[Connection] = arrivals) -> None:
                arrivals.put(connection)
                over.wait()

            origin = stack.enter_context(Origin(raw=script))
            settings = http2(allow_connect=True, **windows) if upstream == 2 else {}
            clusters.append(bootstrap.cluster(name, origin.port, **settings, **buffers))
            action = {"cluster": name, "timeout": "0s"} | ({"idle_timeout": f"{IDLE_S}s"} if purpose == "idle" else {})
            prefix, tunnel = bootstrap.route("/", action), bootstrap.route("/", action)
            tunnel["match"] = {"connect_matcher": {}}
            hosts.append({"name": name, "domains": [name, f"{name}:80"], "routes": [tunnel, prefix]})
            made[kind, downstream, upstream, purpose] = (name, arrivals)
        stack.callback(over.set)
        listener = bootstrap.http_listener(
            "ingress", 0, hosts, upgrade_configs=[{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
            http2_protocol_options={"allow_connect": True, **windows},
        )
        standing = Node(directory, bootstrap.bootstrap([listener | buffers], clusters, 0)).start()
        try:
            port = standing.port_of("ingress")
            tunnels = {key: Tunnel(*key[:3], name, port, arrivals) for key, (name, arrivals) in made.items()}
            yield standing, tunnels
            for tunnel in tunnels.values():
                for end in tunnel.ends:
                    end.close()
        finally:
            over.set()
            standing.stop()
        assert standing.wreckage() == []


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with places(tmp_path_factory.mktemp("tunnels"), TESTS) as (_standing, tunnels):
        yield tunnels


@pytest.fixture(scope="module")
def slow_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """With the windows that HTTP/2 has by default, far larger than the buffers."""
    buffers = {"per_connection_buffer_limit_bytes": BUFFER_BYTES}
    with places(tmp_path_factory.mktemp("slow"), ("down", "up"), windows={}, buffers=buffers) as (standing, tunnels):
        yield standing.status()["admin"], tunnels


@pytest.fixture(params=CELLS, ids=lambda cell: f"{cell[0]}-{cell[1]}-to-{cell[2]}")
def cell(request: pytest.FixtureRequest) -> Cell:
    return request.param


def test_messages_go_both_ways(mesh, cell) -> None:
    near, far = mesh[*cell, "talk"].open()
    for size in (1, 70_000, 3):
        near.send(b"c" * size)
        assert far.exactly(size) == b"c" * size
        far.send(b"s" * size)
        assert near.exactly(size) == b"s" * size
    near.close()


@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_who_said_all_still_hears(mesh, cell, who: str) -> None:
    near, far = mesh[*cell, f"{who}-ends"].open()
    first, second = (near, far) if who == "client" else (far, near)
    first.send(b"last words")
    first.end()
    assert second.rest() == b"last words"
    second.send(b"an answer")
    second.end()
    assert first.rest() == b"an answer"


def test_an_endpoint_that_closes_ends_the_tunnel(mesh, cell) -> None:
    near, far = mesh[*cell, "endpoint-closes"].open()
    far.send(b"x")
    assert near.exactly(1) == b"x"
    far.close()
    assert near.is_over()


def test_a_client_that_resets_ends_the_tunnel(mesh, cell) -> None:
    near, far = mesh[*cell, "client-resets"].open()
    near.send(b"x")
    assert far.exactly(1) == b"x"
    near.reset()
    assert far.is_over()


def test_a_refusal_reaches_the_client(mesh, cell) -> None:
    tunnel = mesh[*cell, "refused"]
    near = tunnel.ask()
    far, _method = tunnel.heard()
    tunnel.refuse(far)
    assert tunnel.status(near) == 403
    assert near.exactly(2) == b"no"
    near.close()


def test_only_silence_is_idle(mesh, cell) -> None:
    """Either side's bytes count; when both are silent the tunnel ends."""
    near, far = mesh[*cell, "idle"].open()
    for speaks, hears in ((near, far), (far, near)):
        until_s = time.monotonic() + IDLE_S * 1.5
        while time.monotonic() < until_s:
            speaks.send(b"x")
            assert hears.exactly(1) == b"x"
    assert near.is_over()
    assert far.is_over()


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_slow_reader_holds_the_writer_and_loses_nothing(slow_mesh, cell, way: str) -> None:
    """What the node holds of a long stream has to do with its buffers, not with how much its windows would let in."""
    admin, tunnels = slow_mesh
    near, far = tunnels[*cell, way].open()
    writer, reader = (far, near) if way == "down" else (near, far)
    data = random.Random(way).randbytes(STREAM_BYTES)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            writer.send(data)
            writer.end()
        except BaseException as error:
            failures.append(error)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    most, part = 0, STREAM_BYTES // 16
    for at in range(0, STREAM_BYTES, part):
        assert reader.exactly(part) == data[at : at + part]
        most = max(most, held_bytes(admin))
    writing.join(LIMIT_S)
    assert failures == []
    assert most < HELD_BYTES
    near.close()
    far.close()


def held_bytes(admin: str) -> int:
    with urllib.request.urlopen(f"http://{admin}/stats?format=json&filter=server.buffered_bytes") as page:
        return json.load(page)["stats"][0]["value"]


def test_a_node_that_ends_keeps_a_tunnel_for_as_long_as_it_waits(tmp_path: Path, cell) -> None:
    with places(tmp_path / "node", ("drained",), (cell,)) as (standing, tunnels):
        tunnel = tunnels[*cell, "drained"]
        near, far = tunnel.open()
        standing.expected_end = True
        stopping = threading.Thread(target=standing.run_command, args=("stop", "--limit", str(DRAIN_S)), daemon=True)
        stopping.start()
        assert wait_until(lambda: not listens(tunnel.port), LIMIT_S), "the listener still takes connections"
        near.send(b"still")
        assert far.exactly(5) == b"still"
        far.send(b"here")
        assert near.exactly(4) == b"here"
        assert near.is_over()
        assert far.is_over()
        stopping.join(LIMIT_S)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
    except OSError:
        return False
    return True
