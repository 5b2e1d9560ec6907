"""Every load comes out as one row of one table, whatever drove it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import attackers, report, rounds
from bench.attacks import ATTACKS, Attacked
from bench.loads import LOADS
from bench.measure import Sample
from bench.rounds import row
from tests.peers.process import PeerMissingError


def sample(cpu_us: float, p99_ms: float | None = None, failed: int = 0) -> Sample:
    return Sample(cpu_us, 100.0, p99_ms, p99_ms, failed, 10**7, 0.5)


def test_costs_are_medians_and_failures_add_up() -> None:
    made = row("envoy", [sample(3.0, failed=1), sample(9.0, failed=2), sample(4.0)])

    assert (made.cpu_us, made.cpu_spread, made.p99_ms, made.failed) == (4.0, (3.0, 9.0), None, 3)
    assert row("envoy", [sample(1.0, 2.0), sample(1.0, 4.0), sample(1.0, 8.0)]).p99_ms == 4.0


def test_ratios_are_to_the_best_peer_and_to_each_that_a_bar_is_against() -> None:
    rows = [row(peer, [sample(cost)]) for peer, cost in {"meshproxy": 4.0, "nginx": 2.0, "haproxy": 8.0, "envoy": 16.0}.items()]

    assert report.ratios(rows, rows[0]) == {"to_best_peer": 2.0, "to_haproxy": 0.5, "to_envoy": 0.25, "to_one_worker": None}
    assert "CPU us/MB" in report.load_table("tcp", rows)
    assert json.loads(json.dumps(report.as_json({"tcp": rows}, {}, {})))["loads"]["tcp"][0]["to_haproxy"] == 0.5


@pytest.mark.parametrize("name", ["small", "tls", "tls-resume", "h2", "tcp"])
def test_meshproxy_serves_each_kind_of_load(tmp_path: Path, name: str) -> None:
    try:
        (made,) = rounds.run(tmp_path / name, LOADS[name], ["meshproxy"], 1, 1, lambda line: None)
    except PeerMissingError as error:
        pytest.skip(str(error))

    assert made.failed == 0
    assert made.rate_per_s > 0
    assert made.cpu_us > 0


def test_a_traced_node_stands_beside_one_that_is_not(tmp_path: Path) -> None:
    try:
        made = rounds.run(tmp_path, LOADS["tracing"], [], 1, 1, lambda line: None)
    except PeerMissingError as error:
        pytest.skip(str(error))

    assert [(each.peer, each.failed) for each in made] == [("meshproxy", 0), ("+ tracing", 0)]


def test_attacks_have_a_table_and_json() -> None:
    rows = [Attacked("ping", 0.3, 2.0, 3.0, 1.5, 1.0, 0, 10**6, {"http2.outbound_control_flood": 4})]
    rows.append(Attacked("slowloris", 0, 1, 1, 1, 1, 0, 0, {}))
    text = report.attack_table(rows)

    assert "counted in ping: http2.outbound_control_flood 4" in text
    assert "counted in slowloris: -" in text
    assert json.loads(json.dumps(report.as_json({}, {"attacks": rows}, {})))["attacks"][0]["p99_ratio"] == 1.5


def test_every_attack_that_is_listed_is_there() -> None:
    assert list(attackers.attacks(1, 2)) == ATTACKS
