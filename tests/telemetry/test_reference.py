"""Pages and dashboard are what the tables make of them, and name nothing that is not counted."""

from __future__ import annotations

import json
import re

import pytest

from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind
from meshproxy.telemetry import dashboard
from meshproxy.telemetry.operators import OPERATORS
from meshproxy.telemetry.reference import DOCS, PAGES
from meshproxy.telemetry.stats import MetricReader, open_breakers
from tests.telemetry.mesh import Mesh

DERIVED = {"membership_total", "membership_healthy"}


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_fresh(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run python -m meshproxy.telemetry.reference"


def test_every_operator_and_metric_is_on_its_page() -> None:
    metrics, log = PAGES["metrics.md"](), PAGES["access-log.md"]()

    assert [name for name in OPERATORS if f"| `%{name}" not in log] == []
    assert [row.name for rows in CATALOGUE.values() for row in rows if f"{row.name}` |" not in metrics] == []


def test_the_dashboard_is_fresh() -> None:
    assert dashboard.PATH.read_text() == dashboard.text(), "run python -m meshproxy.telemetry.dashboard"


def counted(kind: BlockKind) -> set[str]:
    """Metrics of a kind of thing, derived ones too."""
    names = {row.name for row in CATALOGUE[kind]}
    if kind is BlockKind.CLUSTER:
        from meshproxy.model import Breakers

        mesh = Mesh("a")
        (block,) = [block for block in MetricReader(mesh.region).read(mesh.rows()).blocks if block.kind is kind]
        names |= DERIVED | {extra.name for extra in open_breakers(block, (Breakers(), Breakers()))}
    return names


def test_the_dashboard_shows_only_what_is_counted() -> None:
    shown = [target["target"] for panel in json.loads(dashboard.text())["panels"] for target in panel.get("targets", ())]
    paths = [path for target in shown for path in re.findall(r"stats(?:\.timers|\.gauges)?\.\$prefix\.([\w.$*]+)", target)]
    patterns = {
        BlockKind.HTTP: r"http\.\$http\.(.+)", BlockKind.CLUSTER: r"cluster\.\$cluster\.(.+)",
        BlockKind.SERVER: r"server\.(?:worker_\*\.)?(.+)",
    }  # fmt: skip
    unknown = []
    for path in paths:
        kind, found = next((kind, found) for kind, pattern in patterns.items() if (found := re.fullmatch(pattern, path)))
        metric = re.sub(r"\.(median|upper|upper_\d\d)$", "", found[1])
        workers_own = "worker_" in path and metric == "downstream_rq_total"
        if metric not in counted(kind) and not workers_own:
            unknown.append(path)

    assert len(paths) > 40
    assert unknown == []


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(dashboard.text())["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
