"""A configuration in a real Consul: followed, checked, refused by key and line, and started from a copy."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError
from tests.support.load import Load
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

PATIENCE_S = 30.0
LISTENER = 'listeners:\n- {name: ingress, address: "127.0.0.1:0", route_table: all}\n'


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[Consul]:
    try:
        server = Consul(tmp_path / "consul", keep=True)
    except PeerMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


def table(body: str) -> str:
    return f"route_tables:\n  all:\n    routes:\n    - {{prefix: /, respond: {{status: 200, body: {body}}}}}\n"


class KeyNode(Node):
    """Started from a prefix instead of a file."""

    def command(self) -> list[str]:
        return [self.url if part == str(self.config_file) else part for part in super().command()]

    url = ""


def says(node: Node, body: str) -> None:
    port = node.port_of("ingress")
    assert wait_until(lambda: ask(port, get("/", "m.test", "Connection: close")).body.decode() == body, PATIENCE_S, node.pid), node.output()


def test_a_change_in_consul_is_a_reload_and_a_bad_one_is_refused(node_of: Callable[..., Node], consul: Consul, tmp_path: Path) -> None:
    consul.put("mesh/edge/10-listeners", LISTENER)
    consul.put("mesh/edge/20-routes", table("one"))
    consul.put("mesh/edge-2/x", "not: ours")
    state = tmp_path / "state"
    config = f'consul: {{address: "127.0.0.1:{consul.port}", config: mesh/edge}}\nadmin: 127.0.0.1:0\n'
    node = node_of(config, environment={"MESHPROXY_STATE": str(state)})
    says(node, "one")
    port = node.port_of("ingress")
    with Load(port) as load:
        load.wait_answers(20)
        consul.put("mesh/edge/20-routes", table("two"))
        says(node, "two")
        report = load.stop()
    assert dict(report.failures) == {}
    assert node.port_of("ingress") == port
    copy = next(state.iterdir())
    assert wait_until(lambda: "two" in copy.read_text(), PATIENCE_S)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600

    consul.put("mesh/edge/20-routes", table("two") + "nonsense: 1\n")
    node.wait_output(rf'configuration in consul refused error="consul://127.0.0.1:{consul.port}/mesh/edge/20-routes:5: ')
    says(node, "two")
    shown = node.status()["configurations"][0]
    assert (shown["state"], "20-routes:5" in shown["error"]) == ("refused", True)
    assert "nonsense" not in copy.read_text()
    assert "consul.config.update_rejected: 1" in requests.get(f"http://{node.status()['admin']}/stats", timeout=PATIENCE_S).text

    consul.put("mesh/edge/20-routes", table("three"))
    says(node, "three")
    assert wait_until(lambda: node.status()["configurations"][0]["state"] == "in force", PATIENCE_S)
    consul.ask("DELETE", "/v1/kv/mesh/edge?recurse")
    node.wait_output("configuration in consul cannot be read .*no key")
    says(node, "three")


def test_a_node_starts_from_the_copy_while_consul_is_away(consul: Consul, tmp_path: Path) -> None:
    consul.put("mesh/edge", f"{LISTENER}{table('one')}admin: 127.0.0.1:0\n")
    node = KeyNode(tmp_path / "node", "", environment={"MESHPROXY_STATE": str(tmp_path / "state")})
    node.url = f"consul://127.0.0.1:{consul.port}/mesh/edge"
    with node:
        says(node, "one")
        assert node.status()["config_file"] == node.url
        checked = node.run_command("check", node.url)
        assert (checked.returncode, "good" in checked.stdout) == (0, True)
        assert wait_until(lambda: list((tmp_path / "state").iterdir()), PATIENCE_S)
    os.kill(consul.pid, signal.SIGKILL)
    consul.stop()

    refused = node.run_command("check", node.url)
    assert refused.returncode == 1, "a check is of what is there"
    with node:
        node.wait_output("The last good copy, of .*, is in force")
        says(node, "one")
        assert node.status()["configurations"][0]["state"] == "copy"
        consul.start()
        consul.put("mesh/edge", f"{LISTENER}{table('two')}admin: 127.0.0.1:0\n")
        says(node, "two")
        assert wait_until(lambda: node.status()["configurations"][0]["state"] == "in force", PATIENCE_S)
        assert node.run_command("upgrade").returncode == 0
        node.follow_upgrade()
        says(node, "two")
        node.expected_end = True
    assert node.wreckage() == []


def test_a_node_without_consul_and_without_a_copy_says_why(tmp_path: Path) -> None:
    node = KeyNode(tmp_path / "node", "", environment={"MESHPROXY_STATE": str(tmp_path / "state")})
    node.url = "consul://127.0.0.1:1/mesh"
    refused = node.run_command("run", "-c", node.url, "--control", str(node.control))

    assert refused.returncode == 1
    assert "consul at 127.0.0.1:1: [Errno 111] Connection refused There is no copy of it in " in refused.stderr


def test_a_key_names_what_it_may_not_say(consul: Consul, tmp_path: Path) -> None:
    consul.put("m/a", "include: /etc/passwd\n")
    consul.put("m/b", "static_resources: {}\n")
    node = KeyNode(tmp_path / "node", "")
    refused = node.run_command("check", f"consul://127.0.0.1:{consul.port}/m", "--format", "json")

    errors = json.loads(refused.stdout)["errors"]
    assert [each["message"].partition(".")[0] for each in errors] == [
        "a key of Consul's cannot include files", "this is a configuration of Envoy's",
    ]  # fmt: skip
