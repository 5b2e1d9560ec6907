"""Whatever the model can say, native YAML says it, and reading it gives the same again."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings

from meshproxy.config import document
from meshproxy.config.load import load_text
from meshproxy.config.native import write
from meshproxy.model import Snapshot
from tests.config.snapshots import snapshots

LITTLE = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@LITTLE
@given(snapshots())
def test_yaml_round_trip(snapshot: Snapshot) -> None:
    text = write.to_yaml(snapshot)

    assert load_text(text, {}).snapshot == ordered(snapshot, load_text(text, {}).snapshot)


@LITTLE
@given(snapshots())
def test_json_round_trip(snapshot: Snapshot) -> None:
    text = json.dumps(write.escaped(write.to_data(snapshot)))

    assert load_text(text, {}).snapshot == ordered(snapshot, load_text(text, {}).snapshot)


def ordered(snapshot: Snapshot, read: Snapshot) -> Snapshot:
    """Route tables in the order of `read`: those written with their listener come after the others, which changes nothing."""
    places = {table.name: index for index, table in enumerate(read.route_tables)}
    tables = sorted(snapshot.route_tables, key=lambda table: places[table.name])
    return Snapshot(**{**{field: getattr(snapshot, field) for field in Snapshot.__struct_fields__}, "route_tables": tuple(tables)})


@pytest.mark.parametrize(
    "text", ["1E100", "1e3", "010", "0o17", "08", "on", "y", "~", "null", "1:30", "2024-01-01", "0x1f", ".5", "=", "<<", "- a", "a: b", ""]
)
def test_text_that_looks_like_something_else(text: str) -> None:
    assert document.parse("f.yaml", write.dump({"a": text, text or "b": [text]})).data == {"a": text, text or "b": [text]}


def test_short_forms_are_used() -> None:
    text = "listeners:\n- address: 127.0.0.1:80\n  to: web\nclusters:\n  web: [10.0.0.1:80, 10.0.0.2:80]\nadmin: 127.0.0.1:9901\n"

    assert write.to_yaml(load_text(text, {}).snapshot) == (
        "listeners:\n- address: 127.0.0.1:80\n  to: web\nclusters:\n  web:\n  - 10.0.0.1:80\n  - 10.0.0.2:80\nadmin: 127.0.0.1:9901\n"
    )
