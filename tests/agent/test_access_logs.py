"""Numbers of sinks follow the listeners that name them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshproxy.agent import access_logs
from meshproxy.agent.access_logs import AccessLogs
from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.ipc.messages import Configure, Directory, NodeSettings
from meshproxy.model import AccessLog, FilterChain, HttpConnectionManager, Listener, Node, ResourceKind, SocketAddress, Stats
from meshproxy.model.snapshot import Resource, pack
from meshproxy.scoreboard.region import Region
from meshproxy.telemetry.logs import LogSinks
from tests.cli.node import node_state


def listener(name: str, **sinks: tuple[int, Path]) -> Resource:
    """A listener whose access logs have these numbers and files."""
    logs = tuple(AccessLog(sink="file", path=str(path), text="x") for _, path in sinks.values())
    chain = FilterChain(terminal=HttpConnectionManager(stat_prefix=name, route_table="r", access_logs=logs))
    made = pack(ResourceKind.LISTENER, name, Listener(name=name, addresses=(SocketAddress(host="127.0.0.1", port=1),), chains=(chain,)))
    return msgspec.structs.replace(made, blocks={f"log:0:{at}": sink for at, (sink, _) in enumerate(sinks.values())})


@pytest.fixture
def view() -> NodeView:
    return NodeView(Region.create(1), "1", [], NodeSettings(node=Node(), stats=Stats()), Directory([]), node_state())


@pytest.fixture
def logs(view: NodeView) -> AccessLogs:
    return AccessLogs(view, LogSinks("vm-7", lambda text: pytest.fail(text)))


def test_lines_go_to_the_file_that_the_number_means(view: NodeView, logs: AccessLogs, tmp_path: Path) -> None:
    view.configure(Configure(version="2", upserts=[listener("in", a=(7, tmp_path / "a"), b=(8, tmp_path / "b"))]))
    assert not logs.any_named
    logs.configure()
    logs._sinks.write(7, b"one\n")
    logs._sinks.write(8, b"two\n")

    assert logs.any_named
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("one\n", "two\n")


def test_a_removed_listeners_file_stays_open_while_connections_drain(view: NodeView, logs: AccessLogs, tmp_path: Path) -> None:
    view.configure(Configure(version="2", upserts=[listener("in", a=(7, tmp_path / "a"))]))
    logs.configure()
    view.configure(Configure(version="3", removes=[(ResourceKind.LISTENER, "in")]))
    logs.configure()
    logs.sweep(monotonic_s())
    logs._sinks.write(7, b"late\n")
    assert (tmp_path / "a").read_text() == "late\n"
    logs.sweep(monotonic_s() + access_logs.LINGER_S)

    assert logs._sinks.sinks() == []
    assert not logs.any_named


def test_a_number_that_means_another_file_now(view: NodeView, logs: AccessLogs, tmp_path: Path) -> None:
    view.configure(Configure(version="2", upserts=[listener("in", a=(7, tmp_path / "a"))]))
    logs.configure()
    view.configure(Configure(version="3", upserts=[listener("in", a=(7, tmp_path / "b"))]))
    logs.configure()
    logs._sinks.write(7, b"new\n")

    assert (tmp_path / "b").read_text() == "new\n"
    assert (tmp_path / "a").read_text() == ""
