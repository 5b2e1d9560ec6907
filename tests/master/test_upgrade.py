"""A new master in the place of the old one: nobody is refused, and one that fails is as if it had never been."""

import contextlib
import os
import resource
import signal
import socket

import msgspec
import pytest

from meshproxy import priority
from meshproxy.ipc.client import connect as connect_control
from meshproxy.ipc.client import converse
from meshproxy.ipc.messages import Directory, Order
from meshproxy.model import PipeAddress
from meshproxy.scoreboard.region import Region
from tests.master.node import connect, listener, load, say, snapshot, wait_for
from tests.master.test_main import wait_said

pytestmark = pytest.mark.process


def test_two_upgrades_under_load_refuse_nobody(start, tmp_path) -> None:
    path = str(tmp_path / "u.sock")
    node = start(snapshot(listener("a"), listener("u", PipeAddress(path)))).ready()
    port = node.port()
    with load(port) as answered:
        first = node.status()
        assert node.ask("upgrade").ok
        second = node.status()
        assert node.ask("upgrade").ok
        third = node.status()

    assert answered[0] > 0
    assert node.process.wait(20) == 0
    assert len({seen["pid"] for seen in (first, second, third)}) == 3
    assert [seen["restart_epoch"] for seen in (first, second, third)] == [0, 1, 2]
    assert [seen["config_version"] for seen in (first, second, third)] == ["1", "2", "3"]
    assert [row["slot"] for row in second["workers"]] == [2, 3]
    assert node.port() == port
    assert say(path)
    assert os.path.exists(node.control)


