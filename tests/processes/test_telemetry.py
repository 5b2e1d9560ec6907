"""What leaves the node: access logs, statsd, and the ways in which their receivers fail."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import bootstrap
from tests.peers.process import free_ports
from tests.processes import meshes
from tests.support.load import Load
from tests.support.origin import OK, Connection, Origin, Request, answer
from tests.support.processes import wait_until
from tests.support.wire import Client, ask, get, post

LINE = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%\n"
FLUSH_LIMIT_S = 15


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as standing:
        yield standing


def lines_of(path: Path, count: int) -> list[str]:
    """The lines of a log once there are `count`."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, FLUSH_LIMIT_S)
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def logged(proxy_of, tmp_path_factory) -> Iterator[tuple]:
    """A proxy that logs LINE, its log and its origin."""
    log = tmp_path_factory.mktemp("log") / "access.log"
    routes = [
        bootstrap.route("/dead", "dead"),
        bootstrap.route("/nobody", "nobody"),
        bootstrap.route("/short", {"cluster": "origin", "timeout": "0.2s"}),
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 200, "body": {"inline_string": "hi"}}},
        {"match": {"prefix": "/move"}, "redirect": {"path_redirect": "/"}},
        bootstrap.route("/retried", {"cluster": "origin", "retry_policy": {"retry_on": "5xx", "num_retries": 1}}),
        bootstrap.route("/ok", "origin"),
    ]
    with Origin() as origin:
        clusters = [bootstrap.cluster("origin", origin.port), bootstrap.cluster("dead", free_ports(1)[0]), bootstrap.cluster("nobody")]
        manager = {"access_log": [bootstrap.file_log(str(log), LINE)]}
        yield proxy_of([bootstrap.virtual_host(routes)], clusters, manager), log, origin


def cut(connection: Connection, request: Request) -> None:
    connection.sock.shutdown(socket.SHUT_RDWR)


def silent(connection: Connection, request: Request) -> None:
    """No answer at all."""


