"""A node from its start to its end, with real forks and stub workers."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from meshproxy.model import PipeAddress, SocketAddress
from tests.master.node import connect, listener, load, say, snapshot, wait_for

pytestmark = pytest.mark.process


# ---- start ----


def test_nothing_that_forks_badly_or_weighs_is_imported() -> None:
    program = "import sys, meshproxy.master.main; print([name for name in ('gevent', 'grpc', 'google.protobuf') if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_ready_node_answers_and_tells_its_state(start) -> None:
    node = start(snapshot(listener("a"), clusters=("c",))).ready()

    slot, pid, version = say(node.port())
    status = node.status()

    assert (slot in "01", version) == (True, "1")
    assert int(pid) in node.pids()
    assert (status["pid"], status["config_version"], status["live"]) == (node.process.pid, "1", True)
    assert [row["state"] for row in status["workers"]] == ["READY", "READY"]
    assert node.wait_status(lambda seen: seen["agent"]["state"] == "READY")


def test_processes_are_titled(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    status = node.status()

    def title(pid: int) -> str:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().rstrip("\0 ")

    assert title(status["pid"]) == "meshproxy: master"
    assert [title(row["pid"]) for row in status["workers"]] == ["meshproxy: worker 0", "meshproxy: worker 1"]
    assert title(status["agent"]["pid"]) == "meshproxy: agent"


def test_a_worker_has_its_own_listening_sockets_only_and_the_agent_has_none(start) -> None:
    node = start(snapshot(listener("a"), listener("b"), admin=False)).ready()
    status = node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    ports = {node.port("a"), node.port("b")}

    assert [len(listening(row["pid"], ports)) for row in status["workers"]] == [2, 2]
    first, second = (listening(row["pid"], ports) for row in status["workers"])
    assert first.isdisjoint(second)
    assert listening(status["agent"]["pid"], ports) == set()


def listening(pid: int, ports: set[int]) -> set[str]:
    """Inodes of a process's sockets that listen on one of the ports."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file][1:]
    inodes = {row[9] for row in rows if row[3] == "0A" and int(row[1].partition(":")[2], 16) in ports}
    links = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return {inode for inode in inodes if f"socket:[{inode}]" in links}


def test_a_refused_configuration_starts_nothing_and_tells_all_problems(start) -> None:
    node = start('{"listeners": 1}')

    assert node.process.wait(20) == 1
    first = node.wait_line("Expected `array`")
    assert first == f"meshproxy: {node.config}:1: Expected `array`, got `int` - at `$.listeners`"
    assert node.wait_line(r"node.json:2: clusters\[0\]: and a second thing")
    assert not os.path.exists(node.control)


def test_a_loader_that_dies_is_a_refusal_too(start) -> None:
    node = start(snapshot(listener("a")), options=("loader=tests.master.stubs:load_and_die",))

    assert node.process.wait(20) == 1
    assert node.wait_line("the loader died before it had read the file")


def test_a_port_in_use_is_refused_before_any_worker(start) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        node = start(snapshot(listener("a", SocketAddress("127.0.0.1", other.getsockname()[1]))))

        assert node.process.wait(20) == 1

    assert node.wait_line(r'meshproxy: listener "a": cannot bind .*: address already in use\. Stop who has it')
    assert not os.path.exists(node.control)


@pytest.mark.parametrize(("cluster", "words"), [("boot-error", "could not start"), ("config-error", "refused its configuration")])
def test_a_node_whose_first_workers_cannot_work_ends_with_the_reason(start, cluster: str, words: str) -> None:
    node = start(snapshot(listener("a"), clusters=(cluster,)))

    assert node.process.wait(20) == 1
    assert words in node.wait_line("cannot start")


def test_an_entry_that_cannot_be_imported_is_told_with_its_traceback(start) -> None:
    node = start(snapshot(listener("a")), options=("worker=tests.master.no_such_module:run",))

    assert node.process.wait(20) == 1
    assert "No module named 'tests.master.no_such_module'" in node.wait_line("worker died .*report=")


