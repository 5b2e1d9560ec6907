"""The control socket, its orders, and who may not have it."""

import json
import os
import subprocess
import sys

import msgspec
import pytest

from meshproxy.ipc.client import connect as connect_control
from meshproxy.ipc.messages import Answer, Directory, Order
from meshproxy.model import PipeAddress, Snapshot
from tests.master.node import ROOT, Node, connect, listener, say, snapshot, wait_for

pytestmark = pytest.mark.process


def test_only_the_user_may(start) -> None:
    node = start(snapshot(listener("a"))).ready()

    assert os.stat(node.control).st_mode & 0o777 == 0o600


def test_a_second_node_on_a_live_socket_is_refused_by_name(start) -> None:
    first = start(snapshot(listener("a"))).ready()
    path = str(first.directory / "other.json")
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(snapshot(listener("b"))))
    second = subprocess.run(
        [sys.executable, "-m", "tests.master.start", path, first.control, "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )

    assert second.returncode == 1
    assert second.stderr.startswith(f"meshproxy: a node already runs with the control socket {first.control}. Use `meshproxy reload`")
    assert say(first.port())


def test_a_stale_socket_is_replaced(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    os.kill(node.process.pid, 9)
    node.process.wait()
    assert os.path.exists(node.control)

    again = Node(node.directory, snapshot(listener("a")))
    try:
        again.ready()
        assert again.status()["pid"] == again.process.pid
    finally:
        again.end()


def test_bytes_that_are_no_order_end_the_connection_only(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    with connect(node.control) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert stranger.recv(10) == b""

    assert node.wait_line("a command said what is no order")
    assert node.status()["live"]


def test_the_scoreboard_and_the_configuration_are_given_out(start) -> None:
    wanted = snapshot(listener("a"), clusters=("c",))
    node = start(wanted).ready()

    directory = msgspec.json.decode(node.ask("scoreboard").body, type=Directory)
    assert [row[:2] for row in directory.rows] == [
        ("SERVER", ""), ("CLUSTER", "c"), ("LISTENER", "127.0.0.1_0"), ("HTTP1", ""), ("HTTP2", ""), ("HTTP", "a"),
    ]  # fmt: skip
    assert msgspec.msgpack.decode(node.ask("dump").body, type=Snapshot) == wanted


def test_listeners_are_taken_away_without_a_new_configuration(start) -> None:
    node = start(snapshot(listener("a"), listener("b"))).ready()
    port = node.port("b")

    assert node.ask("drain_listeners", listeners=["nobody"]).errors == ["drain_listeners: no such listener: nobody. There are: a, b"]
    assert node.ask("drain_listeners", listeners=["b"]).ok
    wait_for(lambda: refuses(port), bool)
    assert say(node.port("a"))
    assert node.ask("reload").ok
    assert say(node.port("b"))


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_log_level_changes_while_it_runs(start) -> None:
    node = start(snapshot(listener("a"))).ready()

    assert node.ask("loglevel", argument="loud").errors == ['loglevel: log level "loud": use one of debug, info, warning, error']
    assert node.ask("loglevel", argument="error").ok
    before = len(node.lines)
    node.status()
    assert not any("order verb=status" in line for line in node.lines[before:])


def test_logs_are_reopened_by_the_agent(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")

    assert node.ask("reopen_logs").ok
    assert node.wait_line("stub agent: reopen")


def test_orders_come_through_the_admin_api_too(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    admin = int(node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")["admin"].rpartition(":")[2])

    with connect(admin) as agent:
        agent.sendall(b"drain_listeners nobody\n")
        answer = json.loads(agent.recv(1000))

    assert answer == [False, ["drain_listeners: no such listener: nobody. There are: a"]]


@pytest.mark.parametrize("verb", ["drain", "stop", "quit"])
def test_a_command_hears_when_the_node_is_gone(start, verb: str, tmp_path) -> None:
    path = str(tmp_path / "u.sock")
    node = start(snapshot(listener("a", PipeAddress(path)))).ready()
    channel = connect_control(node.control)
    channel.send(Order(verb=verb))

    ((answer, _),) = channel.wait(20)
    assert isinstance(answer, Answer)
    assert answer.ok
    channel.wait(20)
    assert channel.closed
    assert node.process.wait(20) == 0
    assert not os.path.exists(path)
