"""Bootstraps in Envoy's form: what is accepted and what it becomes; what is refused, where and with which words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from meshproxy.config.load import load_text
from meshproxy.errors import ConfigError
from meshproxy.model import AccessLog, SocketAddress
from meshproxy.model.telemetry import DEFAULT_FORMAT
from tests.config.envoy.bootstraps import LISTENER, MANAGER, ROUTE, changed, good
from tests.config.envoy.verdicts import ACCEPTED, REFUSED
from tests.peers import envoy
from tests.peers.process import PeerMissingError


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    assert load_text(json.dumps(changed(ACCEPTED[name])), {}).form == "envoy"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_words(name: str) -> None:
    changes, path, words = REFUSED[name]
    text = yaml.safe_dump(changed(changes), sort_keys=False)

    with pytest.raises(ConfigError) as refused:
        load_text(text, {}, "boot.yaml")

    problems = refused.value.problems
    told = [problem for problem in problems if words in problem.message]
    assert told, [str(problem) for problem in problems]
    assert path in told[0].path, told[0]
    assert told[0].file == "boot.yaml"
    assert 0 < told[0].line <= text.count("\n")


def test_the_line_is_the_fields(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed({f"{ROUTE}.route.cluster": "nope"}), sort_keys=False)
    lines = text.split("\n")

    with pytest.raises(ConfigError) as refused:
        load_text(text, {})

    assert "nope" in lines[refused.value.problems[0].line - 1]


def test_all_problems_are_told_at_once() -> None:
    data = changed({f"{MANAGER}.stat_prefix": "", f"{MANAGER}.tracing": {"verbose": True}, f"{ROUTE}.route.cluster": "nope", f"{LISTENER}.nmae": "x"})

    with pytest.raises(ConfigError) as refused:
        load_text(json.dumps(data), {})

    assert len(refused.value.problems) == 4


def test_defaults_are_envoys() -> None:
    snapshot = load_text(json.dumps(good()), {}).snapshot
    manager = snapshot.listeners[0].chains[0].terminal

    assert manager.server_name == "envoy"
    assert snapshot.route_tables[0].virtual_hosts[0].routes[0].action.timeout_s == 15.0
    assert load_text(json.dumps(changed(ACCEPTED["statsd by tcp"])), {}).snapshot.stats.sinks[0].prefix == "envoy"


def test_a_listener_without_a_name_gets_its_address() -> None:
    assert load_text(json.dumps(changed(ACCEPTED["nameless listener"])), {}).snapshot.listeners[0].name == "127.0.0.1:10000"


def test_route_configurations_of_one_name_are_told_apart() -> None:
    other = changed({f"{LISTENER}.name": "b", f"{LISTENER}.address.socket_address.port_value": 1, f"{ROUTE}.match.prefix": "/b"})
    data = changed({"static_resources.listeners.+": other["static_resources"]["listeners"][0]})

    snapshot = load_text(json.dumps(data), {}).snapshot

    assert [table.name for table in snapshot.route_tables] == ["r", "b/r"]
    assert [item.chains[0].terminal.route_table for item in snapshot.listeners] == ["r", "b/r"]


def test_a_size_without_an_effect_is_told() -> None:
    inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    filters = [{"name": "tls", "typed_config": {"@type": inspector, "initial_read_buffer_size": 512}}]
    loaded = load_text(json.dumps(changed({f"{LISTENER}.listener_filters": filters})), {})

    assert [problem.path.rpartition(".")[2] for problem in loaded.warnings] == ["initial_read_buffer_size"]


def test_ignored_but_told() -> None:
    data = changed({"layered_runtime": {"layers": [{"name": "s", "static_layer": {"a": 1}}]}})
    data["admin"] = {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 9901}}}

    loaded = load_text(json.dumps(data), {})

    assert sorted(problem.path for problem in loaded.warnings) == ["admin.address", "layered_runtime.layers[0].static_layer"]
    assert loaded.snapshot.admin is not None
    assert loaded.snapshot.admin.address == SocketAddress("0.0.0.0", 9901)


@pytest.mark.parametrize("name", ["admin logs", "admin log of old"])
def test_admin_logs_of_both_kinds_are_taken(name: str) -> None:
    loaded = load_text(json.dumps(changed(ACCEPTED[name])), {})

    assert loaded.warnings == []
    assert loaded.snapshot.admin is not None
    assert loaded.snapshot.admin.access_logs == (AccessLog(sink="file", path="/dev/null", text=DEFAULT_FORMAT),)


def test_what_nothing_finds_out_is_told() -> None:
    """Envoy adds no TLS inspector, so such a chain gets no connection."""
    told = changed({f"{LISTENER}.filter_chains.0.filter_chain_match": {"server_names": ["a.example"]}})
    loaded = load_text(json.dumps(told), {})

    assert [problem.path for problem in loaded.warnings] == ["static_resources.listeners[0].filter_chains"]
    assert loaded.snapshot.listeners[0].filters == ()


@pytest.mark.slow
def test_envoys_verdict(tmp_path: Path) -> None:
    """What is accepted here, stock Envoy accepts."""
    try:
        binary = envoy.binary()
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    refused = {}
    for name, changes in ACCEPTED.items():
        file = tmp_path / "boot.json"
        file.write_text(json.dumps(changed(changes)))
        done = subprocess.run([binary, "--mode", "validate", "-l", "error", "-c", file], capture_output=True, text=True)
        if done.returncode != 0:
            refused[name] = done.stderr

    assert refused == {}
