"""`meshproxy envoy`: Envoy's command line, with its exit codes and its words where launchers read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import text_format

from meshproxy.cli import envoy as command
from meshproxy.cli.main import main
from meshproxy.config.envoy import launch
from meshproxy.config.launch import LaunchOptions, options_in, with_options
from meshproxy.errors import ConfigError
from meshproxy.model import Node, StatsTag
from tests.config.envoy.bootstraps import changed
from tests.peers import envoy
from tests.peers.process import PeerMissingError

NODE = {"id": "file", "cluster": "filec", "locality": {"region": "r", "zone": "z"}}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A good bootstrap in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boot.json").write_text(json.dumps(changed({"node": NODE})))
    return "boot.json"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["envoy", *arguments])


VERDICTS: dict[str, tuple[list[str], int]] = {
    # name: (arguments, exit code); Envoy ends with the same, and says the same on stdout
    "good": (["--mode", "validate", "-c", "boot.json"], 0),
    "good, without a word": (["--mode", "init_only", "-c", "boot.json", "-l", "error"], 0),
    "by the long name": (["--mode", "validate", "--config-path", "boot.json"], 0),
    "no such file": (["--mode", "validate", "-c", "none.json"], 1),
    "no configuration": (["--mode", "validate"], 1),
    "no such mode": (["--mode", "nope", "-c", "boot.json"], 1),
    "no such option": (["--nope"], 1),
    "a file without its option": (["--mode", "validate", "boot.json"], 1),
    "no such level": (["--mode", "validate", "-c", "boot.json", "-l", "nope"], 1),
    "a level for nothing": (["--mode", "validate", "-c", "boot.json", "--component-log-level", "a"], 1),
    "levels": (["--mode", "validate", "-c", "boot.json", "-l", "off", "--component-log-level", "upstream:debug,config:trace"], 0),
    "no such family": (["--mode", "validate", "-c", "boot.json", "--local-address-ip-version", "v5"], 1),
    "no number": (["--mode", "validate", "-c", "boot.json", "--concurrency", "x"], 1),
    "text alone": (["--mode", "validate", "--config-yaml", "{static_resources: {}}"], 0),
    "text that is none": (["--mode", "validate", "-c", "boot.json", "--config-yaml", "a: ["], 1),
    "text over the file": (["--mode", "validate", "-c", "boot.json", "--config-yaml", '{node: {id: "a"}}'], 0),
    "text that makes it wrong": (
        ["--mode", "validate", "-c", "boot.json", "--config-yaml", '{static_resources: {clusters: [{name: "web", type: "EDS"}]}}'], 1,
    ),
    "a later epoch": (["--mode", "validate", "-c", "boot.json", "--restart-epoch", "3"], 0),
    "as istio's launcher": (
        ["--mode", "validate", "-c", "boot.json", "--drain-time-s", "45", "--drain-strategy", "immediate", "--local-address-ip-version",
         "v4", "--file-flush-interval-msec", "1000", "--disable-hot-restart", "--allow-unknown-static-fields", "-l", "warning",
         "--component-log-level", "misc:error", "--concurrency", "2", "--log-format", "%v", "--skip-deprecated-logs"], 0,
    ),
    "as others": (
        ["--mode", "validate", "-c", "boot.json", "--service-node", "n", "--service-cluster", "c", "--service-zone", "z",
         "--parent-shutdown-time-s", "60", "--base-id", "3", "--restart-epoch", "0", "--log-path", "node.log",
         "--admin-address-path", "adm",
         "--file-flush-min-size-kb", "9", "--skip-hot-restart-on-no-parent", "--skip-hot-restart-parent-stats", "--log-format-escaped",
         "--enable-fine-grain-logging", "--socket-path", "@x", "--socket-mode", "600", "--ignore-unknown-dynamic-fields",
         "--enable-mutex-tracing", "--base-id-path", "id"], 0,
    ),
    "tags": (["--mode", "validate", "-c", "boot.json", "--stats-tag", "zone:a", "--stats-tag", "rack:b-1"], 0),
    "a tag that is none": (["--mode", "validate", "-c", "boot.json", "--stats-tag", "zone"], 1),
    "a tag with a dot": (["--mode", "validate", "-c", "boot.json", "--stats-tag", "zone:a.b"], 1),
    "unknown fields": (["--mode", "validate", "-c", "boot.json", "--config-yaml", "{newer: 1}"], 1),
    "unknown fields that may be there": (
        ["--mode", "validate", "-c", "boot.json", "--config-yaml", "{newer: 1}", "--allow-unknown-static-fields"], 0
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str, file: str) -> None:
    arguments, code = VERDICTS[name]
    done = run(*arguments)

    assert done.exit_code == code, done.output
    if "validate" in arguments and code == 0:
        named = "" if "-c" not in arguments and "--config-path" not in arguments else file
        assert done.stdout == f"configuration '{named}' OK\n"
    if code:
        assert done.stdout == ""
        assert done.stderr


@pytest.mark.slow
def test_envoy_says_the_same(file: str) -> None:
    try:
        binary = envoy.binary()
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    others = {}
    for name, (arguments, code) in VERDICTS.items():
        done = subprocess.run([binary, *arguments], capture_output=True, text=True)
        if (done.returncode, done.stdout if code == 0 else "") != (code, run(*arguments).stdout if code == 0 else ""):
            others[name] = (done.returncode, done.stdout, done.stderr[-300:])

    assert others == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reject-unknown-dynamic-fields"], "--reject-unknown-dynamic-fields is not supported"),
        (["--disable-extensions", "envoy.filters.http.rbac"], "--disable-extensions envoy.filters.http.rbac is not supported"),
        (["--restart-epoch", "1"], "SIGUSR2"),
        (["--log-path", "/nowhere/node.log"], "cannot open log file '/nowhere/node.log'"),
        (["--base-id-path", "/nowhere/id"], "cannot write '/nowhere/id'"),
    ],
)
def test_what_must_not_be_passed_over(arguments: list[str], words: str, file: str) -> None:
    done = run("-c", file, *arguments)

    assert done.exit_code == 1
    assert words in done.stderr


def test_a_refusal_names_file_and_field(file: str) -> None:
    Path(file).write_text(json.dumps(changed({"static_resources.clusters.0.lb_policy": "MAGLEV"}), indent=1))
    done = run("--mode", "validate", "-c", file)

    assert re.match(r"error initializing configuration 'boot.json': boot.json:\d+: static_resources.clusters\[0\].lb_policy: ", done.stderr)


def test_versions() -> None:
    # consul and others take the version out of such a line.
    assert re.search(r"version:\s\S+/(\d+\.\d+\.\d+)/", run("--version").stdout)
    assert run("--hot-restart-version").stdout == "disabled\n"


@pytest.mark.parametrize(
    ("given", "ending"),
    [({"base_id": 0}, ""), ({"base_id": 7}, "control-7.sock"), ({"use_dynamic_base_id": True}, f"control-{os.getpid()}.sock"),
     ({"base_id": 7, "control": "/x"}, "/x")],
)
def test_nodes_of_one_machine_have_their_own_control_sockets(given: dict[str, Any], ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHPROXY_CONTROL", raising=False)
    found = command._control({"control": "", "base_id": 0, "use_dynamic_base_id": False, **given})

    assert found.endswith(ending)
    assert bool(found) == bool(ending)


# ---- what the file becomes ----


def loaded(path: str, **options: Any) -> Any:
    return launch.load(path, with_options({}, LaunchOptions(**options))).snapshot


def test_who_the_node_is(file: str) -> None:
    assert loaded(file).node == Node(id="file", cluster="filec", region="r", zone="z")
    assert loaded(file, node_id="n", cluster="c", zone="y").node == Node(id="n", cluster="c", region="r", zone="y")


def test_lists_grow_and_what_is_one_thing_is_replaced(file: str) -> None:
    over = "{node: {id: over}, static_resources: {clusters: [{name: other, type: STATIC}]}}"
    snapshot = loaded(file, config_yaml=over)

    assert [cluster.name for cluster in snapshot.clusters] == ["web", "other"]
    assert (snapshot.node.id, snapshot.node.cluster) == ("over", "filec")
    assert loaded(file, config_yaml=over, node_id="option").node.id == "option"


def test_a_choice_in_the_text_replaces_that_of_the_file(file: str) -> None:
    """One of several fields: both would be refused in one file."""
    Path(file).write_text(json.dumps(changed({"admin": {"address": {"pipe": {"path": "/tmp/x"}}}})))
    over = '{admin: {address: {socket_address: {address: "127.0.0.1", port_value: 1}}}}'

    assert str(loaded(file, config_yaml=over).admin.address) == "127.0.0.1:1"


def test_the_rest_of_the_command_line(file: str) -> None:
    snapshot = loaded(file, drain_s=45.0, log_level="warning", stats_tags=(("zone", "a"),))

    assert snapshot.stats.tags == (StatsTag(name="zone", value="a"),)
    assert (snapshot.process.drain_timeout_s, snapshot.log_level) == (45.0, "warning")
    assert options_in(with_options({"A": "b"}, LaunchOptions(zone="z"))) == LaunchOptions(zone="z")


@pytest.mark.parametrize("ending", [".pb", ".pb_text"])
def test_other_forms(tmp_path: Path, ending: str) -> None:
    message = bootstrap_pb2.Bootstrap()
    message.static_resources.clusters.add(name="web")
    path = tmp_path / f"boot{ending}"
    path.write_bytes(message.SerializeToString() if ending == ".pb" else text_format.MessageToString(message).encode())

    assert [cluster.name for cluster in loaded(str(path)).clusters] == ["web"]
    path.write_bytes(b"\x0a\x05")
    with pytest.raises(ConfigError, match="it is no Bootstrap"):
        loaded(str(path))


def test_problems_of_the_text_name_it(file: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(file, config_yaml="a:\n  b: 1")

    assert [(problem.file, problem.line) for problem in refused.value.problems] == [("--config-yaml", 1)]
