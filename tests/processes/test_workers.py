"""Workers die, hang, come and go; the traffic goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import meshes
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.processes import Node, children_of, wait_until
from tests.support.wire import ask, get

CONNECTIONS = 40


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as standing:
        yield standing


def kill_worker(node: Node, number: signal.Signals) -> dict:
    """Send a signal to a ready worker; its row of before."""
    row = node.ready_workers()[0]
    os.kill(row["pid"], number)
    return row


def is_replaced(row: dict) -> Callable[[dict], bool]:
    """Whether the slot of `row` has another worker that is ready."""

    def check(status: dict) -> bool:
        now = [other for other in status["workers"] if other["slot"] == row["slot"]]
        return any(other["state"] == "READY" and other["pid"] != row["pid"] for other in now)

    return check


@pytest.mark.timeout(180)
def test_killing_a_worker_fails_only_what_it_had_in_flight(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=2)
    with Load(node.port_of("ingress"), CONNECTIONS) as load:
        for _ in range(10):
            row = kill_worker(node, signal.SIGKILL)
            node.wait_status(is_replaced(row))
            load.wait_answers(2 * CONNECTIONS)
        report = load.stop()

    assert set(report.failures) <= {"cut in flight"}, report.failures
    assert report.failed <= 10 * CONNECTIONS
    assert report.slowest_connect_s < 2
    assert "SIGKILL" in node.output(), "the master names the signal"


@pytest.mark.timeout(180)
def test_killing_workers_refuses_no_new_connection(node_of, origin: Origin) -> None:
    """Each request has a connection of its own: those that wait in a dead worker's queue are served by its heir."""
    node = node_of(meshes.plain(origin.port), workers=2)
    with Load(node.port_of("ingress"), CONNECTIONS, requests_per_connection=1) as load:
        for _ in range(5):
            row = kill_worker(node, signal.SIGKILL)
            node.wait_status(is_replaced(row))
            load.wait_answers(2 * CONNECTIONS)
        report = load.stop()

    assert set(report.failures) <= {"cut in flight"}, report.failures
    assert report.slowest_connect_s < 2


@pytest.mark.timeout(120)
def test_a_dead_workers_breaker_share_is_given_back(node_of) -> None:
    """Requests that a killed worker held count no more: as many as the breaker allows pass again."""
    release = threading.Event()

    def script(connection, request) -> None:
        if request.target == "/held":
            release.wait(20)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Origin(script) as origin:
        config = meshes.plain(origin.port)
        limit = {"thresholds": [{"max_connections": 2, "max_pending_requests": 1, "max_requests": 2}]}
        config["static_resources"]["clusters"][0]["circuit_breakers"] = limit
        node = node_of(config, workers=1)
        port = node.port_of("ingress")
        holders = [threading.Thread(target=_ask_and_forget, args=(port, get("/held")), daemon=True) for _ in range(2)]
        for holder in holders:                   # one after the other: two that wait for a connection would be one too many
            holder.start()
            origin.next_request()
        row = kill_worker(node, signal.SIGKILL)
        node.wait_status(is_replaced(row))

        assert [ask(port, get("/")).status for _ in range(5)] == [200] * 5
        release.set()


def _ask_and_forget(port: int, data: bytes) -> None:
    try:
        ask(port, data)
    except Exception:
        return  # the worker that held it was killed


@pytest.mark.timeout(120)
def test_a_hung_worker_is_found_and_replaced(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=2)
    row = kill_worker(node, signal.SIGSTOP)
    node.wait_status(is_replaced(row), limit_s=60)

    assert ask(node.port_of("ingress"), get("/")).status == 200
    assert not os.path.exists(f"/proc/{row['pid']}")


@pytest.mark.timeout(120)
def test_scaling_up_and_down_fails_nothing(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    port = node.port_of("ingress")
    with Load(port, CONNECTIONS) as kept, Load(port, 10, requests_per_connection=1) as fresh:
        for wanted in (2, 3, 4):
            node.signal(signal.SIGTTIN)
            node.wait_status(_ready(wanted))
            fresh.wait_answers(50)
        for wanted in (3, 2, 1):
            node.signal(signal.SIGTTOU)
            node.wait_status(_ready(wanted))
            fresh.wait_answers(50)
        reports = [kept.stop(), fresh.stop()]

    assert [dict(report.failures) for report in reports] == [{}, {}]


def _ready(wanted: int) -> Callable[[dict], bool]:
    return lambda status: [row["state"] for row in status["workers"]].count("READY") == wanted


def test_a_dead_agent_is_replaced_and_nobody_notices(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    agent = node.status()["agent"]["pid"]
    with Load(node.port_of("ingress"), 10) as load:
        os.kill(agent, signal.SIGKILL)
        node.wait_status(lambda status: status["agent"] and status["agent"]["pid"] != agent and status["agent"]["state"] == "READY")
        load.wait_answers(50)
        report = load.stop()

    assert report.failed == 0, report.failures


def test_workers_and_agent_ignore_the_keyboard(node_of, origin: Origin) -> None:
    """^C reaches the whole process group; only the master's word ends its children."""
    node = node_of(meshes.plain(origin.port), workers=1)
    status = node.status()
    for row in [*status["workers"], status["agent"]]:
        os.kill(row["pid"], signal.SIGINT)

    assert ask(node.port_of("ingress"), get("/")).status == 200
    assert [row["pid"] for row in node.status()["workers"]] == [row["pid"] for row in status["workers"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_masters_end_is_the_trees_end(node_of, origin: Origin, number: signal.Signals) -> None:
    node = node_of(meshes.plain(origin.port), workers=2)
    port, children = node.port_of("ingress"), children_of(node.pid)
    node.expected_end = True
    node.signal(number)

    assert node.process.wait(20) == 0
    assert [pid for pid in children if os.path.exists(f"/proc/{pid}")] == []
    assert not node.control.exists()
    with pytest.raises(ConnectionRefusedError):
        ask(port, get("/"))


def test_a_killed_master_leaves_nobody_behind(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=2)
    children = children_of(node.pid)
    node.expected_end = True
    node.signal(signal.SIGKILL)
    node.process.wait(10)

    assert len(children) == 3
    assert wait_until(lambda: not [pid for pid in children if os.path.exists(f"/proc/{pid}")], 15)


def test_processes_have_names(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=2)
    titles = {Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() for pid in [node.pid, *children_of(node.pid)]}

    assert titles == {"meshproxy: master", "meshproxy: worker 0", "meshproxy: worker 1", "meshproxy: agent"}


def test_a_second_node_on_a_live_control_socket_is_refused_by_name(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    second = node.run_command("run", "-c", str(node.config_file), "--control", str(node.control), "--workers", "1")

    assert second.returncode != 0
    assert str(node.control) in second.stderr
    assert ask(node.port_of("ingress"), get("/")).status == 200


def test_a_stale_control_socket_is_replaced(node_of, tmp_path, origin: Origin) -> None:
    import socket

    (tmp_path / "node-0").mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "node-0" / "control.sock"))
    node = node_of(meshes.plain(origin.port), workers=1)

    assert node.status()["pid"] == node.pid
