"""What nobody's request costs: memory of idle keep-alive connections and of an idle tree, and the time to the first answer."""

from __future__ import annotations

import contextlib
import http.client
import socket
import statistics
import time
from pathlib import Path

from bench.loads import Load
from bench.stage import MAKERS, Processors, stage
from tests.peers.origin import Origin
from tests.peers.scene import Scene
from tests.support.processes import pss_bytes, raise_open_files, tree_of

CONNECTIONS = 10_000
SPARE_FILES = 200
BATCH = 100
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def idle_connections(directory: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """Bytes of PSS for each idle connection that has served one request, by peer. Of meshproxy's processes only workers count: others have
    none of the connection, and the agent is still starting."""
    wanted = min(CONNECTIONS, raise_open_files() - SPARE_FILES)
    measured = {}
    for name in names:
        with stage(directory / name, Load("idle", ""), [name]) as peers:
            pid, port = peers[name].pid, peers[name].port
            holders = [each for each in tree_of(pid) if name != "meshproxy" or _is_worker(each)]
            before = pss_bytes(holders)
            with contextlib.ExitStack() as held:
                for _ in range(wanted // BATCH):
                    _open_batch(port, held)
                after = pss_bytes(holders)
            measured[name] = {"connections": wanted, "bytes_per_connection": (after - before) / wanted, "pss_bytes_before": before}
    return measured


def _is_worker(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"meshproxy: worker")


def _open_batch(port: int, held: contextlib.ExitStack) -> None:
    batch = [held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(BATCH)]
    for connection in batch:
        connection.sendall(REQUEST)
    for connection in batch:
        answer = connection.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"an idle connection was answered {answer[:80]!r}")


def start(directory: Path, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds from exec to the first answer, and PSS of the idle tree with two workers, by peer."""
    measured: dict[str, dict[str, float]] = {}
    processors = Processors()
    with Origin(directory / "origin", processors.driver) as origin:
        for name in names:
            times, memory = [], []
            for turn in range(rounds):
                scene = Scene(origin.port, workers=2)
                began = time.perf_counter()
                with MAKERS[name](directory / f"{name}-{turn}", scene, processors.proxy | processors.driver) as peer:
                    _first_answer(peer.port)
                    times.append(time.perf_counter() - began)
                    memory.append(pss_bytes(tree_of(peer.pid)))
            measured[name] = {"first_answer_s": statistics.median(times), "idle_pss_bytes": statistics.median(memory)}
    return measured


def _first_answer(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
