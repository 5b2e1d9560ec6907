"""`meshproxy check`: exit codes, lines, JSON, plan."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from meshproxy.config.load import load_text
from meshproxy.ipc.messages import Answer
from tests.cli.node import fake_node

GOOD = "listeners: [{address: '127.0.0.1:1', respond: 200}]\n"
BAD = "workers: many\nlog_level: loud\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mesh.yaml"


def test_good(file: Path) -> None:
    file.write_text(GOOD)

    result = run("check", str(file))

    assert (result.exit_code, result.output) == (0, f"{file}: good\n")


def test_refused_one_problem_a_line(file: Path) -> None:
    file.write_text(BAD)

    result = run("check", str(file))

    assert result.exit_code == 1
    assert [line.split(": ")[:2] for line in result.output.splitlines()] == [[f"{file}:1", "workers"], [f"{file}:2", "log_level"]]


def test_json_of_a_good_one(file: Path) -> None:
    file.write_text(GOOD)

    result = run("check", str(file), "--format", "json")

    assert (result.exit_code, json.loads(result.output)) == (0, {"ok": True, "errors": [], "warnings": []})


def test_json_of_a_refused_one(file: Path) -> None:
    file.write_text(BAD)

    result = run("check", str(file), "--format", "json")

    tree = json.loads(result.output)
    assert result.exit_code == 1
    assert (tree["ok"], tree["warnings"]) == (False, [])
    assert tree["errors"][0] == {
        "message": '"many" is given where auto or a number 0 to 1024 is needed. Write digits only.',
        "file": str(file),
        "line": 1,
        "path": "workers",
    }


def test_warnings(file: Path) -> None:
    file.write_text("admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}\n")

    assert json.loads(run("check", str(file), "--format", "json").output)["warnings"][0]["path"] == "admin.address"
    assert run("check", str(file)).output.startswith(f"warning: {file}:1: admin.address: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "nope.yaml"))

    assert result.exit_code == 1
    assert "No such file" in result.output


def test_usage() -> None:
    assert run("check").exit_code == 2
    assert run("check", "x", "--format", "xml").exit_code == 2


def test_plan_without_a_node(file: Path, tmp_path: Path) -> None:
    file.write_text(GOOD)
    control = str(tmp_path / "control.sock")

    result = run("check", str(file), "--plan", "--control", control)

    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"from nothing: no node runs at {control}", 'add route table "127.0.0.1:1"', 'add listener "127.0.0.1:1": 127.0.0.1:1',
    ]


def test_plan_from_the_running_node(file: Path, tmp_path: Path) -> None:
    file.write_text(GOOD.replace("200", "204"))
    running = msgspec.msgpack.encode(load_text(GOOD, {}).snapshot)
    control = tmp_path / "control.sock"

    with fake_node(control, lambda order: (Answer(id=order.id, body=running), ())) as orders:
        result = run("check", str(file), "--plan", "--control", str(control))

    assert [order.verb for order in orders] == ["dump"]
    assert result.output.splitlines() == [
        f"from the node at {control}",
        'change route table "127.0.0.1:1": virtual_hosts[*].routes[0].action.status 200 -> 204',
    ]


def test_plan_as_json(file: Path, tmp_path: Path) -> None:
    file.write_text(GOOD)

    tree = json.loads(run("check", str(file), "--plan", "--format", "json", "--control", str(tmp_path / "c")).output)

    assert [(step["action"], step["kind"], step["name"]) for step in tree["plan"]] == [
        ("add", "route_table", "127.0.0.1:1"), ("add", "listener", "127.0.0.1:1"),
    ]
