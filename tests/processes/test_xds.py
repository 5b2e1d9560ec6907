"""A real node that has ten lines of its own and all else from a control plane, over real gRPC."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.peers.bootstrap import Json
from tests.peers.process import free_ports
from tests.processes.control_plane import ControlPlane, bootstrap, cluster, endpoints, listener, routes
from tests.support.load import Load
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

PATIENCE_S = 30.0


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path) as server:
        yield server


@pytest.fixture
def origins() -> Iterator[list[Origin]]:
    """Three that say which they are."""
    with ExitStack() as stack:
        yield [stack.enter_context(Origin(_saying(number))) for number in range(3)]


def _saying(number: int) -> Callable[[Connection, Request], None]:
    return lambda connection, request: connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)


def node_of(directory: Path, config: Json, **settings: Any) -> Node:
    """Its state is the test's own."""
    return Node(directory, config, **settings)


def who(port: int) -> str:
    """Which origin answers; the status when none does, "" when nobody listens."""
    try:
        answer = ask(port, get("/", "mesh.test", "Connection: close"))
    except OSError:
        return ""
    return answer.body.decode() if answer.status == 200 else str(answer.status)


def becomes(node: Node, look: Callable[[], object], wanted: object) -> None:
    seen: list[object] = [None]

    def there() -> bool:
        seen[0] = look()
        return seen[0] == wanted

    assert wait_until(there, PATIENCE_S, node.pid), (seen, wanted, node.output()[-4000:])


def admin(node: Node, path: str) -> str:
    return requests.get(f"http://{node.status()['admin']}{path}", timeout=PATIENCE_S).text


def give_all(plane: ControlPlane, port: int, *origins: Origin) -> None:
    """One service behind one listener."""
    plane.give(
        CDS=[cluster("web")], EDS=[endpoints("web", *(each.port for each in origins))], LDS=[listener("in", port, "r")],
        RDS=[routes("r", "web")],
    )


