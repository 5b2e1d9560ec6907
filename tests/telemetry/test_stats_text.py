"""`/stats` in Envoy's text and JSON."""

from __future__ import annotations

import json
import re

import pytest

from meshproxy.scoreboard.catalogue import BlockKind, block_cells
from meshproxy.telemetry.stats import Block, MetricReader, Reading, extras_of
from meshproxy.telemetry.stats_text import json_text, make_query, text
from tests.telemetry.mesh import Mesh


@pytest.fixture
def reading() -> Reading:
    mesh = Mesh("b", "a:1")
    reader = MetricReader(mesh.region)
    mesh.count(BlockKind.CLUSTER, "b", "upstream_rq_total", 3)
    mesh.count(BlockKind.CLUSTER, "a:1", "upstream_rq_503", 1)
    mesh.record(BlockKind.CLUSTER, "b", "upstream_rq_time", 1000, 1000, 3000)
    reader.flush(reader.read(mesh.rows()))
    mesh.record(BlockKind.CLUSTER, "b", "upstream_rq_time", 50_000)
    reader.flush(reader.read(mesh.rows()))
    return reader.read(mesh.rows(), extras_of({"server.uptime": 7}))


def stats(reading: Reading, **asked: str | bool) -> str:
    return "".join(text(reading, make_query(**asked)))  # type: ignore[arg-type]


def test_used_metrics_as_text(reading: Reading) -> None:
    lines = [line for line in stats(reading, used_only=True).splitlines() if "worker_" not in line]

    assert lines == [
        "cluster.a_1.upstream_rq_503: 1",
        "cluster.b.upstream_rq_total: 3",
        "server.uptime: 7",
        "cluster.b.upstream_rq_time: P0(49.152,0.96) P25(51.1995,0.9915) P50(51.1995,0.9915) P75(51.1995,2.9435) P90(51.1995,51.1995) "
        "P95(51.1995,51.1995) P99(51.1995,51.1995) P99.5(51.1995,51.1995) P99.9(51.1995,51.1995) P100(53.247,53.247)",
    ]


def test_all_metrics_are_there_and_each_line_is_one(reading: Reading) -> None:
    lines = stats(reading).splitlines()

    assert len(lines) > 300
    assert all(re.fullmatch(r"[\w.]+: (\d+|No recorded values|P0\(.*\))", line) for line in lines)
    assert len({line.split(": ")[0] for line in lines}) == len(lines)
    assert "cluster.a_1.upstream_rq_time: No recorded values" in lines


def test_blocks_with_one_prefix_are_all_there() -> None:
    """RBAC's rules and their shadow are two blocks."""
    zeros = {kind: [0] * block_cells(kind) for kind in BlockKind}
    kinds = ((BlockKind.RBAC, "in."), (BlockKind.RBAC_SHADOW, "in.rbac."))
    blocks = [Block(kind, thing, at, zeros[kind], None, frozenset()) for at, (kind, thing) in enumerate(kinds)]

    assert stats(Reading(blocks, [])).splitlines() == [
        "in.rbac.allowed: 0", "in.rbac.denied: 0", "in.rbac.logged: 0", "in.rbac.not_logged: 0", "in.rbac.shadow_allowed: 0",
        "in.rbac.shadow_denied: 0",
    ]


def test_a_filter_is_searched_in_names(reading: Reading) -> None:
    assert stats(reading, filter_text=r"b\.upstream_rq_to") == "cluster.b.upstream_rq_total: 3\n"


def test_types(reading: Reading) -> None:
    assert "upstream_rq_active" not in stats(reading, type_name="Counters")
    assert "upstream_rq_total" not in stats(reading, type_name="gauges")
    assert stats(reading, type_name="Histograms", used_only=True).count("\n") == 1
    assert stats(reading, type_name="TextReadouts") == ""


@pytest.mark.parametrize(
    ("asked", "says"),
    [({"type_name": "Nope"}, r"type=All\|Counters.*'Nope' is none"), ({"filter_text": "("}, r"Invalid re2 regex: '\('")],
)
def test_what_cannot_be_asked_is_told(asked: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_query(**asked)  # type: ignore[arg-type]


def test_json_has_envoys_shape(reading: Reading) -> None:
    stats = json.loads("".join(json_text(reading, make_query(used_only=True))))["stats"]
    numbers = {entry["name"]: entry["value"] for entry in stats if "name" in entry}
    (histograms,) = [entry["histograms"] for entry in stats if "histograms" in entry]

    assert numbers["cluster.b.upstream_rq_total"] == 3
    assert histograms["supported_quantiles"] == [0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100]
    (computed,) = histograms["computed_quantiles"]
    assert computed["name"] == "cluster.b.upstream_rq_time"
    assert computed["values"][0] == {"interval": 49.152, "cumulative": 0.96}


@pytest.mark.parametrize("type_name", ["Counters", "Histograms", "TextReadouts"])
def test_json_of_nothing_is_json(type_name: str) -> None:
    mesh = Mesh()
    reading = MetricReader(mesh.region).read(mesh.rows())
    stats = json.loads("".join(json_text(reading, make_query(type_name=type_name, filter_text="nothing_has_this_name"))))["stats"]

    assert [entry for entry in stats if "name" in entry] == []
