"""The reference page is what the commands say of themselves."""

from __future__ import annotations

from meshproxy.cli.main import COMMANDS
from meshproxy.cli.reference import PLACE, reference


def test_the_page_is_fresh() -> None:
    assert PLACE.read_text() == reference(), "run: python -m meshproxy.cli.reference"


def test_it_has_every_command() -> None:
    for name in COMMANDS:
        assert f"## `meshproxy {name}`" in reference()
