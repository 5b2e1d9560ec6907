"""`meshproxy config`: schema, convert, dump."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from meshproxy.cli.main import main
from meshproxy.config.load import load_text
from meshproxy.ipc.messages import Answer
from tests.cli.node import fake_node

NATIVE = "listeners:\n- address: 127.0.0.1:1\n  respond: 200\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mesh.yaml"
    path.write_text(NATIVE)
    return str(path)


def test_schema() -> None:
    schema = json.loads(run("schema").output)

    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "listeners" in schema["properties"]


def test_to_native(file: str) -> None:
    assert run("convert", file).stdout == NATIVE


def test_to_envoy_and_back(file: str, tmp_path: Path) -> None:
    for shape in ("yaml", "json"):
        text = run("convert", file, "--to", "envoy", "--format", shape).stdout

        assert "static_resources" in yaml.safe_load(text)
        assert load_text(text, {}).snapshot == load_text(NATIVE, {}).snapshot


def test_what_envoy_cannot_say_is_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("workers: 2\n")

    result = run("convert", str(path), "--to", "envoy")

    assert result.exit_code == 0
    assert result.stderr == "warning: workers: Envoy has it on the command line or not at all; left out\n"


def test_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("nope: 1\n")

    result = run("convert", str(path))

    assert (result.exit_code, result.stdout) == (1, "")
    assert "nope" in result.stderr


def test_dump(tmp_path: Path) -> None:
    running = msgspec.msgpack.encode(load_text(NATIVE, {}).snapshot)
    control = tmp_path / "control.sock"

    with fake_node(control, lambda order: (Answer(id=order.id, body=running), ())):
        assert run("dump", "--control", str(control)).stdout == NATIVE


def test_dump_without_a_node(tmp_path: Path) -> None:
    assert run("dump", "--control", str(tmp_path / "c")).exit_code == 2