def test_ten_lines_are_enough(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    (port,) = free_ports(1)
    give_all(plane, port, origins[0])

    with node_of(tmp_path, bootstrap(plane), workers=2) as node:
        assert who(port) == "0", "ready means that it serves"
        dump = json.loads(admin(node, "/config_dump?include_eds"))["configs"]
        sections = {name: entries for config in dump for name, entries in config.items() if name.startswith("dynamic_")}
        assert sections["dynamic_active_clusters"][0]["cluster"]["name"] == "web"
        assert sections["dynamic_listeners"][0]["active_state"]["version_info"] == "3"
        assert sections["dynamic_route_configs"][0]["route_config"]["name"] == "r"
        assert sections["dynamic_endpoint_configs"]
        assert "web::added_via_api::true" in admin(node, "/clusters")
        assert "xds::added_via_api::false" in admin(node, "/clusters")
        assert "cluster_manager.cluster_added: 1" in admin(node, "/stats")
        status = node.run_command("status").stdout
        assert "CDS" in status
        assert "ads" in status
    order = [line.split()[0] for line in plane.lines() if line.startswith(("CDS", "EDS", "LDS", "RDS"))]
    assert list(dict.fromkeys(order)) == ["CDS", "EDS", "LDS", "RDS"]


def test_changes_under_load_fail_nobody(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    (port,) = free_ports(1)
    give_all(plane, port, origins[0])

    with node_of(tmp_path, bootstrap(plane), workers=2) as node, Load(port, 8) as load:
        for number in range(30):
            plane.give(EDS=[endpoints("web", origins[number % 3].port)])
            load.wait_answers(20)
        plane.give(CDS=[cluster("web"), cluster("new")], EDS=[endpoints("web", origins[0].port), endpoints("new", origins[1].port)])
        plane.give(RDS=[routes("r", "new")])
        becomes(node, lambda: who(port), "1")
        plane.give(CDS=[cluster("new")])
        becomes(node, lambda: "web::" in admin(node, "/clusters"), False)
        plane.give(LDS=[listener("in", port, "r", stream_idle_timeout="60s")])
        load.wait_answers(100)
        report = load.stop()
    assert report.failed == 0, report.failures


def test_a_cluster_or_routes_that_are_not_there_yet(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    port, other = free_ports(2)
    plane.give(CDS=[cluster("web")], EDS=[endpoints("web", origins[0].port)], LDS=[listener("in", port, "r")], RDS=[routes("r", "late")])

    with node_of(tmp_path, bootstrap(plane)) as node:
        assert who(port) == "503"
        plane.give(CDS=[cluster("web"), cluster("late")], EDS=[endpoints("web", origins[0].port), endpoints("late", origins[1].port)])
        becomes(node, lambda: who(port), "1")
        plane.give(LDS=[listener("in", port, "r"), listener("other", other, "unknown", rds={
            "route_config_name": "unknown", "config_source": {"ads": {}, "initial_fetch_timeout": "0.2s"},
        })])
        becomes(node, lambda: who(other), "404")
        plane.give(RDS=[routes("r", "late"), routes("unknown", "web")])
        becomes(node, lambda: who(other), "0")
        plane.give(CDS=[cluster("web")])
        becomes(node, lambda: who(port), "503")
        assert who(other) == "0"


def test_the_good_goes_live_and_the_bad_is_named(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    port, other = free_ports(2)
    give_all(plane, port, origins[0])

    with node_of(tmp_path, bootstrap(plane)) as node, Origin(_saying(7)) as holder:
        plane.give(LDS=[listener("in", port, "r"), listener("bad", holder.port, "r"), listener("good", other, "r")])
        assert 'listener "bad": cannot bind' in plane.wait_error("LDS")
        becomes(node, lambda: who(other), "0")
        assert who(port) == "0"
        odd = cluster("odd", lb_policy="CLUSTER_PROVIDED")
        plane.give(CDS=[cluster("web"), odd, cluster("fine")], EDS=[endpoints("web", origins[1].port)])
        assert "odd" in plane.wait_error("CDS")
        becomes(node, lambda: who(port), "1")
        becomes(node, lambda: "fine::" in admin(node, "/clusters"), True)
        assert "odd::" not in admin(node, "/clusters")


def test_a_control_plane_that_is_killed_and_comes_back(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    (port,) = free_ports(1)
    give_all(plane, port, origins[0])

    with node_of(tmp_path, bootstrap(plane), workers=2) as node, Load(port, 4) as load:
        plane.stop()
        load.wait_answers(100)
        becomes(node, lambda: "control_plane.connected_state: 0" in admin(node, "/stats"), True)
        plane.listen()
        plane.give(EDS=[endpoints("web", origins[2].port)])
        becomes(node, lambda: who(port), "2")
        plane.is_silent = True
        load.wait_answers(100)
        report = load.stop()
    assert report.failed == 0, report.failures


def test_an_agent_that_is_killed_under_load(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    (port,) = free_ports(1)
    give_all(plane, port, origins[0])

    with node_of(tmp_path, bootstrap(plane), workers=2) as node, Load(port, 4) as load:
        for number in range(3):
            before = node.status()["agent"]["pid"]
            os.kill(before, signal.SIGKILL)
            becomes(node, lambda before=before: node.status()["agent"]["pid"] not in (0, before), True)
            plane.give(EDS=[endpoints("web", origins[(number + 1) % 3].port)])
            becomes(node, lambda: who(port), str((number + 1) % 3))
        report = load.stop()
        plane.give(LDS=[])
        becomes(node, lambda: who(port), "")
    assert report.failed == 0, report.failures


def test_a_reload_keeps_what_came_and_a_file_without_control_planes_drops_it(
    tmp_path: Path, plane: ControlPlane, origins: list[Origin]
) -> None:
    port, own = free_ports(2)
    give_all(plane, port, origins[0])
    config = bootstrap(plane)

    with node_of(tmp_path, config) as node:
        mine = listener("mine", own, route_config=routes("m", "web2"))
        static = {"clusters": [*config["static_resources"]["clusters"], {**cluster("web2"), "eds_cluster_config": {
            "eds_config": {"ads": {}, "resource_api_version": "V3"}, "service_name": "web"}}], "listeners": [mine]}
        with Load(port, 4) as load:
            node.configure({**config, "static_resources": static})
            assert node.run_command("reload").returncode == 0, node.output()[-2000:]
            load.wait_answers(50)
            report = load.stop()
        assert report.failed == 0, report.failures
        becomes(node, lambda: who(own), "0")
        node.configure({"node": config["node"], "admin": config["admin"]})
        assert node.run_command("reload").returncode == 0
        assert who(port) == ""


def test_the_last_known_good_serves_while_the_control_plane_is_away(tmp_path: Path, plane: ControlPlane, origins: list[Origin]) -> None:
    (port,) = free_ports(1)
    give_all(plane, port, origins[0])

    with node_of(tmp_path, bootstrap(plane)) as node:
        assert who(port) == "0"
    plane.stop()
    with node_of(tmp_path, bootstrap(plane)) as node:
        becomes(node, lambda: who(port), "0")
        assert "last known good" in node.output()
        assert "last known good" in node.run_command("status").stdout
        assert "control_plane.last_known_good: 1" in admin(node, "/stats")
        plane.listen()
        plane.give(EDS=[endpoints("web", origins[1].port)])
        becomes(node, lambda: who(port), "1")
        becomes(node, lambda: "control_plane.last_known_good: 0" in admin(node, "/stats"), True)
