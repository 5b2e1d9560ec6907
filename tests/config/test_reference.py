"""The reference pages are those of the code, and every setting is on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.native.schema import json_schema
from meshproxy.config.reference import PAGES, SECTIONS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_fresh(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run python -m meshproxy.config.reference"


def test_every_section_has_a_place() -> None:
    shown = {section.name for section in SECTIONS}

    # header_change is a row of its own inside header_changes.
    assert set(json_schema()["$defs"]) - shown == {"header_change"}


def test_every_row_says_what_it_is_for() -> None:
    bare = [f"{section.name}.{row.name}" for section in SECTIONS for row in section.rows if not row.help.endswith(".")]

    assert bare == []


def test_every_reference_of_the_schema_is_defined() -> None:
    schema = json_schema()
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            found.extend([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(schema)
    assert {name.removeprefix("#/$defs/") for name in found} <= set(schema["$defs"])
