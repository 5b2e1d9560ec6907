"""`meshproxy run`: where it looks for a configuration and what it hands to the master."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from meshproxy.cli import run as command_run
from meshproxy.cli.main import main


def test_no_configuration_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_run, "DEFAULT_FILES", ("./meshproxy.yaml", str(tmp_path / "etc.yaml")))
    refused = CliRunner().invoke(main, ["run"])

    assert refused.exit_code == 2
    assert "./meshproxy.yaml" in refused.output
    assert "-c FILE" in refused.output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["run", "-c", str(tmp_path / "none.yaml")])

    assert refused.exit_code == 2
    assert "none.yaml" in refused.output


def test_the_default_file_is_the_first_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "second.yaml").write_text("")
    monkeypatch.setattr(command_run, "DEFAULT_FILES", (str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")))

    assert command_run.default_file() == str(tmp_path / "second.yaml")


@pytest.mark.parametrize(("given", "number"), [("auto", 0), ("1", 1), ("64", 64)])
def test_worker_counts(given: str, number: int) -> None:
    assert command_run.WorkerCount().convert(given, None, None) == number


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5", ""])
def test_what_is_no_worker_count(given: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("")
    refused = CliRunner().invoke(main, ["run", "-c", str(tmp_path / "m.yaml"), "--workers", given])

    assert refused.exit_code == 2
    assert "auto" in refused.output
