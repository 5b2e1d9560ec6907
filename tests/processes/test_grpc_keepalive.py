"""grpcio's pings through a running node, from both of its ends, and many streams that their clients read slowly."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.grpc_server import GrpcServer, numbered
from tests.peers.process import free_ports, peer_environment
from tests.support.processes import Node, wait_until

LIMIT_S = 60.0
LOOK_AGAIN_S = 0.05
PINGS_MS = 50
IDLE_S = 2
"""Without a call: time for 40 pings each way."""
STREAMS, MESSAGES, MESSAGE_BYTES = 100, 200, 4096
HELD_BYTES = 32 << 20
"""Of the 80 MB that all streams say: the eighth of a worker's limit that is held for anybody, and a window and the least room for each."""

PINGING = """
import sys, threading, time
import grpc

options = {
    "keepalive_time_ms": int(sys.argv[2]), "keepalive_timeout_ms": 5000, "keepalive_permit_without_calls": 1,
    "http2.max_pings_without_data": 0,
}
states = []
with grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=[("grpc." + name, value) for name, value in options.items()]) as channel:
    channel.subscribe(lambda state: states.append(state.name))
    call = channel.unary_unary("/test.Echo/Unary")
    assert call(b"a") == b"aa"
    states.clear()
    time.sleep(float(sys.argv[3]))
    assert call(b"b") == b"bb"
    messages = (time.sleep(0.1) or b"c" for _ in range(int(float(sys.argv[3]) / 0.1)))
    assert b"".join(channel.stream_stream("/test.Echo/Both")(messages)).strip(b"c") == b""
    print(*states)
"""

SLOW = """
import sys
import grpc

streams, count, size = map(int, sys.argv[2:])
options = [("grpc.http2.bdp_probe", 0)]
with grpc.insecure_channel("127.0.0.1:" + sys.argv[1], options=options) as channel:
    call = channel.unary_stream("/test.Echo/Numbered")
    answers = [call(b"%d %d %d" % (at, count, size)) for at in range(streams)]
    for number in range(count):
        for at, answer in enumerate(answers):
            assert next(answer) == (b"%d %d " % (at, number)).ljust(size, b"."), (at, number)
        if number == 0:
            print("begun", flush=True)
            sys.stdin.readline()
    assert [list(answer) for answer in answers] == [[]] * streams
    assert [answer.code() for answer in answers] == [grpc.StatusCode.OK] * streams
"""


@dataclasses.dataclass
class Mesh:
    port: int
    admin: int

    def stat(self, name: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/stats?format=json&filter={name}$", timeout=LIMIT_S) as page:
            rows = json.load(page)["stats"]
        return next((row["value"] for row in rows if row.get("name") == name), 0)


def standing(place: Path, server: GrpcServer, **settings: Any) -> Iterator[Mesh]:
    port, admin = free_ports(2)
    config = {
        "admin": f"127.0.0.1:{admin}",
        "listeners": [{
            "name": "in", "address": f"127.0.0.1:{port}", "routes": [{"prefix": "/", "to": "server", "timeout": 0}],
            "http": settings.get("http", {}),
        }],
        "clusters": {"server": {"endpoints": [f"127.0.0.1:{server.port}"], "protocol": "http2", **settings.get("cluster", {})}},
        **settings.get("node", {}),
    }  # fmt: skip
    with Node(place / "node", config) as node:
        yield Mesh(port, admin)
    assert node.wreckage() == []


@pytest.fixture(scope="module")
def pinging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """All four ping, as often as gRPC's servers would not forgive each other: ours is in between, and it pings clients only."""
    place = tmp_path_factory.mktemp("pings")
    options = {
        "keepalive_time_ms": PINGS_MS, "keepalive_timeout_ms": 5000, "keepalive_permit_without_calls": 1, "http2.max_pings_without_data": 0,
    }  # fmt: skip
    http = {"http2": {"keep_alive": {"interval": f"{PINGS_MS}ms", "timeout": "5s"}}}
    with GrpcServer(place / "server", **options) as server:
        yield from standing(place, server, http=http)


def test_pings_keep_connections_and_end_none(pinging: Mesh) -> None:
    command = [sys.executable, "-c", PINGING, str(pinging.port), str(PINGS_MS), str(IDLE_S)]
    done = subprocess.run(command, env=peer_environment(), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr    # no state but READY
    for counter in ("http.in.downstream_cx_http2_total", "cluster.server.upstream_cx_http2_total"):
        assert pinging.stat(counter) == 1
    for counter in ("cluster.server.upstream_cx_close_notify", "http2.outbound_control_flood", "http2.keepalive_timeout"):
        assert pinging.stat(counter) == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A worker that would hold for anybody no more than a tenth of what all streams say."""
    place = tmp_path_factory.mktemp("slow")
    with GrpcServer(place / "server", threads=STREAMS + 8) as server:
        yield from standing(place, server, node={"overload": {"max_worker_buffer": "64MiB"}})


def test_slow_streams_are_whole_and_hold_little(small: Mesh) -> None:
    assert len(numbered(b"99", MESSAGES, MESSAGE_BYTES)) == MESSAGE_BYTES
    command = [sys.executable, "-c", SLOW, *map(str, (small.port, STREAMS, MESSAGES, MESSAGE_BYTES))]
    with subprocess.Popen(command, env=peer_environment(), stdin=-1, stdout=-1, stderr=-1, text=True) as client:
        assert client.stdout.readline() == "begun\n", client.stderr.read()
        paused = "cluster.server.upstream_flow_control_paused_reading_total"
        assert wait_until(lambda: small.stat(paused) >= STREAMS // 2, LIMIT_S)
        most = small.stat("server.buffered_bytes")
        client.stdin.write("go on\n")
        client.stdin.flush()
        while client.poll() is None:
            most = max(most, small.stat("server.buffered_bytes"))
            wait_until(lambda: client.poll() is not None, LOOK_AGAIN_S)
        assert client.returncode == 0, client.stderr.read()
    assert most < HELD_BYTES