OUTCOMES = [
    ("ok", get("/ok"), answer(OK), "/ok 200 - via_upstream 0 2 origin"),
    ("body", post(b"12345", "/ok"), answer(OK), "/ok 200 - via_upstream 5 2 origin"),
    ("error", get("/ok"), answer(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"), "/ok 500 - via_upstream 0 0 origin"),
    ("no route", get("/nowhere"), answer(OK), "/nowhere 404 NR route_not_found 0 0 -"),
    ("no endpoint", get("/nobody"), answer(OK), "/nobody 503 UH no_healthy_upstream 0 19 nobody"),
    ("slow", get("/short"), silent, "/short 504 UT response_timeout 0 24 origin"),
    ("direct", get("/direct"), answer(OK), "/direct 200 - direct_response 0 2 -"),
    ("redirect", get("/move"), answer(OK), "/move 301 - direct_response 0 0 -"),
    (
        "retries ended", get("/retried"), answer(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"),
        "/retried 500 URX via_upstream 0 0 origin",
    ),
    ("cut", post(b"x", "/ok"), cut, "/ok 503 UC upstream_reset_before_response_started{connection_termination} 1 95 origin"),
    (
        "nonsense", post(b"x", "/ok"), answer(b"BOO\r\n\r\n"),
        "/ok 502 UPE upstream_reset_before_response_started{protocol_error} 1 87 origin",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("request_bytes", "script", "line"), [case[1:] for case in OUTCOMES], ids=[case[0] for case in OUTCOMES])
def test_the_log_names_the_outcome(logged, request_bytes: bytes, script, line: str) -> None:
    proxy, log, origin = logged
    origin.script = script
    before = len(log.read_text().splitlines()) if log.exists() else 0
    ask(proxy.port, request_bytes)

    assert lines_of(log, before + 1)[before:] == [line]


def test_a_refused_connect_is_uf(logged) -> None:
    proxy, log, _ = logged
    before = len(log.read_text().splitlines()) if log.exists() else 0
    ask(proxy.port, get("/dead"))
    line = lines_of(log, before + 1)[before]

    assert re.match(r"/dead 503 UF upstream_reset_before_response_started\{remote_connection_failure", line), line


def test_a_client_that_leaves_is_dc(logged) -> None:
    proxy, log, origin = logged
    origin.script = silent
    while not origin.seen.empty():
        origin.seen.get_nowait()
    before = len(log.read_text().splitlines()) if log.exists() else 0
    with Client(proxy.port) as client:
        client.send(get("/ok"))
        origin.next_request()

    assert lines_of(log, before + 1)[before:] == ["/ok 0 DC downstream_remote_disconnect 0 0 origin"]


def test_logs_are_reopened_on_usr1(node_of, tmp_path: Path, origin: Origin) -> None:
    log = tmp_path / "access.log"
    node = node_of(meshes.plain(origin.port, access_log=[bootstrap.file_log(str(log), "%REQ(:PATH)%\n")]), workers=1)
    port = node.port_of("ingress")
    ask(port, get("/before"))
    assert lines_of(log, 1) == ["/before"]
    log.rename(tmp_path / "access.log.1")
    node.signal(signal.SIGUSR1)
    assert wait_until(log.exists, FLUSH_LIMIT_S)
    ask(port, get("/after"))

    assert lines_of(log, 1) == ["/after"]
    assert (tmp_path / "access.log.1").read_text() == "/before\n"


def test_a_full_disk_under_the_access_log_stops_no_traffic(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, access_log=[bootstrap.file_log("/dev/full")]), workers=1)
    with Load(node.port_of("ingress"), 10) as load:
        load.wait_answers(2000)
        report = load.stop()

    assert report.failed == 0, report.failures
    assert node.status()["agent"]["restarts"] == 0
    assert wait_until(lambda: "/dev/full" in node.output(), FLUSH_LIMIT_S), "one line tells the operator"


def test_no_line_is_lost_or_doubled(node_of, tmp_path: Path, origin: Origin) -> None:
    log = tmp_path / "access.log"
    node = node_of(meshes.plain(origin.port, access_log=[bootstrap.file_log(str(log), "%REQ(:PATH)%\n")]), workers=2)
    port, count = node.port_of("ingress"), 400
    for number in range(count):
        ask(port, get(f"/{number}"))

    assert sorted(lines_of(log, count), key=lambda line: int(line[1:])) == [f"/{number}" for number in range(count)]


def statsd_config(origin_port: int, statsd_port: int) -> dict:
    config = meshes.plain(origin_port)
    sink = {"@type": bootstrap.STATSD, "address": bootstrap.address(statsd_port)}
    config["stats_sinks"] = [{"name": "envoy.stat_sinks.statsd", "typed_config": sink}]
    config["stats_flush_interval"] = "0.2s"
    return config


def counters(server: socket.socket, name: str, enough: int) -> int:
    """Sum of a counter's increments until it is `enough`."""
    total = 0
    server.settimeout(FLUSH_LIMIT_S)
    while total < enough:
        for line in server.recv(65536).decode().split("\n"):
            if found := re.fullmatch(re.escape(name) + r":(\d+)\|c", line):
                total += int(found[1])
    return total


def test_statsd_gets_what_was_counted(node_of, origin: Origin) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        node = node_of(statsd_config(origin.port, server.getsockname()[1]), workers=2)
        port = node.port_of("ingress")
        for _ in range(20):
            ask(port, get("/"))

        assert counters(server, "envoy.cluster.origin.upstream_rq_total", 20) == 20


def test_an_absent_statsd_server_harms_nobody_and_is_found_when_it_comes(node_of, origin: Origin) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        statsd_port = holder.getsockname()[1]
    node = node_of(statsd_config(origin.port, statsd_port), workers=1)
    with Load(node.port_of("ingress"), 5) as load:
        load.wait_answers(500)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", statsd_port))
            assert counters(server, "envoy.cluster.origin.upstream_rq_total", 1) >= 1
        report = load.stop()

    assert report.failed == 0, report.failures
    assert node.status()["agent"]["restarts"] == 0


def admin_get(node, path: str):
    """An answer of the admin API."""
    host, _, port = node.status()["admin"].rpartition(":")
    return ask(int(port), get(path, f"{host}:{port}", "Connection: close"))


def test_counters_never_go_back_when_a_worker_dies(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    port = node.port_of("ingress")
    for _ in range(10):
        ask(port, get("/"))
    row = node.ready_workers()[0]
    os.kill(row["pid"], signal.SIGKILL)
    node.wait_status(lambda status: any(w["state"] == "READY" and w["pid"] != row["pid"] for w in status["workers"]))
    for _ in range(5):
        ask(port, get("/"))

    stats = admin_get(node, "/stats?filter=cluster.origin.upstream_rq_total").body.decode()
    assert "cluster.origin.upstream_rq_total: 15" in stats
    active = admin_get(node, "/stats?filter=_active").body.decode()
    assert "cluster.origin.upstream_rq_active: 0" in active


def test_the_admin_port_tells_readiness_and_metrics(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=2)
    for _ in range(10):
        ask(node.port_of("ingress"), get("/"))

    assert admin_get(node, "/ready").status == 200
    assert b"envoy_cluster_upstream_rq_total" in admin_get(node, "/stats/prometheus").body
    assert json.loads(admin_get(node, "/stats?format=json").body)["stats"]


def test_json_logs_are_json(node_of, tmp_path: Path, origin: Origin) -> None:
    log = tmp_path / "access.json"
    logger = bootstrap.file_log(str(log))
    logger["typed_config"]["log_format"] = {
        "json_format": {"path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "agent": "%REQ(USER-AGENT)%", "none": "%REQ(X-NONE)%"}
    }
    node = node_of(meshes.plain(origin.port, access_log=[logger]), workers=1)
    ask(node.port_of("ingress"), get('/a"b\\', "mesh.test", 'User-Agent: quo"te\ttab'))

    assert json.loads(lines_of(log, 1)[0]) == {"path": '/a"b\\', "status": 200, "agent": 'quo"te\ttab', "none": None}


def test_many_threads_many_lines(node_of, tmp_path: Path, origin: Origin) -> None:
    """Lines of two workers do not mix."""
    log = tmp_path / "access.log"
    text = "%REQ(:PATH)% " + "x" * 200 + " %RESPONSE_CODE%\n"
    node = node_of(meshes.plain(origin.port, access_log=[bootstrap.file_log(str(log), text)]), workers=2)
    port = node.port_of("ingress")
    asking = [threading.Thread(target=lambda: [ask(port, get("/line")) for _ in range(50)]) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert set(lines_of(log, 200)) == {"/line " + "x" * 200 + " 200"}
