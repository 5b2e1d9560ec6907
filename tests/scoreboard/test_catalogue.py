"""The catalogue and what is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.scoreboard import catalogue
from meshproxy.scoreboard.catalogue import CATALOGUE, GENERATED, BlockKind, block_cells, offsets

FOLDER = Path(catalogue.__file__).parent

# Names of Envoy 1.40's /stats for the same things, taken from a running one.
ENVOY_HTTP = """downstream_cx_active downstream_cx_delayed_close_timeout downstream_cx_destroy downstream_cx_destroy_active_rq
downstream_cx_destroy_local downstream_cx_destroy_local_active_rq downstream_cx_destroy_remote downstream_cx_destroy_remote_active_rq
downstream_cx_drain_close downstream_cx_http1_active downstream_cx_http1_total downstream_cx_idle_timeout
downstream_cx_max_duration_reached downstream_cx_max_requests_reached downstream_cx_protocol_error downstream_cx_rx_bytes_total
downstream_cx_total downstream_cx_tx_bytes_buffered downstream_cx_tx_bytes_total downstream_cx_upgrades_active
downstream_cx_upgrades_total downstream_flow_control_paused_reading_total downstream_flow_control_resumed_reading_total
downstream_rq_1xx downstream_rq_2xx downstream_rq_3xx downstream_rq_4xx downstream_rq_5xx downstream_rq_active downstream_rq_completed
downstream_rq_header_timeout downstream_rq_http1_total downstream_rq_idle_timeout downstream_rq_max_duration_reached
downstream_rq_non_relative_path downstream_rq_overload_close downstream_rq_response_before_rq_complete downstream_rq_rx_reset
downstream_rq_timeout downstream_rq_too_large downstream_rq_total downstream_rq_tx_reset downstream_rq_ws_on_non_ws_route no_cluster
no_route rq_direct_response rq_redirect rq_total downstream_cx_length_ms downstream_rq_time""".split()
ENVOY_CLUSTER = """lb_healthy_panic upstream_cx_active upstream_cx_close_notify upstream_cx_connect_fail upstream_cx_connect_timeout
upstream_cx_destroy upstream_cx_destroy_local upstream_cx_destroy_local_with_active_rq upstream_cx_destroy_remote
upstream_cx_destroy_remote_with_active_rq upstream_cx_destroy_with_active_rq upstream_cx_http1_total upstream_cx_idle_timeout
upstream_cx_max_duration_reached upstream_cx_max_requests upstream_cx_none_healthy upstream_cx_overflow upstream_cx_protocol_error
upstream_cx_rx_bytes_total upstream_cx_total upstream_cx_tx_bytes_buffered upstream_cx_tx_bytes_total
upstream_flow_control_paused_reading_total upstream_flow_control_resumed_reading_total upstream_rq_active upstream_rq_cancelled
upstream_rq_completed upstream_rq_pending_active upstream_rq_pending_failure_eject upstream_rq_pending_overflow
upstream_rq_pending_total upstream_rq_per_try_timeout upstream_rq_retry upstream_rq_retry_backoff_exponential
upstream_rq_retry_limit_exceeded upstream_rq_retry_overflow upstream_rq_retry_success upstream_rq_rx_reset upstream_rq_timeout
upstream_rq_total upstream_rq_tx_reset upstream_rq_200 upstream_rq_2xx upstream_rq_503 upstream_rq_5xx upstream_cx_connect_ms
upstream_cx_length_ms upstream_rq_time""".split()
ENVOY_LISTENER = """downstream_cx_active downstream_cx_destroy downstream_cx_overflow downstream_cx_overload_reject downstream_cx_total
no_filter_chain_match downstream_cx_length_ms""".split()


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_fresh(name: str) -> None:
    assert (FOLDER / name).read_text() == GENERATED[name](), "run python -m meshproxy.scoreboard.catalogue"


@pytest.mark.parametrize("kind", BlockKind)
def test_names_are_unique_in_a_block(kind: BlockKind) -> None:
    names = [row.name for row in CATALOGUE[kind]]

    assert len(names) == len(set(names))


def test_every_metric_says_what_it_counts() -> None:
    assert [row.name for rows in CATALOGUE.values() for row in rows if not row.help or row.help.endswith(".")] == []


@pytest.mark.parametrize(
    ("kind", "names"), [(BlockKind.HTTP, ENVOY_HTTP), (BlockKind.CLUSTER, ENVOY_CLUSTER), (BlockKind.LISTENER, ENVOY_LISTENER)]
)
def test_the_same_things_have_envoys_names(kind: BlockKind, names: list[str]) -> None:
    ours = {row.name for row in CATALOGUE[kind]}

    assert [name for name in names if name not in ours] == []


@pytest.mark.parametrize("kind", BlockKind)
def test_cells_of_a_block_do_not_overlap(kind: BlockKind) -> None:
    ends = 0
    for at, row in offsets(kind):
        assert at == ends
        ends += catalogue.cells_of(row)
    assert ends == block_cells(kind)


def test_status_counters_follow_each_other() -> None:
    """`status_cell` adds to the place of the first."""
    placed = {row.name: at for at, row in offsets(BlockKind.CLUSTER)}
    first = placed["upstream_rq_100"]

    assert [placed[f"upstream_rq_{code}"] - first for code in catalogue.STATUS_CODES] == list(range(len(catalogue.STATUS_CODES)))


def test_the_digest_tells_catalogues_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = catalogue.digest()
    monkeypatch.setitem(CATALOGUE, BlockKind.HOST, CATALOGUE[BlockKind.HOST][1:])

    assert catalogue.digest() != before
