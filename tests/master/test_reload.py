"""Reloads of a real node: what changes, what stays, what is refused and how it is told."""

import hashlib
import json
import os
import re
import signal

import msgspec
import pytest

from meshproxy.model import Node, Secret, SocketAddress, TicketKeys
from tests.master.node import connect, listener, load, say, snapshot
from tests.master.test_listeners import free_port

pytestmark = pytest.mark.process


def test_listeners_are_added_removed_and_moved(start) -> None:
    moved, target = SocketAddress("127.0.0.1", free_port()), SocketAddress("127.0.0.1", free_port())
    node = start(snapshot(listener("stays"), listener("goes"), listener("moves", moved))).ready()
    stays, goes = node.port("stays"), node.port("goes")
    node.write(snapshot(listener("stays"), listener("moves", target), listener("comes")))

    with connect(stays) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        answer = node.ask("reload")
        held.sendall(b"who\n")
        assert held.recv(100).split()[2] == b"2"

    assert (answer.ok, answer.errors) == (True, [])
    assert json.loads(answer.body) == {"version": "2", "changed": 2, "removed": 1}
    assert node.port("stays") == stays
    assert say(node.port("comes"))[2] == "2"
    assert say(target.port)[2] == "2"
    for port in (goes, moved.port):
        with pytest.raises(ConnectionRefusedError):
            connect(port)
    assert node.status()["config_version"] == "2"


def test_fifty_reloads_under_load_fail_nobody(start) -> None:
    node = start(snapshot(listener("a"), clusters=("c0",))).ready()

    with load(node.port()) as answered:
        for number in range(1, 51):
            node.write(snapshot(listener("a"), listener(f"extra{number}"), clusters=(f"c{number}",)))
            assert node.ask("reload").ok

    assert answered[0] > 0
    assert node.status()["config_version"] == "51"
    assert node.status()["workers"][0]["restarts"] == 0


