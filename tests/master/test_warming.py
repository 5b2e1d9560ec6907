"""Clusters whose endpoints only DNS knows: a start and a reload wait for the agent's word, and not for ever."""

import os
import signal

import msgspec
import pytest

from meshproxy.model import Cluster, Endpoint, Snapshot, SocketAddress
from tests.master.node import Node, connect, listener, load, say, snapshot

pytestmark = pytest.mark.process


def with_cold(config: Snapshot, *more: Cluster, **settings) -> Snapshot:
    """`config` with a cluster that the stub agent calls warm when its endpoints were put."""
    place = Endpoint(address=SocketAddress("cold.test", 80))
    cold = Cluster(name="cold", discovery="strict_dns", endpoints=(place,), **settings)
    return msgspec.structs.replace(config, clusters=(*config.clusters, cold, *more))


def agent_of(node: Node) -> dict:
    """The status once there is an agent."""
    node.wait_line("stub agent: state")
    return node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")


def put(node: Node, cluster: str = "cold") -> None:
    with connect(int(agent_of(node)["admin"].rpartition(":")[2])) as agent:
        agent.sendall(f"put {cluster}\n".encode())
        agent.recv(1)


# ---- a start ----


def test_workers_are_started_with_the_endpoints_that_they_waited_for(start) -> None:
    node = start(with_cold(snapshot(listener("a"))), options=("warm_s=3600",))
    before = agent_of(node)

    with connect(node.port()) as early:
        early.sendall(b"who\n")
        assert [row["state"] for row in before["workers"]] == node.states() == ["GONE", "GONE"]
        put(node)
        assert early.recv(100).split()[2] == b"1.1"

    node.ready()
    assert node.status()["agent"]["restarts"] == 0
    assert not any("names are not resolved" in line for line in node.lines)


def test_a_start_waits_so_long_and_no_longer(start) -> None:
    node = start(with_cold(snapshot(listener("a"))), options=("warm_s=0.2",)).ready()

    assert say(node.port())[2] == "1"
    assert "clusters=cold waited_s=0.2" in node.wait_line("names are not resolved yet")
    put(node)
    node.wait_line("configure 1.1")
    assert say(node.port())[2] == "1.1"


def test_an_agent_that_cannot_start_holds_up_nobody(start) -> None:
    node = start(with_cold(snapshot(listener("a"))), options=("agent=tests.master.stubs:import_nothing", "warm_s=0.2")).ready()

    assert say(node.port())[2] == "1"


def test_the_heir_of_an_agent_that_dies_meanwhile_is_waited_for(start) -> None:
    node = start(with_cold(snapshot(listener("a"))), options=("warm_s=3600",))
    os.kill(agent_of(node)["agent"]["pid"], signal.SIGKILL)
    node.wait_line("agent died")
    put(node)
    node.ready()

    assert say(node.port())[2] == "1.1"


def test_the_agent_comes_after_the_workers_when_nobody_waits_for_it(start) -> None:
    node = start(with_cold(snapshot(listener("a")), wait_for_warm=False), options=("warm_s=3600",)).ready()
    agent_of(node)

    assert say(node.port())[2] == "1"


def test_a_node_that_waits_can_be_told_to_end(start) -> None:
    node = start(with_cold(snapshot(listener("a"))), options=("warm_s=3600",))
    agent_of(node)

    assert node.ask("stop").ok
    assert node.process.wait(20) == 0


# ---- a reload ----


def test_workers_serve_what_is_before_until_a_new_cluster_is_warm(start) -> None:
    node = start(snapshot(listener("a")), options=("warm_s=3600",)).ready()
    agent_of(node)
    node.write(with_cold(snapshot(listener("a"), listener("comes"))))

    with load(node.port()) as answered:
        node.signal(signal.SIGHUP)
        node.wait_line("configure 2 ")
        assert say(node.port())[2] == "1"
        put(node)
        node.wait_line("meshproxy: reloaded version=2 changed=2 removed=0")
        assert say(node.port())[2] == say(node.port("comes"))[2] == "2", "endpoints came with it: there is no 2.1"

    assert answered[0] > 0


def test_a_reload_waits_so_long_and_no_longer(start) -> None:
    node = start(snapshot(listener("a")), options=("warm_s=0.2",)).ready()
    agent_of(node)
    node.write(with_cold(snapshot(listener("a"))))

    assert node.ask("reload").ok
    assert say(node.port())[2] == "2"
    assert "clusters=cold waited_s=0.2" in node.wait_line("names are not resolved yet")


def test_a_reload_without_an_agent_waits_no_longer(start) -> None:
    node = start(snapshot(listener("a")), options=("agent=tests.master.stubs:import_nothing", "warm_s=0.2")).ready()
    node.write(with_cold(snapshot(listener("a"))))

    assert node.ask("reload").ok
    assert say(node.port())[2] == "2"


def test_the_heir_of_an_agent_that_dies_in_a_reload_hears_of_it(start) -> None:
    node = start(snapshot(listener("a")), options=("warm_s=3600",)).ready()
    pid = agent_of(node)["agent"]["pid"]
    node.write(with_cold(snapshot(listener("a"))))
    node.signal(signal.SIGHUP)
    node.wait_line("configure 2 ")

    os.kill(pid, signal.SIGKILL)
    node.wait_line("configure 2 ", count=2)
    put(node)
    node.wait_line("meshproxy: reloaded version=2")
    assert say(node.port())[2] == "2"


def test_only_names_that_are_new_are_waited_for(start) -> None:
    node = start(with_cold(snapshot(listener("a"))), options=("warm_s=3600",))
    put(node)
    node.ready()
    node.write(with_cold(snapshot(listener("a")), connect_timeout_s=1.0))
    assert node.ask("reload").ok
    address = Endpoint(address=SocketAddress("10.0.0.1", 80))
    node.write(with_cold(snapshot(listener("a")), Cluster(name="also", discovery="strict_dns", endpoints=(address,))))
    assert node.ask("reload").ok

    assert say(node.port())[2] == "3"


def test_what_a_worker_refuses_goes_back_with_the_endpoints_that_were_found(start) -> None:
    node = start(snapshot(listener("a")), options=("warm_s=3600",)).ready()
    agent_of(node)
    node.write(with_cold(snapshot(listener("a")), Cluster(name="refuse")))
    node.signal(signal.SIGHUP)
    node.wait_line("configure 2 ")
    put(node)

    node.wait_line("reload refused error=.*this name is refused")
    rows = int(node.wait_line("configure 2.1 rows=").rpartition("=")[2])
    node.write(snapshot(listener("a"), listener("b")))
    assert node.ask("reload").ok
    assert int(node.wait_line("configure 3 rows=").rpartition("=")[2]) == rows + 1
    assert say(node.port("b"))[2] == "3"


def test_a_worker_that_is_born_during_the_wait_has_what_is_before(start) -> None:
    node = start(snapshot(listener("a")), workers=1, options=("warm_s=3600",)).ready()
    agent_of(node)
    node.write(with_cold(snapshot(listener("a"))))
    node.signal(signal.SIGHUP)
    node.wait_line("configure 2 ")
    with connect(node.port()) as doomed:
        doomed.sendall(b"abort\n")
        assert doomed.recv(1) == b""

    assert say(node.port())[2] == "1"
    put(node)
    node.wait_line("meshproxy: reloaded version=2")
    assert say(node.port())[2] == "2"