def test_a_crash_loop_at_the_start_trips_and_ends(start) -> None:
    node = start(snapshot(listener("a"), clusters=("crash",)), workers=1, options=("trip_deaths=3", "backoff_first_s=0.01"))

    assert node.process.wait(20) == 1
    assert len([line for line in node.lines if "worker died" in line]) == 3
    assert "3 deaths in a row, next try in 30 s" in node.wait_line("crash_loop")
    assert "SIGSEGV" in node.wait_line("cannot start")


# ---- death ----


def test_an_heir_answers_what_queued_for_a_killed_worker(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    port, (pid,) = node.port(), node.pids()
    os.kill(pid, signal.SIGSTOP)
    waiting = [connect(port) for _ in range(20)]
    os.kill(pid, signal.SIGKILL)

    for sock in waiting:
        sock.sendall(b"who\n")
        assert int(sock.recv(100).split()[1]) != pid
        sock.close()

    (row,) = node.status()["workers"]
    assert (row["generation"], row["restarts"]) == (2, 1)
    assert row["last_death"] == "killed by SIGKILL (perhaps out of memory: see `dmesg` and the limits of its service)"


def test_without_an_heir_a_live_worker_gets_what_queued(start) -> None:
    # A long back-off stands for an heir that does not come.
    node = start(snapshot(listener("a"), worker_hung_s=60), options=("settle_s=1000", "backoff_first_s=60", "backoff_most_s=60")).ready()
    port, victim = node.port(), node.pids()[0]
    os.kill(victim, signal.SIGKILL)
    node.wait_line("worker died", 1)
    victim = node.wait_status(lambda seen: seen["workers"][0]["state"] == "READY")["workers"][0]["pid"]
    os.kill(victim, signal.SIGSTOP)
    waiting = [connect(port) for _ in range(40)]
    for sock in waiting:
        sock.sendall(b"who\n")
    os.kill(victim, signal.SIGKILL)

    answers = [sock.recv(100).split() for sock in waiting]
    for sock in waiting:
        sock.close()

    assert {answer[0] for answer in answers} == {b"1"}
    assert node.states() == ["GONE", "READY"]
    assert node.wait_line("connections go to another worker")


def test_new_connections_go_around_a_dead_worker(start) -> None:
    node = start(snapshot(listener("a")), options=("settle_s=1000", "backoff_first_s=60", "backoff_most_s=60")).ready()
    port = node.port()
    for death in (1, 2):
        os.kill(node.wait_status(lambda seen: seen["workers"][0]["state"] == "READY")["workers"][0]["pid"], signal.SIGKILL)
        node.wait_line("worker died", death)

    assert {say(port, timeout_s=0.5)[0] for _ in range(50)} == {"1"}


def test_ten_kills_under_load_refuse_nobody(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    port = node.port()
    refused = []

    def client() -> None:
        try:
            say(port, timeout_s=2.0)
        except ConnectionResetError:
            # It was being served by the victim.
            pass
        except IndexError:
            pass
        except OSError as error:
            refused.append(repr(error))

    for kill in range(10):
        before = node.wait_status(lambda seen: all(row["state"] == "READY" for row in seen["workers"]))
        os.kill(before["workers"][kill % 2]["pid"], signal.SIGKILL)
        for _ in range(40):
            client()

    assert refused == []


def test_a_hung_worker_is_found_reports_where_and_is_replaced(start) -> None:
    node = start(snapshot(listener("a"), worker_hung_s=0.5), workers=1).ready()
    port, (pid,) = node.port(), node.pids()
    with connect(port) as victim:
        victim.sendall(b"hang\n")

        died = node.wait_line("worker died")

    assert "ended by the master with SIGABRT: hung: no heartbeat for" in died
    assert "stubs.py" in died
    assert "last_exchange=hang" in died
    assert "build=\"meshproxy/" in died
    assert int(say(port)[1]) != pid


def test_the_agent_hears_that_nobody_answers_before_the_hung_worker_is_ended(start) -> None:
    node = start(snapshot(listener("a"), worker_hung_s=0.3), workers=1, options=("report_s=60",)).ready()
    node.wait_line("state live=True")
    (pid,) = node.pids()
    os.kill(pid, signal.SIGSTOP)

    assert node.wait_line("state live=False workers=READY")
    os.kill(pid, signal.SIGKILL)


def test_a_stopped_worker_that_cannot_report_is_killed(start) -> None:
    node = start(snapshot(listener("a"), worker_hung_s=0.3), workers=1, options=("report_s=0.2",)).ready()
    os.kill(node.pids()[0], signal.SIGSTOP)

    assert "ended by the master with SIGKILL" in node.wait_line("worker died")
    assert say(node.port())


def test_a_worker_that_never_gets_ready_is_ended(start) -> None:
    node = start(snapshot(listener("a"), clusters=("slow",)), workers=1, options=("start_s=0.3", "trip_deaths=1"))

    assert "not ready 0.3 s after its start" in node.wait_line("worker is ended")
    assert node.process.wait(20) == 1


def test_a_dead_workers_gauges_are_taken_back(start) -> None:
    from meshproxy.ipc.client import converse
    from meshproxy.ipc.messages import Order
    from meshproxy.scoreboard.region import Region

    node = start(snapshot(listener("a"))).ready()
    _, (fd,) = converse(node.control, Order(verb="scoreboard"), 5)
    region = Region.open(fd)
    assert wait_for(lambda: region.read_cells(0, 1)[0], lambda total: total == 2)
    os.kill(node.pids()[0], signal.SIGKILL)
    node.wait_line("worker died")

    # The victim's share is gone and its heir's own has come: never three.
    assert wait_for(lambda: (node.states(), region.read_cells(0, 1)[0]), lambda seen: seen[0] == ["READY", "READY"])[1] == 2


def test_a_crash_is_told_with_its_report(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    with connect(node.port()) as victim:
        victim.sendall(b"abort\n")
        died = node.wait_line("worker died")

    assert "killed by SIGABRT" in died
    assert "Fatal Python error: Aborted" in died


# ---- more and fewer ----


def test_one_to_four_to_one_refuses_nobody(start) -> None:
    node = start(snapshot(listener("a"), listener("b")), workers=1).ready()
    port = node.port()

    with load(port) as answered:
        for count in (2, 3, 4):
            node.signal(signal.SIGTTIN)
            node.wait_status(lambda seen, count=count: [row["state"] for row in seen["workers"]] == ["READY"] * count)
        at_four = {say(port)[0] for _ in range(80)}
        for count in (3, 2, 1):
            node.signal(signal.SIGTTOU)
            node.wait_status(lambda seen, count=count: len(seen["workers"]) == count)

    assert at_four == {"0", "1", "2", "3"}
    assert {say(port)[0] for _ in range(20)} == {"0"}
    assert answered[0] > 0


def test_the_last_worker_stays(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    node.signal(signal.SIGTTOU)

    assert node.wait_line("the last worker stays")
    assert node.states() == ["READY"]


def test_a_worker_that_is_given_up_ends_its_connections_first(start, tmp_path) -> None:
    path = str(tmp_path / "a.sock")
    node = start(snapshot(listener("a", PipeAddress(path)))).ready()
    held = [connect(path) for _ in range(20)]
    for sock in held:
        sock.sendall(b"hold\n")
        assert sock.recv(10) == b"held\n"
    node.signal(signal.SIGTTOU)
    node.wait_line("one worker less")

    for sock in held:
        sock.sendall(b"who\n")
    answered = {sock.recv(100).split()[0] for sock in held}
    for sock in held:
        sock.close()

    assert answered <= {b"0", b"1"}
    node.wait_status(lambda seen: len(seen["workers"]) == 1)


# ---- end ----


def test_term_lets_connections_end_and_refuses_new_ones(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    port = node.port()
    with connect(port) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        node.signal(signal.SIGTERM)
        node.wait_line("meshproxy: ending")
        wait_for(lambda: refuses(port), bool)
        assert node.process.poll() is None
        held.sendall(b"who\n")
        assert held.recv(100).split()[0] == b"0"

    assert node.process.wait(20) == 0
    assert not os.path.exists(node.control)


def refuses(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_end_now(start, number: signal.Signals) -> None:
    node = start(snapshot(listener("a"))).ready()
    with connect(node.port()) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        node.signal(number)

        assert node.process.wait(20) == 0


def test_a_second_signal_hastens_a_drain(start) -> None:
    node = start(snapshot(listener("a"), drain_timeout_s=1000), workers=1).ready()
    with connect(node.port()) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        node.signal(signal.SIGTERM)
        node.wait_line("graceful=True")
        os.kill(node.process.pid, signal.SIGINT)

        assert node.process.wait(20) == 0


def test_a_drain_has_its_limit(start) -> None:
    node = start(snapshot(listener("a"), drain_timeout_s=0.2), workers=1, options=("report_s=0.2",)).ready()
    with connect(node.port()) as held:
        held.sendall(b"hold\n")
        assert held.recv(10) == b"held\n"
        node.signal(signal.SIGTERM)

        assert node.process.wait(20) == 0

    assert "after it was told to drain" in node.wait_line("worker is ended")


def test_children_are_deaf_to_signals_that_are_meant_for_the_master(start) -> None:
    node = start(snapshot(listener("a")), workers=1).ready()
    (pid,) = node.pids()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)

    assert [say(node.port())[1] for _ in range(3)] == [str(pid)] * 3
    assert not any("worker died" in line for line in node.lines)


def test_the_agents_death_takes_nothing_along_and_it_is_restarted(start) -> None:
    node = start(snapshot(listener("a"))).ready()
    pid = node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")["agent"]["pid"]
    workers = node.pids()
    with load(node.port()):
        os.kill(pid, signal.SIGKILL)
        seen = node.wait_status(lambda seen: seen["agent"]["state"] == "READY" and seen["agent"]["pid"] != pid)

    assert seen["agent"]["restarts"] == 1
    assert node.pids() == workers
    assert "agent died" in node.wait_line("agent died .*SIGKILL")


def test_the_master_writes_and_removes_its_pid_file(start, tmp_path) -> None:
    path = tmp_path / "node.pid"
    node = start(snapshot(listener("a"), pid_file=str(path))).ready()

    assert int(path.read_text()) == node.process.pid
    assert node.end() == 0
    assert not path.exists()


# ---- systemd ----


def test_systemd_hears_ready_reload_watchdog_and_stop(start, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        node = start(snapshot(listener("a"), worker_hung_s=0.5), env={"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "200000"})
        node.ready()
        assert wait_said(heard, "READY=1").startswith("READY=1\nSTATUS=2 workers, listening on 127.0.0.1:")
        wait_said(heard, "WATCHDOG=1")
        node.signal(signal.SIGHUP)
        wait_said(heard, "RELOADING=1")
        assert wait_said(heard, "READY=1") == "READY=1\nSTATUS=configuration 2"
        node.signal(signal.SIGTERM)
        wait_said(heard, "STOPPING=1")
        assert node.process.wait(20) == 0


def test_the_watchdog_is_not_fed_while_no_worker_answers(start, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        env = {"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "100000"}
        node = start(snapshot(listener("a"), worker_hung_s=0.5), workers=1, options=("report_s=60",), env=env).ready()
        (pid,) = node.pids()
        wait_said(heard, "WATCHDOG=1")
        os.kill(pid, signal.SIGSTOP)
        node.wait_line("worker is ended")
        heard.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while heard.recv(1000):
                pass
        heard.settimeout(1.0)
        with pytest.raises(TimeoutError):
            heard.recv(1000)
        os.kill(pid, signal.SIGKILL)


def wait_said(heard: socket.socket, word: str) -> str:
    while True:
        text = heard.recv(1000).decode()
        if re.match(word, text):
            return text
