"""`meshproxy status`, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from meshproxy.cli.status import as_text, span
from meshproxy.ipc.messages import Answer, Order, RegistrationRow, SourceRow
from tests.cli.node import command, fake_node, node_state, worker


def answering(order: Order) -> tuple[Answer, list[int]]:
    assert order.verb == "status"
    return Answer(id=order.id, body=msgspec.json.encode(node_state())), []


def test_json_has_what_scripts_stand_on(tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", answering):
        shown = command("status", "--format", "json", "--control", str(tmp_path / "c.sock"))
    state = json.loads(shown.stdout)

    assert shown.returncode == 0
    assert {"pid", "version", "config_version", "workers", "agent", "listeners"} <= state.keys()
    assert [(row["slot"], row["pid"], row["state"]) for row in state["workers"]] == [(0, 1000, "READY"), (1, 1001, "READY")]
    assert state["agent"]["pid"] == 1100
    assert state["listeners"] == [{"name": "ingress", "addresses": ["0.0.0.0:8080", "[::]:8080"]}]


def test_the_table(tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", answering):
        shown = command("status", "--control", str(tmp_path / "c.sock")).stdout

    assert "meshproxy 0.1.0, pid 999: serving, up 1 h 2 min" in shown
    assert "worker 1  READY  1001  1 h 2 min  1         ended by SIGKILL" in shown
    assert "ingress   0.0.0.0:8080  [::]:8080" in shown


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (node_state(draining=True, live=False), "draining"),
        (node_state(live=False), "no worker is ready"),
        (node_state(sources=[SourceRow(cluster="web", source="consul web", endpoints=2, age_s=3.2, error="403 no")]),
         "consul web  web      2          3 s ago    403 no"),
        (node_state(registrations=[RegistrationRow(service="web", id="web-vm", address="10.0.0.5:80", state="failed", error="500")]),
         "web           web-vm  10.0.0.5:80  failed  500"),
        (node_state(agent=None, workers=[worker(0, "GONE")], listeners=[]), "worker 0  GONE   -    -"),
    ],
)
def test_other_states(state: object, said: str) -> None:
    assert said in as_text(state)


def test_an_answer_of_another_version_is_told(tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", lambda order: (Answer(id=order.id, body=b'{"pid": "x"}'), [])):
        refused = command("status", "--control", str(tmp_path / "c.sock"))

    assert refused.returncode == 1
    assert "version" in refused.stderr


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (90061, "1 d 1 h"), (86400, "1 d")]
)
def test_span(seconds: float, said: str) -> None:
    assert span(seconds) == said
