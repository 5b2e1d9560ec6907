"""reload, upgrade, drain and stop against a fake control socket: what is sent, what is printed, what the exit code says."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from meshproxy.ipc.messages import Answer, Order
from tests.cli.node import command, fake_node


def yes(order: Order) -> tuple[Answer, list[int]]:
    return Answer(id=order.id), []


def no(order: Order) -> tuple[Answer, list[int]]:
    return Answer(id=order.id, ok=False, errors=["mesh.yaml:3: clusters.web: has no endpoints", "mesh.yaml:9: port 99999 is too large"]), []


@pytest.mark.parametrize("verb", ["reload", "upgrade"])
def test_done(tmp_path: Path, verb: str) -> None:
    with fake_node(tmp_path / "c.sock", yes) as orders:
        done = command(verb, "--control", str(tmp_path / "c.sock"))

    assert (done.returncode, done.stderr) == (0, "")
    assert [order.verb for order in orders] == [verb]


@pytest.mark.parametrize("verb", ["reload", "upgrade", "drain", "stop"])
def test_refused_with_every_reason_on_stderr(tmp_path: Path, verb: str) -> None:
    with fake_node(tmp_path / "c.sock", no):
        refused = command(verb, "--control", str(tmp_path / "c.sock"))

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.splitlines() == ["mesh.yaml:3: clusters.web: has no endpoints", "mesh.yaml:9: port 99999 is too large"]


@pytest.mark.parametrize("verb", ["reload", "upgrade", "drain", "stop", "status", "top"])
def test_no_node(tmp_path: Path, verb: str) -> None:
    missing = command(verb, "--control", str(tmp_path / "none.sock"))

    assert missing.returncode == 2
    assert str(tmp_path / "none.sock") in missing.stderr
    assert "meshproxy run" in missing.stderr


def test_the_socket_is_found_by_the_environment(tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", yes) as orders:
        done = command("reload", env={"MESHPROXY_CONTROL": str(tmp_path / "c.sock")})

    assert done.returncode == 0
    assert len(orders) == 1


def test_stop_returns_when_the_node_is_gone(tmp_path: Path) -> None:
    """The connection that the order came on ends with the node; until then the command waits."""
    gone = threading.Event()
    with fake_node(tmp_path / "c.sock", yes, hold=gone) as orders:
        stopped: list[int] = []
        arguments = ("stop", "--now", "--control", str(tmp_path / "c.sock"))
        waiting = threading.Thread(target=lambda: stopped.append(command(*arguments).returncode))
        waiting.start()
        waiting.join(1.5)
        assert stopped == [], "the node still holds the connection"
        gone.set()
        waiting.join(30)

    assert stopped == [0]
    assert [(order.verb, order.graceful) for order in orders] == [("stop", False)]


def test_drain_with_a_limit(tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", yes) as orders:
        command("drain", "--limit", "2.5", "--control", str(tmp_path / "c.sock"))

    assert [(order.verb, order.limit_s, order.graceful) for order in orders] == [("drain", 2.5, True)]


def test_drain_of_one_listener_leaves_the_node_alone(tmp_path: Path) -> None:
    with fake_node(tmp_path / "c.sock", yes) as orders:
        done = command("drain", "--listener", "a", "--listener", "b", "--control", str(tmp_path / "c.sock"))

    assert done.returncode == 0
    assert [(order.verb, order.listeners) for order in orders] == [("drain_listeners", ["a", "b"])]


@pytest.mark.parametrize("limit", ["0", "-1", "soon"])
def test_a_limit_that_is_none(limit: str) -> None:
    assert command("drain", "--limit", limit).returncode == 2
