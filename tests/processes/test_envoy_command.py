"""A node that is started as a launcher starts Envoy: serves, tells where its admin API is, reads the same again at a reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.config.envoy.bootstraps import LISTENER, REMOVE, ROUTE, changed
from tests.support.processes import COMMAND, Node
from tests.support.wire import ask, get


class Launched(Node):
    """`meshproxy envoy` with a launcher's options."""

    def __init__(self, directory: Path, config: dict[str, Any], *options: str) -> None:
        super().__init__(directory, config)
        self.options = options

    def command(self) -> list[str]:
        return [*COMMAND, "envoy", "-c", str(self.config_file), "--concurrency", "1", *self.options]


def answering(status: int) -> dict[str, Any]:
    return changed({
        f"{ROUTE}.route": REMOVE, f"{ROUTE}.direct_response": {"status": status},
        f"{LISTENER}.address.socket_address.port_value": 0,
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    })


def test_a_node_by_envoys_command_line(tmp_path: Path) -> None:
    more = '{static_resources: {clusters: [{name: "more", type: STATIC}]}}'
    options = ["--config-yaml", more, "--service-node", "vm-7", "--service-cluster", "web", "--drain-time-s", "5", "-l", "info"]
    admin_file = tmp_path / "admin"
    with Launched(tmp_path, answering(201), *options, "--admin-address-path", str(admin_file)) as node:
        port = node.port_of("in")
        assert ask(port, get("/")).status == 201
        with urlopen(f"http://{admin_file.read_text()}/clusters") as clusters:
            assert b"more::" in clusters.read()
        dumped = node.run_command("config", "dump", "--to", "envoy", "--format", "json").stdout
        assert '"id": "vm-7"' in dumped

        # The options are read again with the file.
        node.configure(answering(202))
        done = node.reload()
        assert done.returncode == 0, done.stderr
        assert ask(node.port_of("in"), get("/")).status == 202
        assert '"more"' in node.run_command("config", "dump", "--to", "envoy", "--format", "json").stdout
        assert node.wreckage() == []


def test_its_log_goes_where_it_is_told(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    config = answering(200)
    config["static_resources"]["listeners"][0]["address"] = {"socket_address": {"address": "192.0.2.1", "port_value": 80}}
    node = Launched(tmp_path, config, "--log-path", str(log))
    done = node.run_command("envoy", "-c", str(node.config_file), "--log-path", str(log))

    assert done.returncode == 1
    assert done.stderr == ""
    assert "192.0.2.1:80" in log.read_text()
