"""The admin API and the commands of a real node, while it serves, is reloaded, loses workers and ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
import requests

from tests.peers import bootstrap
from tests.processes import meshes
from tests.support.origin import Origin
from tests.support.processes import Node
from tests.support.wire import ask, get

PATIENCE_S = 30.0


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def admin(node: Node, path: str, method: str = "GET") -> requests.Response:
    return requests.request(method, f"http://{node.status()['admin']}{path}", timeout=PATIENCE_S)


def test_one_answer_for_all_workers(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=2)
    port = node.port_of("ingress")
    for _ in range(20):
        ask(port, get("/", "mesh.test", "Connection: close"))
    shown = {line.split("::")[2]: line.split("::")[3] for line in admin(node, "/clusters").text.splitlines() if f":{origin.port}::" in line}

    assert shown["rq_total"] == "20"
    assert shown["rq_success"] == "20"
    assert "cluster.origin.upstream_rq_total: 20" in admin(node, "/stats?usedonly").text
    assert admin(node, "/home.json").json()["total"]["requests_total"] == 20
    assert admin(node, "/listeners").text == f"ingress::127.0.0.1:{port}\n"


def test_counters_begin_anew_in_what_is_shown(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    port = node.port_of("ingress")
    ask(port, get("/"))
    admin(node, "/reset_counters", "POST")
    for _ in range(2):
        ask(port, get("/"))

    assert "cluster.origin.upstream_rq_total: 2\n" in admin(node, "/stats").text


def test_a_reload_is_seen(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    changed = meshes.plain(origin.port, admin=True)
    changed["static_resources"]["clusters"].append(bootstrap.cluster("later", origin.port))
    node.configure(changed)
    assert node.reload().returncode == 0

    assert "later::observability_name::later" in admin(node, "/clusters").text
    names = [each["cluster"]["name"] for each in admin(node, "/config_dump?resource=static_clusters").json()["configs"]]
    assert names == ["later", "origin"]
    assert "cluster.later.membership_total: 1" in admin(node, "/stats").text


def test_a_health_check_that_fails_by_order_leaves_traffic_alone(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    admin(node, "/healthcheck/fail", "POST")

    assert admin(node, "/ready").status_code == 503
    assert ask(node.port_of("ingress"), get("/")).status == 200
    admin(node, "/healthcheck/ok", "POST")
    assert admin(node, "/ready").status_code == 200


def test_an_agent_that_dies_has_an_heir_that_knows_all(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    port = node.port_of("ingress")
    ask(port, get("/"))
    pid = node.status()["agent"]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert ask(port, get("/")).status == 200
    node.wait_status(lambda status: status["agent"] and status["agent"]["state"] == "READY" and status["agent"]["pid"] != pid)

    assert "cluster.origin.upstream_rq_total: 2\n" in admin(node, "/stats").text
    assert "SIGKILL" in admin(node, "/home.json").json()["processes"][-1]["last_death"]


def test_the_log_level_is_the_nodes(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)

    assert admin(node, "/logging?level=debug", "POST").text == "active level: debug\n"
    assert admin(node, "/logging?level=loud", "POST").status_code == 400


def test_drained_listeners_refuse_and_the_node_lives_on(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    done = admin(node, "/drain_listeners?graceful", "POST")

    assert (done.status_code, done.text) == (200, "OK\n")
    assert node.status()["workers"][0]["state"] == "READY"
    assert admin(node, "/server_info").status_code == 200


def test_quitquitquit_ends_the_node(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, admin=True), workers=1)
    node.expected_end = True

    assert admin(node, "/quitquitquit", "POST").text == "OK\n"
    assert node.process.wait(PATIENCE_S) == 0


def test_stop_returns_when_the_node_is_gone(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    node.expected_end = True
    stopped = node.run_command("stop")

    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not node.control.exists()
    assert node.process.wait(PATIENCE_S) == 0


def test_drain_lets_a_request_end(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port), workers=1)
    node.expected_end = True

    assert node.run_command("drain", "--limit", "20").returncode == 0
    assert node.process.wait(PATIENCE_S) == 0


def test_top_shows_what_the_node_serves(node_of, origin: Origin) -> None:
    node = node_of(meshes.plain(origin.port, name="ingress"), workers=2)
    shown = node.run_command("top", "--once", "--interval", "0.1")

    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert any(line.startswith("origin ") for line in lines)
    assert [line.split()[0] for line in lines if "READY" in line] == ["0", "1"]


def test_without_an_admin_address_there_is_no_admin_port(node_of, origin: Origin) -> None:
    state = node_of(meshes.plain(origin.port), workers=1).status()

    assert state["admin"] == ""


def test_dns_names_of_a_cluster_are_resolved_before_they_are_needed(node_of, origin: Origin) -> None:
    config = meshes.plain(origin.port, admin=True)
    cluster = config["static_resources"]["clusters"][0]
    text = json.dumps(cluster).replace('"127.0.0.1"', '"localhost"')
    config["static_resources"]["clusters"][0] = {**json.loads(text), "type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY"}
    node = node_of(config, workers=1)
    node.wait_output("endpoints changed")

    assert f"origin::127.0.0.1:{origin.port}::hostname::localhost" in admin(node, "/clusters").text
    assert ask(node.port_of("ingress"), get("/")).status == 200
