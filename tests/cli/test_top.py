"""`meshproxy top`: what a frame says, how it fits a terminal, and the command against a fake node with a real scoreboard."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import msgspec
import pytest

from meshproxy.admin.traffic import TrafficMeter, between, sample
from meshproxy.cli.top_frame import frame, number, size
from meshproxy.ipc.messages import Answer, Directory, Order
from meshproxy.scoreboard.catalogue import BlockKind, block_cells, offsets
from meshproxy.scoreboard.region import Region
from tests.cli.node import ROOT, command, fake_node, node_state

AT = {kind: {row.name: at for at, row in offsets(kind)} for kind in BlockKind}
HTTP = block_cells(BlockKind.SERVER) + 8
CLUSTER = HTTP + block_cells(BlockKind.HTTP)
ROWS = [("SERVER", "", 0), ("HTTP", "ingress", HTTP), ("CLUSTER", "web", CLUSTER)]


@pytest.fixture
def region() -> Region:
    region = Region.create(2)
    for slot in range(2):
        region.set_state(slot, 2)
        region.set_pid(slot, 1000 + slot)
    return region


def serve(region: Region, slot: int, requests: int, errors: int = 0, microseconds: int = 1000) -> None:
    """Count as a worker that answered these."""
    http, cluster = AT[BlockKind.HTTP], AT[BlockKind.CLUSTER]
    region.add_cell(slot, HTTP + http["downstream_rq_total"], requests)
    region.add_cell(slot, HTTP + http["downstream_rq_5xx"], errors)
    region.add_cell(slot, CLUSTER + cluster["upstream_rq_total"], requests)
    region.add_cell(slot, CLUSTER + cluster["upstream_rq_5xx"], errors)
    for _ in range(requests):
        region.record_histogram(slot, HTTP + http["downstream_rq_time"], microseconds)
        region.record_histogram(slot, CLUSTER + cluster["upstream_rq_time"], microseconds)


def test_rates_are_what_happened_between_two_looks(region: Region) -> None:
    serve(region, 0, 100)
    old = sample(region, ROWS, 10.0)
    serve(region, 0, 30, errors=10)
    serve(region, 1, 10, microseconds=20_000)
    traffic = between(old, sample(region, ROWS, 12.0), region, uptime_s=99.0)

    assert traffic.interval_s == 2.0
    assert (traffic.node.requests_per_s, traffic.node.errors_per_s, traffic.node.requests_total) == (20.0, 5.0, 140)
    assert [worker.flow.requests_per_s for worker in traffic.workers] == [15.0, 5.0]
    assert traffic.node.p50_ms == pytest.approx(1.0, rel=0.13)
    assert traffic.node.p99_ms == pytest.approx(20.0, rel=0.13)
    [web] = traffic.clusters
    assert (web.name, web.requests_per_s, web.errors_per_s) == ("web", 20.0, 5.0)


def test_without_an_older_look_it_is_over_the_uptime(region: Region) -> None:
    serve(region, 0, 50)

    assert between(None, sample(region, ROWS, 10.0), region, uptime_s=100.0).node.requests_per_s == 0.5


def test_nothing_happened(region: Region) -> None:
    serve(region, 0, 50)
    look = sample(region, ROWS, 10.0)

    quiet = between(look, sample(region, ROWS, 11.0), region, uptime_s=100.0).node
    assert (quiet.requests_per_s, quiet.p50_ms, quiet.p99_ms) == (0.0, None, None)


def test_a_block_that_began_anew_is_no_negative_rate(region: Region) -> None:
    serve(region, 0, 50)
    old = sample(region, ROWS, 10.0)
    region.zero_block(HTTP, block_cells(BlockKind.HTTP))
    serve(region, 0, 3)

    assert between(old, sample(region, ROWS, 11.0), region, uptime_s=100.0).node.requests_per_s == 0.0


def test_a_meter_shows_impatient_readers_the_same_interval(region: Region) -> None:
    meter = TrafficMeter(region)
    meter.read(ROWS, 10.0, 100.0)
    serve(region, 0, 10)
    assert meter.read(ROWS, 12.0, 102.0).node.requests_per_s == 5.0
    assert meter.read(ROWS, 12.1, 102.1).node.requests_per_s == pytest.approx(10 / 2.1)


def lines_of(region: Region, width: int = 140, height: int | None = None, styled: bool = False, **state: object) -> list[str]:
    return frame(node_state(**state), between(None, sample(region, ROWS, 1.0), region, 10.0), width, height, styled)


def test_a_frame_has_the_node_its_workers_prefixes_and_clusters(region: Region) -> None:
    serve(region, 1, 40)
    lines = lines_of(region)

    assert lines[0] == "meshproxy 0.1.0  LIVE  up 1 h 2 min  configuration 3  pid 999"
    assert lines[1].startswith("4 requests/s  0 5xx/s  p50 ")
    assert any(line.startswith("1 (1001) ") and "READY" in line for line in lines)
    assert [line.split()[:2] for line in lines if line.startswith(("ingress", "web"))] == [["ingress", "4"], ["web", "4"]]


@pytest.mark.parametrize(("state", "word"), [({"draining": True}, "DRAINING"), ({"live": False}, "NOT SERVING")])
def test_a_frame_says_when_the_node_does_not_serve(region: Region, state: dict, word: str) -> None:
    assert word in lines_of(region, **state)[0]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(region: Region, width: int) -> None:
    for line in lines_of(region, width=width, styled=True):
        assert len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= width


@pytest.mark.parametrize("height", [1, 5, 10, 12])
def test_a_frame_is_no_higher_than_the_terminal(region: Region, height: int) -> None:
    assert len(lines_of(region, height=height)) <= height


def test_the_least_busy_clusters_are_cut(region: Region) -> None:
    rows = [("SERVER", "", 0), *(("CLUSTER", f"c{n}", CLUSTER + n * block_cells(BlockKind.CLUSTER)) for n in range(30))]
    region.add_cell(0, rows[25][2] + AT[BlockKind.CLUSTER]["upstream_rq_total"], 5)
    lines = frame(node_state(), between(None, sample(region, rows, 1.0), region, 1.0), 100, 20, styled=False)

    assert len(lines) == 20
    assert lines[-1].startswith("... and ")
    assert any(line.startswith("c24 ") for line in lines), "the busiest one is shown"


def test_errors_are_red(region: Region) -> None:
    serve(region, 0, 10, errors=10)

    assert any(line.startswith("\x1b[31mweb") for line in lines_of(region, styled=True))
    assert not any("\x1b" in line for line in lines_of(region, styled=False))


@pytest.mark.parametrize(("value", "said"), [(None, "-"), (0, "0"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (5.0, "5")])
def test_numbers(value: float | None, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(("amount", "said"), [(0, "0 B"), (1536, "1.50 KiB"), (5 << 20, "5 MiB"), (3 << 40, "3 TiB")])
def test_sizes(amount: float, said: str) -> None:
    assert size(amount) == said


def answering(region: Region):
    """A fake node whose worker answers ten requests before each look."""

    def answer(order: Order) -> tuple[Answer, list[int]]:
        if order.verb == "status":
            serve(region, 0, 10)
            return Answer(id=order.id, body=msgspec.json.encode(node_state())), []
        assert order.verb == "scoreboard"
        return Answer(id=order.id, body=msgspec.json.encode(Directory(ROWS))), [region.fd]

    return answer


def test_once_prints_one_frame(region: Region, tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", answering(region)):
        shown = command("top", "--once", "--interval", "0.1", "--control", str(tmp_path / "c.sock"))

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    [web] = [line for line in shown.stdout.splitlines() if line.startswith("web")]
    assert float(web.split()[1]) > 0, "the scoreboard was really read"


def test_a_terminal_is_given_back_as_it_was(region: Region, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    before = termios.tcgetattr(terminal)
    with fake_node(tmp_path / "c.sock", answering(region)):
        process = subprocess.Popen(
            [sys.executable, "-m", "meshproxy.cli.main", "top", "--control", str(tmp_path / "c.sock")],
            stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
        seen = _read_until(controller, b"q quits")
        os.write(controller, b"q")
        assert process.wait(20) == 0
        seen += _read_until(controller, b"\x1b[?1049l")

    assert b"\x1b[?1049h" in seen
    assert b"ingress" in seen
    assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)


def _read_until(fd: int, mark: bytes) -> bytes:
    seen = b""
    while mark not in seen:
        assert select.select([fd], [], [], 20)[0], seen
        seen += os.read(fd, 65536)
    return seen


def test_a_node_that_goes_away_ends_it(region: Region, tmp_path: Path) -> None:
    def once(order: Order) -> tuple[Answer, list[int]]:
        answer, fds = answering(region)(order)
        if order.verb == "status":
            os.unlink(tmp_path / "c.sock")
        return answer, fds

    with fake_node(tmp_path / "c.sock", once):
        ended = command("top", "--interval", "0.1", "--control", str(tmp_path / "c.sock"))

    assert ended.returncode == 2
    assert "no node answers" in ended.stderr