def test_an_invalid_configuration_changes_nothing_and_says_why(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    before = node.status()
    node.write('{"listeners": 1}')

    answer = node.ask("reload")

    assert not answer.ok
    assert answer.errors == [
        f"{node.config}:1: Expected `array`, got `int` - at `$.listeners`",
        f"{node.config}:2: clusters[0]: and a second thing",
    ]
    after = node.status()
    assert (after["listeners"], after["config_version"]) == (before["listeners"], "1")
    assert say(node.port())[2] == "1"
    assert node.wait_line("reload refused error=")


def test_what_the_author_should_know_is_logged_at_start_and_at_reload(start) -> None:
    odd = msgspec.structs.replace(snapshot(listener("a")), node=Node(id="odd"))
    node = start(odd).ready()
    line = f"meshproxy: configuration about=\"{node.config}: an odd name\" level=warning"
    assert sum(line in each for each in node.lines) == 1

    assert node.ask("reload").ok

    node.wait_line(re.escape(line), count=2)


def test_a_host_that_is_never_idle_is_reloaded_all_the_same(start) -> None:
    node = start(snapshot(listener("a")), options=("loader=tests.master.stubs:load_unless_idle", "idle_load_s=0.1")).ready()
    node.write(snapshot(listener("a"), listener("b")))

    answer = node.ask("reload")

    assert answer.ok, answer.errors
    assert say(node.port("b"))[2] == "2"


def test_a_port_in_use_changes_nothing(start) -> None:
    with connect_target() as taken:
        node = start(snapshot(listener("a"))).ready()
        node.write(snapshot(listener("b"), listener("c", SocketAddress("127.0.0.1", taken.getsockname()[1])), clusters=("x",)))

        answer = node.ask("reload")

    assert not answer.ok
    assert 'listener "c": cannot bind' in answer.errors[0]
    assert [row["name"] for row in node.status()["listeners"]] == ["a"]
    assert say(node.port())[2] == "1"


def connect_target():
    import socket

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_what_a_worker_refuses_is_taken_back_from_all(start) -> None:
    node = start(snapshot(listener("a"), clusters=("x",))).ready()
    node.write(snapshot(listener("a"), listener("b"), clusters=("refuse-me",)))

    answer = node.ask("reload")

    assert answer.errors == ["a worker refuses it: this name is refused"]
    status = node.status()
    assert ([row["name"] for row in status["listeners"]], status["config_version"]) == (["a"], "1")
    node.write(snapshot(listener("a"), listener("b"), clusters=("fine",)))
    assert node.ask("reload").ok
    assert say(node.port("b"))[2] == "3"


def test_a_worker_that_dies_during_a_reload_does_not_stop_it(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    victim = node.pids()[0]
    os.kill(victim, signal.SIGSTOP)
    node.write(snapshot(listener("a"), listener("b")))
    os.kill(node.process.pid, signal.SIGHUP)
    node.wait_line("configure 2")
    os.kill(victim, signal.SIGKILL)

    node.wait_line("meshproxy: reloaded version=2")
    assert {say(node.port("b"))[2] for _ in range(20)} == {"2"}


def test_a_hung_worker_does_not_stop_it_either(start) -> None:
    node = start(snapshot(listener("a"), worker_hung_s=0.5), options=("report_s=0.1",)).ready()
    os.kill(node.pids()[0], signal.SIGSTOP)
    node.write(snapshot(listener("a"), listener("b"), worker_hung_s=0.5))

    assert node.ask("reload").ok
    assert say(node.port("b"))[2] == "2"


def test_those_who_ask_during_a_reload_share_the_next(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    for _ in range(5):
        node.signal(signal.SIGHUP)
    assert node.ask("reload").ok

    assert 2 <= int(node.status()["config_version"]) <= 7


def test_a_worker_that_gave_up_tries_again_after_a_reload(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    with connect(node.port()) as one:
        one.sendall(b"exit 4\n")
        node.wait_line("worker died .*exit code 4")
    node.wait_status(lambda seen: sorted(row["state"] for row in seen["workers"]) == ["GONE", "READY"])

    assert node.ask("reload").ok
    assert node.wait_status(lambda seen: [row["state"] for row in seen["workers"]] == ["READY", "READY"])


def test_found_endpoints_reach_all_and_outlive_a_worker_and_a_reload(start) -> None:
    node = start(snapshot(listener("a"), clusters=("c",)), workers=1).ready()
    node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    admin = int(node.status()["admin"].rpartition(":")[2])
    with connect(admin) as agent:
        agent.sendall(b"put c\n")
        agent.recv(1)
    node.wait_line("configure 1.1")

    assert say(node.port())[2] == "1.1"
    os.kill(node.pids()[0], signal.SIGKILL)
    assert say(node.port())[2] == "1.1"
    assert node.ask("reload").ok
    assert say(node.port())[2] == "2"


def test_endpoints_of_a_cluster_that_is_not_there_are_dropped(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    admin = int(node.status()["admin"].rpartition(":")[2])
    with connect(admin) as agent:
        agent.sendall(b"put nobody\n")
        agent.recv(1)
    node.wait_line("configure 1.1 rows=5")

    assert say(node.port())


def test_a_secret_that_changed_reaches_all_and_is_not_shown(start) -> None:
    from msgspec.structs import replace

    old = Secret(name="keys", value=TicketKeys(keys=(b"j" * 80,)))
    node = start(replace(snapshot(listener("a")), secrets=(old,)), workers=1).ready()
    node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    admin = int(node.status()["admin"].rpartition(":")[2])
    for name, version in (("keys", "1.1"), ("unknown", "1.2")):
        with connect(admin) as agent:
            agent.sendall(f"secret {name}\n".encode())
            agent.recv(1)
        node.wait_line(f"configure {version}")
    told = node.ask("dump").body

    assert say(node.port())[2] == "1.2"
    assert b"unknown" not in told, "what no configuration has is dropped"
    assert hashlib.sha256(b"k" * 80).hexdigest().encode() in told, "it is the new one"
    assert b"k" * 80 not in told
    assert b"j" * 80 not in told


def test_settings_that_need_a_restart_are_named(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    node.write(snapshot(listener("a"), workers=7))

    assert node.ask("reload").ok
    assert node.wait_line("a setting changes at the next start only setting=workers now=0 then=7")


def test_a_moved_admin_address_moves(start) -> None:
    from msgspec.structs import replace

    from meshproxy.model import Admin

    first, target = snapshot(listener("a")), free_port()
    node = start(first).ready()
    old = int(node.wait_status(lambda seen: seen["agent"]["state"] == "READY")["admin"].rpartition(":")[2])
    node.write(replace(first, admin=Admin(address=SocketAddress("127.0.0.1", target))))

    assert node.ask("reload").ok
    node.wait_status(lambda seen: seen["admin"] == f"127.0.0.1:{target}" and seen["agent"]["state"] == "READY")
    with connect(target) as agent:
        agent.sendall(b"status\n")
        assert agent.recv(100) == b"[true,[]]\n"
    with pytest.raises(ConnectionRefusedError):
        connect(old)
