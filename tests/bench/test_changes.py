"""What several rounds of a changing load say, and which failures a worker's death explains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import changes, kill, report
from bench.loads import CHANGES
from bench.paced import Fate, Figures, Record
from bench.phases import Changed, Phase, rows
from meshproxy.config.load import load
from tests.support.origin import Origin
from tests.support.wire import Client, get


def seen(p99_ms: float, **more) -> Figures:
    return Figures(
        **{"rate_per_s": 10, "p50_ms": 1, "p99_ms": p99_ms, "max_ms": 9, "late_p99_ms": 0, "connects": 0, "slowest_connect_ms": 0,
           "failures": {}} | more
    )  # fmt: skip


def test_rounds_are_medians_ratios_are_within_a_round_and_failures_add_up() -> None:
    rounds = [
        [Phase("before", 2, seen(1.0), seen(0.5), 0.1), Phase("reloads", 5, seen(2.0, failures={"cut": 1}), seen(1.0), 0.2)],
        [Phase("before", 2, seen(2.0), seen(0.5), 0.0), Phase("reloads", 5, seen(8.0, failures={"cut": 2}, max_ms=30), seen(0.5), 0.9)],
        [Phase("before", 2, seen(4.0), seen(0.5), 0.0), Phase("reloads", 5, seen(12.0), seen(0.5), 0.0)],
    ]
    before, during = rows(rounds)

    assert (before.phase, before.p99_ms, before.p99_ratio, before.failed) == ("before", 2.0, 1.0, 0)
    assert (during.p99_ms, during.p99_spread, during.max_ms, during.elsewhere) == (8.0, (2.0, 12.0), 30, 0.9)
    assert (during.p99_ratio, during.direct_ratio) == (3.0, 1.0)
    assert (during.failed, during.failures) == (3, {"cut": 3})


def test_a_table_and_json_are_made_of_it() -> None:
    changed = Changed(rows([[Phase("before", 2, seen(1.0, failures={"cut": 4}), seen(0.5), 0.1)]]), {"reload_s": [0.25]})
    text = report.change_table("reload", changed)

    assert "failed in 'before': 4 cut" in text
    assert "reload_s 0.25" in text
    assert json.loads(json.dumps(report.as_json({}, {"reload": changed}, {})))["reload"]["phases"][0]["failed"] == 4


def test_every_load_that_is_listed_is_there() -> None:
    assert list(changes.LOADS) == list(CHANGES)


def test_a_death_explains_what_was_under_way_and_nothing_else() -> None:
    death = kill.Death(killed_s=10.0, gone_s=10.1)

    def record(started_s: float, ended_s: float, fate: Fate) -> Record:
        return Record(int(started_s * 1e6), int((ended_s - started_s) * 1e6), 0, fate, 0)

    records = [
        record(9.9, 10.05, Fate.CUT),            # under way when it came
        record(10.05, 10.1, Fate.CUT),           # its sockets were still open
        record(9.9, 10.3, Fate.ANSWERED),        # the other worker's
        record(9.0, 9.5, Fate.CUT),              # before
        record(10.2, 10.3, Fate.CUT),            # after: a pool would have seen that the connection had ended
        record(10.0, 10.1, Fate.NOT_CONNECTED),  # never a worker's right
        record(9.0, 11.0, Fate.CONNECTED),
    ]

    assert kill.fates(records, [death]) == {"failed_in_flight": 2, "failed_otherwise": 3, "most_in_flight": 3}


def test_open_connections_are_counted_at_the_side_that_listens() -> None:
    with Origin() as origin, Client(origin.port) as one, Client(origin.port) as other:
        assert [client.ask(get("/")).status for client in (one, other)] == [200, 200]
        assert kill.open_connections(origin.port) == 2


@pytest.mark.parametrize(("name", "text"), [
    ("mesh.yaml", changes.large_native(0, 1, "7")),
    ("mesh.json", json.dumps(changes.large_envoy(0, 1, "7"))),
])  # fmt: skip
def test_the_large_configurations_are_what_they_are_said_to_be(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    snapshot = load(str(path), {})

    assert len(snapshot.clusters) == 1000
    assert sum(len(host.routes) for table in snapshot.route_tables for host in table.virtual_hosts) == 10_000
