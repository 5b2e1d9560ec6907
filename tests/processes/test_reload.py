"""Configuration changes under load, and new code on old sockets: nobody's request fails."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import requests

from tests.peers import bootstrap
from tests.processes import meshes
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.processes import tree_of, wait_until
from tests.support.wire import Client, ask, get

CONNECTIONS = 40
RELOADS = 50


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as standing:
        yield standing


def two_listeners(origin_port: int, *, second: bool, mark: str = "") -> dict:
    config = meshes.plain(origin_port, mark=mark)
    if second:
        other = bootstrap.http_listener("second", 0, [bootstrap.virtual_host([bootstrap.route("/", "origin")])])
        config["static_resources"]["listeners"].append(other)
    return config


@pytest.mark.timeout(240)
def test_fifty_reloads_fail_nothing(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, mark="0"), workers=2)
    port = node.port_of("ingress")
    with Load(port, CONNECTIONS) as kept, Load(port, 5, requests_per_connection=1) as fresh:
        for number in range(1, RELOADS + 1):
            node.configure(meshes.plain(origin.port, mark=str(number)))
            done = node.reload()

            assert done.returncode == 0, done.stderr
            assert ask(port, get("/")).header("x-mark") == str(number), "reload returns when every worker serves the new configuration"
        reports = [kept.stop(), fresh.stop()]

    assert [dict(report.failures) for report in reports] == [{}, {}]
    assert len(node.ready_workers()) == 2


def test_reload_keeps_connections(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, mark="old"), workers=1)
    with Client(node.port_of("ingress")) as client:
        assert client.ask(get("/")).header("x-mark") == "old"
        node.configure(meshes.plain(origin.port, mark="new"))
        assert node.reload().returncode == 0
        assert client.ask(get("/")).header("x-mark") == "new"


def test_a_request_sees_one_configuration(node_of) -> None:
    """The head came before the reload, so the answer is the old configuration's."""
    release = threading.Event()

    def script(connection, request) -> None:
        release.wait(20)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Origin(script) as origin:
        node = node_of(meshes.plain(origin.port, mark="old"), workers=1)
        with Client(node.port_of("ingress")) as client:
            client.send(get("/"))
            origin.next_request()
            node.configure(meshes.plain(origin.port, mark="new"))
            assert node.reload().returncode == 0
            release.set()

            assert client.answer().header("x-mark") == "old"
            assert client.ask(get("/")).header("x-mark") == "new"


@pytest.mark.parametrize("bad", ["{", '{"static_resources": {"listeners": [{"name": "x"}]}}', '{"static_resources": {"listenerz": []}}'])
def test_a_bad_configuration_changes_nothing_and_says_why(node_of, origin: Origin, bad: str) -> None:
    node = node_of(meshes.plain(origin.port, mark="old"), workers=1)
    before = node.status()
    node.config_file.write_text(bad)
    done = node.reload()
    after = node.status()

    assert done.returncode == 1
    assert str(node.config_file) in done.stderr
    assert after["config_version"] == before["config_version"]
    assert ask(node.port_of("ingress"), get("/")).header("x-mark") == "old"


def test_a_listener_is_added(node_of, origin: Origin) -> None:
    node = node_of(two_listeners(origin.port, second=False), workers=2)
    node.configure(two_listeners(origin.port, second=True))

    assert node.reload().returncode == 0
    assert [ask(node.port_of("second"), get("/")).status for _ in range(10)] == [200] * 10


def test_a_removed_listener_is_gone_and_the_other_unharmed(node_of, origin: Origin) -> None:
    node = node_of(two_listeners(origin.port, second=True), workers=2)
    gone, kept = node.port_of("second"), node.port_of("ingress")
    with Load(kept, 10) as load, Client(gone) as old:
        assert old.ask(get("/")).status == 200
        node.configure(two_listeners(origin.port, second=False))
        assert node.reload().returncode == 0

        with pytest.raises(ConnectionRefusedError):
            ask(gone, get("/"))
        load.wait_answers(50)
        report = load.stop()

    assert report.failed == 0, report.failures
    assert [row["name"] for row in node.status()["listeners"]] == ["ingress"]


def test_a_removed_listeners_requests_are_finished(node_of) -> None:
    release = threading.Event()

    def script(connection, request) -> None:
        release.wait(20)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Origin(script) as origin:
        node = node_of(two_listeners(origin.port, second=True), workers=1)
        with Client(node.port_of("second")) as client:
            client.send(get("/"))
            origin.next_request()
            node.configure(two_listeners(origin.port, second=False))
            assert node.reload().returncode == 0
            release.set()

            assert client.answer().status == 200


def test_a_listener_is_moved(node_of, origin: Origin) -> None:
    from tests.peers.process import free_ports

    old, new = free_ports(2)
    node = node_of(meshes.plain(origin.port, port=old), workers=2)
    assert ask(old, get("/")).status == 200
    node.configure(meshes.plain(origin.port, port=new))

    assert node.reload().returncode == 0
    assert [ask(new, get("/")).status for _ in range(10)] == [200] * 10
    with pytest.raises(ConnectionRefusedError):
        ask(old, get("/"))


