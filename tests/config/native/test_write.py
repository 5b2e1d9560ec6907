"""Whatever the model can say, native YAML says it, and reading it gives the same again."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from meshproxy.config import document
from meshproxy.config.envoy import write as envoy
from meshproxy.config.load import load_text
from meshproxy.config.native import write
from meshproxy.config.native.http import HTTP
from meshproxy.model import HttpConnectionManager, ResourceKind, Snapshot
from meshproxy.model.snapshot import resources_of, unpack
from tests.config.snapshots import snapshots

LITTLE = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
"""A failure is told as it was found: to look for a smaller one among whole configurations takes minutes."""


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


SIGNED = (
    "listeners:\n- address: 127.0.0.1:80\n  respond: 200\n  http:\n    add_user_agent: true\n    tracing:\n      marks_only: true\n"
    "node:\n  id: n\n  cluster: c\n"
)
OF_LISTENER = {"route_table", "rds", "filters", "access_logs"}
"""What a connection manager has from the listener's own settings."""
FILLED_IN = {"user_agent", "service_node"}
"""What it has from the node, and no file says."""


def test_what_is_filled_in_from_the_node_is_never_written() -> None:
    snapshot = load_text(SIGNED, {}).snapshot
    listeners = tuple(unpack(each) for each in resources_of(snapshot) if each.kind is ResourceKind.LISTENER)
    signed = msgspec.structs.replace(snapshot, listeners=listeners)

    manager = listeners[0].chains[0].terminal
    assert (manager.user_agent, manager.service_node) == ("c", "n")
    assert (manager.tracing.node_cluster, manager.tracing.node_id) == ("c", "n")
    assert write.to_yaml(signed) == SIGNED
    assert envoy.to_data(signed) == envoy.to_data(snapshot)


def test_every_field_of_a_connection_manager_has_its_setting() -> None:
    assert {row.field for row in HTTP.rows} | OF_LISTENER | FILLED_IN == set(HttpConnectionManager.__struct_fields__)
    assert not {row.field for row in HTTP.rows} & (OF_LISTENER | FILLED_IN)


def test_short_forms_are_used() -> None:
    text = "listeners:\n- address: 127.0.0.1:80\n  to: web\nclusters:\n  web: [10.0.0.1:80, 10.0.0.2:80]\nadmin: 127.0.0.1:9901\n"

    assert write.to_yaml(load_text(text, {}).snapshot) == (
        "listeners:\n- address: 127.0.0.1:80\n  to: web\nclusters:\n  web:\n  - 10.0.0.1:80\n  - 10.0.0.2:80\nadmin: 127.0.0.1:9901\n"
    )
