"""The page is read by Prometheus' own parser, and says what was counted under Envoy's names."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshproxy.model import Stats, StatsTag
from meshproxy.scoreboard.catalogue import BlockKind
from meshproxy.telemetry.prometheus import LINES_PER_PIECE, text
from meshproxy.telemetry.stats import MetricReader, Reading, extras_of
from meshproxy.telemetry.stats_text import make_query
from meshproxy.telemetry.tags import TagRules
from tests.telemetry.mesh import Mesh

BUCKETS_MS = Stats().histogram_buckets_ms


@pytest.fixture
def mesh() -> Mesh:
    mesh = Mesh("a", 'b"\\\n:1')
    mesh.count(BlockKind.CLUSTER, "a", "upstream_rq_total", 3)
    mesh.count(BlockKind.CLUSTER, "a", "upstream_rq_503", 1)
    mesh.count(BlockKind.CLUSTER, "a", "upstream_rq_5xx", 1)
    mesh.count(BlockKind.HTTP, "in", "downstream_rq_2xx", 2)
    mesh.count(BlockKind.LISTENER, "127.0.0.1_8080", "downstream_cx_total", 9)
    mesh.record(BlockKind.CLUSTER, "a", "upstream_rq_time", 400, 900, 700_000)
    mesh.record(BlockKind.SERVER, "", "loop_turn_us", 5)
    return mesh


def read(mesh: Mesh) -> Reading:
    return MetricReader(mesh.region).read(mesh.rows(), extras_of({"server.uptime": 7, "listener_manager.total_listeners_active": 1}))


def samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} stands twice"
            found[key] = sample.value
    return found


def page(mesh: Mesh, **asked: str | bool) -> str:
    return "".join(text(read(mesh), make_query(**asked), BUCKETS_MS))  # type: ignore[arg-type]


def test_names_and_labels_are_envoys(mesh: Mesh) -> None:
    found = samples(page(mesh))

    def value(name: str, **labels: str) -> float:
        # The parser gives each counter's sample the ending that OpenMetrics wants.
        at = frozenset(labels.items())
        return found[name, at] if (name, at) in found else found[f"{name}_total", at]

    assert value("envoy_cluster_upstream_rq_total", envoy_cluster_name="a") == 3
    assert value("envoy_cluster_upstream_rq", envoy_cluster_name="a", envoy_response_code="503") == 1
    assert value("envoy_cluster_upstream_rq_xx", envoy_cluster_name="a", envoy_response_code_class="5") == 1
    assert value("envoy_http_downstream_rq_xx", envoy_http_conn_manager_prefix="in", envoy_response_code_class="2") == 2
    assert value("envoy_listener_downstream_cx_total", envoy_listener_address="127.0.0.1_8080") == 9
    assert value("envoy_server_uptime") == 7
    assert value("envoy_listener_manager_total_listeners_active") == 1
    assert value("envoy_server_worker_loop_turns", envoy_worker_id="1") == 0


def test_hostile_names_are_escaped(mesh: Mesh) -> None:
    assert samples(page(mesh))["envoy_cluster_upstream_rq_total", frozenset({("envoy_cluster_name", 'b"\\\n_1')})] == 0


def test_histograms_have_envoys_buckets_in_ms(mesh: Mesh) -> None:
    found = samples(page(mesh, filter_text="^cluster.a.upstream_rq_time$"))
    by_bound = {dict(labels).get("le"): value for (name, labels), value in found.items() if name.endswith("_bucket")}

    assert (by_bound["0.5"], by_bound["1"], by_bound["500"], by_bound["1000"], by_bound["+Inf"]) == (1, 2, 2, 3, 3)
    assert list(by_bound) == [f"{bound:.10g}" for bound in BUCKETS_MS] + ["+Inf"]
    whole = frozenset({("envoy_cluster_name", "a")})
    assert found["envoy_cluster_upstream_rq_time_count", whole] == 3
    assert found["envoy_cluster_upstream_rq_time_sum", whole] == 701.3


def test_types_are_declared_once_and_before_their_series(mesh: Mesh) -> None:
    declared: set[str] = set()
    for line in page(mesh).splitlines():
        if line.startswith("# TYPE "):
            name = line.split(" ")[2]
            assert name not in declared
            declared.add(name)
        elif not line.startswith("#"):
            name = line.split("{")[0]
            assert {name, name.rsplit("_", 1)[0]} & declared, line


def test_used_only_leaves_out_what_never_counted(mesh: Mesh) -> None:
    names = {name for name, _ in samples(page(mesh, used_only=True))}

    assert "envoy_cluster_upstream_rq_total" in names
    assert "envoy_cluster_upstream_rq_timeout" not in names


def test_types_are_chosen(mesh: Mesh) -> None:
    kinds = {family.type for family in text_string_to_metric_families(page(mesh, type_name="Gauges"))}

    assert kinds == {"gauge"}


def test_pieces_are_small_whatever_is_counted() -> None:
    mesh = Mesh(*(f"c{number}" for number in range(100)))
    pieces = list(text(read(mesh), make_query(), BUCKETS_MS))

    assert max(piece.count("\n") for piece in pieces) <= LINES_PER_PIECE + len(BUCKETS_MS) + 5
    samples("".join(pieces))


TAGS = TagRules((
    StatsTag(name="dc", value="east"), StatsTag(name="svc.name", regex=r"^cluster\.(?:x~)?(([a-z])\.)"),
    StatsTag(name="all", regex=r"^http\.(in)"),
    StatsTag(name="envoy.cluster_name", regex="cluster.(a)."), StatsTag(name="empty", regex="cluster(z*)"),
))


def test_tags_of_the_configuration_are_labels_too(mesh: Mesh) -> None:
    found = samples("".join(text(read(mesh), make_query(), BUCKETS_MS, TAGS)))
    at = {(name.removesuffix("_total"), labels): value for (name, labels), value in found.items()}

    labels = {("envoy_cluster_name", "a"), ("svc_name", "a"), ("dc", "east"), ("envoy_response_code", "503")}
    assert at["envoy_cluster_upstream_rq", frozenset(labels)] == 1
    assert at["envoy_http_downstream_rq_xx", frozenset(
        {("envoy_http_conn_manager_prefix", "in"), ("all", "in"), ("dc", "east"), ("envoy_response_code_class", "2")}
    )] == 2
    assert at["envoy_server_uptime", frozenset({("dc", "east")})] == 7