def test_a_port_that_is_taken_is_named_and_nothing_changes(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    config = two_listeners(origin.port, second=True)
    config["static_resources"]["listeners"][1]["address"] = bootstrap.address(origin.port)
    node.configure(config)
    done = node.reload()

    assert done.returncode == 1
    assert '"second"' in done.stderr
    assert str(origin.port) in done.stderr
    assert [row["name"] for row in node.status()["listeners"]] == ["ingress"]
    assert ask(node.port_of("ingress"), get("/")).status == 200


def test_a_cluster_moves_to_another_origin(node_of, origin: Origin) -> None:
    with Origin() as other:
        node = node_of(meshes.plain(origin.port), workers=2)
        port = node.port_of("ingress")
        with Load(port, 10) as load:
            node.configure(meshes.plain(other.port))
            assert node.reload().returncode == 0
            load.wait_answers(50)
            report = load.stop()
        while not origin.seen.empty():
            origin.seen.get_nowait()
        answers = [ask(port, get("/")).status for _ in range(10)]

    assert report.failed == 0, report.failures
    assert answers == [200] * 10
    assert origin.seen.empty()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_large_reload_fails_nothing(node_of, origin: Origin) -> None:
    """1,000 clusters and 10,000 routes, changed under load."""
    node = node_of(meshes.large(origin.port, 1000, 10_000, mark="old"), workers=2)
    port = node.port_of("ingress")
    with Load(port, CONNECTIONS) as load:
        node.configure(meshes.large(origin.port, 1000, 10_000, mark="new"))
        done = node.reload()
        assert done.returncode == 0, done.stderr
        load.wait_answers(100)
        report = load.stop()

    assert report.failed == 0, report.failures
    assert ask(port, get("/")).header("x-mark") == "new"
    assert ask(port, get("/service-9998/x")).status == 200


@pytest.mark.timeout(240)
def test_an_upgrade_fails_nothing(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=2)
    port, before = node.port_of("ingress"), node.status()
    with Load(port, CONNECTIONS) as kept, Load(port, 5, requests_per_connection=1) as fresh:
        done = node.run_command("upgrade")
        assert done.returncode == 0, done.stderr + node.output()[-2000:]
        node.follow_upgrade()
        node.expected_end = True
        fresh.wait_answers(100)
        kept.wait_answers(100)
        reports = [kept.stop(), fresh.stop()]

    assert [dict(report.failures) for report in reports] == [{}, {}]
    assert node.pid != before["pid"]
    assert node.process.wait(30) == 0, "the old master goes when its workers have drained"
    assert ask(port, get("/")).status == 200
    node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    assert [os.sched_getscheduler(pid) for pid in tree_of(node.pid)] == [os.SCHED_OTHER] * 4


@pytest.mark.timeout(120)
def test_an_upgrade_sends_every_client_on(node_of, origin: Origin) -> None:
    """They are told one after the other, each by an answer; none is forgotten, and each is counted."""
    node = node_of(meshes.plain(origin.port, admin=True), workers=2)
    port = node.port_of("ingress")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(CONNECTIONS)]
        assert [client.ask(get("/")).header("connection") for client in clients] == [None] * CONNECTIONS
        assert node.run_command("upgrade").returncode == 0
        node.follow_upgrade()
        node.expected_end = True
        for client in clients:
            while client.ask(get("/")).header("connection") != "close":
                pass
    assert node.process.wait(30) == 0

    def told() -> bool:
        lines = requests.get(f"http://{node.status()['admin']}/stats", timeout=20).text.splitlines()
        return f"http.ingress.downstream_cx_drain_close: {CONNECTIONS}" in lines

    node.wait_status(lambda status: status["agent"]["state"] == "READY")
    assert wait_until(told, 20)


@pytest.mark.timeout(120)
def test_an_upgrade_to_a_bad_configuration_leaves_the_old(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    port = node.port_of("ingress")
    node.config_file.write_text("{")
    done = node.run_command("upgrade")

    assert done.returncode == 1
    assert node.status()["pid"] == node.pid
    assert ask(port, get("/")).status == 200


def test_drain_lets_requests_end(node_of) -> None:
    release = threading.Event()

    def script(connection, request) -> None:
        release.wait(20)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Origin(script) as origin:
        node = node_of(meshes.plain(origin.port), workers=1)
        node.expected_end = True
        with Client(node.port_of("ingress")) as client:
            client.send(get("/"))
            origin.next_request()
            node.signal(signal.SIGTERM)
            # The worker must have heard of it before the answer comes, or it has nothing to say of.
            node.wait_status(lambda status: status["draining"] and status["workers"][0]["state"] == "DRAINING")
            release.set()
            said = client.answer()

            assert (said.status, said.header("connection")) == (200, "close")
        assert node.process.wait(20) == 0


def test_check_exits_by_its_verdict(node_of, tmp_path, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    bad = tmp_path / "bad.json"
    bad.write_text('{"static_resources": {"listenerz": []}}')

    assert node.run_command("check", str(node.config_file)).returncode == 0
    assert node.run_command("check", str(bad)).returncode == 1
    assert node.run_command("check").returncode == 2
    assert os.path.exists(node.control)
