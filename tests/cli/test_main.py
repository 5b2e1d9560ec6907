"""The group: light to start, its own lines of help true, unknown commands refused."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from meshproxy import __version__
from meshproxy.cli.main import COMMANDS, main
from tests.cli.node import command


def test_help_lists_every_command_without_importing_it() -> None:
    shown = CliRunner().invoke(main, ["--help"])

    assert shown.exit_code == 0
    for name, (_, help) in COMMANDS.items():
        assert f"  {name} " in shown.output
        assert help in " ".join(shown.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_table_says_and_says_the_same_of_itself(name: str) -> None:
    found = main.get_command(None, name)

    assert found is not None
    assert found.name == name
    assert found.get_short_help_str(200).rstrip(".") == COMMANDS[name][1].rstrip(".")


def test_version_both_ways() -> None:
    assert __version__ in CliRunner().invoke(main, ["version"]).output
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def test_an_unknown_command_is_usage() -> None:
    refused = command("relaod")

    assert refused.returncode == 2
    assert "relaod" in refused.stderr