def test_open_connections_live_on_in_the_old_workers(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    with connect(node.port()) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        assert node.ask("upgrade").ok
        assert node.process.poll() is None
        held.sendall(b"who\n")
        assert held.recv(100).split()[0] in (b"0", b"1")

    assert node.process.wait(20) == 0
    assert say(node.port())[0] in "23"


def test_counters_and_names_go_on(start) -> None:
    node = start(snapshot(listener("a"), clusters=("c",))).ready()
    _, (fd,) = converse(node.control, Order(verb="scoreboard"), 5)
    before = converse(node.control, Order(verb="scoreboard"), 5)[0].body
    region = Region.open(fd)
    cell = next(row[2] for row in msgspec.json.decode(before, type=Directory).rows if row[0] == "CLUSTER")
    region.add_cell(0, cell, 11)

    assert node.ask("upgrade").ok
    answer, (again,) = converse(node.control, Order(verb="scoreboard"), 5)
    same = Region.open(again)

    assert answer.body == before
    assert same.read_cells(cell, 1)[0] == 11
    assert os.fstat(region.fd).st_ino == os.fstat(same.fd).st_ino


def test_found_endpoints_are_handed_on(start) -> None:
    node = start(snapshot(listener("a"), clusters=("c",)), workers=1).ready()
    admin = int(node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")["admin"].rpartition(":")[2])
    with connect(admin) as agent:
        agent.sendall(b"put c\n")
        agent.recv(1)
    node.wait_line("configure 1.1")

    assert node.ask("upgrade").ok
    assert say(node.port())[2] == "2.1"


def test_the_agent_and_its_socket_go_over(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    before = node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")

    assert node.ask("upgrade").ok
    after = node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")

    assert after["admin"] == before["admin"]
    assert after["agent"]["pid"] != before["agent"]["pid"]
    with connect(int(after["admin"].rpartition(":")[2])) as agent:
        agent.sendall(b"status\n")
        assert agent.recv(100) == b"[true,[]]\n"


def test_a_new_configuration_comes_with_an_upgrade(start) -> None:
    node = start(snapshot(listener("a"), listener("goes"))).ready()
    goes = node.port("goes")
    node.write(snapshot(listener("a"), listener("comes")))

    assert node.ask("upgrade").ok
    assert [row["name"] for row in node.status()["listeners"]] == ["a", "comes"]
    assert say(node.port("comes"))
    assert node.process.wait(20) == 0
    with pytest.raises(ConnectionRefusedError):
        connect(goes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"listeners": 1}', "Expected `array`, got `int`"),
        (snapshot(listener("a"), clusters=("config-error",)), "a worker of the new master: exit code 4"),
        (snapshot(listener("a"), clusters=("boot-error",)), "a worker of the new master: exit code 3"),
        (snapshot(listener("a"), listener("b", PipeAddress("/no/such/dir/s"))), 'listener "b": cannot bind'),
    ],
    ids=["configuration", "refused by workers", "workers do not start", "bind"],
)
def test_a_new_master_that_fails_is_dropped_and_the_old_goes_on(start, config, words: str) -> None:
    good = snapshot(listener("a"))
    node = start(good).ready()
    port, before = node.port(), node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    node.write(config)

    with load(port):
        answer = node.ask("upgrade")

    assert not answer.ok
    assert words in answer.errors[0]
    after = node.status()
    assert (after["pid"], after["workers"][0]["pid"], after["agent"]["pid"]) == (
        before["pid"], before["workers"][0]["pid"], before["agent"]["pid"],
    )
    assert say(port)
    node.write(good)
    assert node.ask("upgrade").ok


def test_a_new_master_that_is_killed_is_dropped(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    before = node.status()
    node.write(snapshot(listener("a"), clusters=("slow",)))
    channel = connect_control(node.control)
    channel.send(Order(verb="upgrade"))
    workers = [int(node.wait_line(f"worker started slot={slot}").split("pid=")[1].split()[0]) for slot in (2, 3)]
    new_master = parent_of(workers[0])
    assert new_master != before["pid"]
    os.kill(new_master, signal.SIGKILL)
    for pid in workers:
        # Asleep, as `slow` has it, they do not notice that their master is gone.
        os.kill(pid, signal.SIGKILL)

    ((answer, _),) = channel.wait(20)
    channel.close()
    assert "the new master: killed by SIGKILL" in answer.errors[0]
    assert node.status()["pid"] == before["pid"]


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def test_usr2_upgrades_and_systemd_follows(start, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        node = start(snapshot(listener("a")), env={"NOTIFY_SOCKET": heard.getsockname()}).ready()
        wait_said(heard, "READY=1")
        node.signal(signal.SIGUSR2)

        main = wait_said(heard, "MAINPID=")
        assert wait_said(heard, "READY=1").startswith("READY=1\nSTATUS=2 workers")
        assert node.process.wait(20) == 0
        assert int(main.partition("=")[2]) == node.status()["pid"]


def test_a_reload_during_an_upgrade_is_refused(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    node.write(snapshot(listener("a"), clusters=("slow",)))
    channel = connect_control(node.control)
    channel.send(Order(verb="upgrade"))
    new_worker = int(node.wait_line("worker started slot=2").split("pid=")[1].split()[0])

    assert node.ask("reload").errors == ["reload: an upgrade is under way"]
    assert node.ask("upgrade").errors == ["upgrade: an upgrade is under way"]
    channel.close()
    os.kill(parent_of(new_worker), signal.SIGTERM)
    node.wait_line("upgrade failed")


def test_more_workers_are_kept_over_an_upgrade(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    node.signal(signal.SIGTTIN)
    node.wait_status(lambda seen: [row["state"] for row in seen["workers"]] == ["READY"] * 2)

    assert node.ask("upgrade").ok
    assert node.states() == ["READY", "READY"]
    node.process.wait(20)
    node.signal(signal.SIGTTOU)
    node.wait_status(lambda seen: len(seen["workers"]) == 1)
    assert {say(node.port())[0] for _ in range(20)} == {"2"}


def test_a_new_master_takes_over_from_one_that_dies_before_it_could_hand_over(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    node.write(snapshot(listener("a"), clusters=("slow",)))
    channel = connect_control(node.control)
    channel.send(Order(verb="upgrade"))
    node.wait_line("worker started slot=3")
    node.process.kill()
    node.process.wait(20)
    channel.close()

    status = node.wait_status(lambda seen: seen["restart_epoch"] == 1)
    assert status["pid"] != node.process.pid
    node.ask("stop", graceful=False)


def test_another_number_of_workers_comes_with_an_upgrade(start) -> None:
    node = start(snapshot(listener("a"), workers=3), workers=-1).ready()
    node.write(snapshot(listener("a"), workers=1))

    with load(node.port()):
        assert node.ask("upgrade").ok
        node.wait_status(lambda seen: [row["state"] for row in seen["workers"]] == ["READY"])


@pytest.mark.skipif(not priority.may_give_way(), reason="there is no way back from idle priority here")
def test_a_new_master_and_its_workers_give_way_until_patience_ends(start) -> None:
    node = start(snapshot(listener("a")), options=("idle_start_s=2",)).ready()
    node.write(snapshot(listener("a"), clusters=("slow",)))
    channel = connect_control(node.control)
    channel.send(Order(verb="upgrade"))
    workers = [int(node.wait_line(f"worker started slot={slot}").split("pid=")[1].split()[0]) for slot in (2, 3)]
    pids = [parent_of(workers[0]), *workers]

    assert policies(pids) == [os.SCHED_IDLE] * 3
    wait_for(lambda: policies(pids), lambda seen: seen == [os.SCHED_OTHER] * 3)
    channel.close()
    os.kill(pids[0], signal.SIGTERM)
    node.wait_line("upgrade failed")


@pytest.mark.parametrize("limit", [0, 20])
def test_all_are_equals_after_an_upgrade(start, limit: int) -> None:
    """With the way back from idle priority open by the limit, and without."""
    def limited() -> None:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NICE, (limit, limit))

    node = start(snapshot(listener("a")), preexec_fn=limited).ready()
    assert node.ask("upgrade").ok
    status = node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")

    assert policies([status["pid"], status["agent"]["pid"], *(row["pid"] for row in status["workers"])]) == [os.SCHED_OTHER] * 4
    assert node.process.wait(20) == 0


def policies(pids: list[int]) -> list[int]:
    return [os.sched_getscheduler(pid) for pid in pids]
