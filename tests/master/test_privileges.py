"""Dropping to a user for real; needs root. The Python of this machine may be readable by root only, which is a case of its own."""

import os
import pwd
import signal

import pytest

from meshproxy.errors import MeshproxyError
from meshproxy.master.privileges import CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE, Identity, identity
from meshproxy.model import SocketAddress
from tests.master.node import listener, say, snapshot
from tests.master.test_listeners import free_port

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
NOBODY = pwd.getpwnam("nobody")


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def capabilities(pid: int, which: str = "CapPrm") -> set[int]:
    mask = int(status_of(pid)[which], 16)
    return {number for number in range(64) if mask >> number & 1}


def test_names_that_are_not_there_come_with_a_remedy() -> None:
    with pytest.raises(MeshproxyError, match=r'process.user "nosuch": no such user. Create it \(`useradd --system nosuch`\)'):
        identity("nosuch", "")
    with pytest.raises(MeshproxyError, match=r'process.group "nosuch": no such group'):
        identity("", "nosuch")


def test_nobody_asked_and_ourselves_change_nothing() -> None:
    assert identity("", "") == Identity()
    assert identity(pwd.getpwuid(os.geteuid()).pw_name, "") == Identity()


@root_only
def test_only_root_can_become_another(tmp_path) -> None:
    pid = os.fork()
    if pid == 0:
        os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
        try:
            identity("root", "")
        except MeshproxyError as error:
            os._exit(0 if "only root can become another user" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@root_only
@pytest.mark.process
def test_all_processes_are_the_user_and_only_the_master_keeps_what_it_must(start) -> None:
    node = start(snapshot(listener("a", SocketAddress("127.0.0.1", 0)), user="nobody", group="nogroup")).ready()
    status = node.wait_status(lambda seen: seen["agent"] and seen["agent"]["state"] == "READY")
    children = [*(row["pid"] for row in status["workers"]), status["agent"]["pid"]]

    for pid in [status["pid"], *children]:
        assert set(status_of(pid)["Uid"].split()) == {str(NOBODY.pw_uid)}
        assert set(status_of(pid)["Gid"].split()) == {str(NOBODY.pw_gid)}
    # pytest's directories are root's alone, so the configuration is what the user cannot read.
    assert capabilities(status["pid"]) == {CAP_DAC_READ_SEARCH}
    assert str(node.config) in node.wait_line("the user cannot read what the node needs")
    assert [capabilities(pid) | capabilities(pid, "CapAmb") | capabilities(pid, "CapInh") for pid in children] == [set()] * 3
    assert {status_of(pid)["NoNewPrivs"] for pid in children} == {"1"}
    assert os.stat(node.control).st_mode & 0o777 == 0o660
    assert os.stat(node.control).st_uid == NOBODY.pw_uid


@root_only
@pytest.mark.process
def test_after_the_drop_it_still_forks_binds_reloads_and_upgrades(start) -> None:
    low = next(port for port in range(700, 1024) if is_free(port))
    privileged = SocketAddress("127.0.0.1", low)
    node = start(snapshot(listener("a", privileged), user="nobody"), workers=1).ready()
    assert capabilities(node.status()["pid"]) >= {CAP_NET_BIND_SERVICE}

    node.signal(signal.SIGTTIN)
    node.wait_status(lambda seen: [row["state"] for row in seen["workers"]] == ["READY"] * 2)
    assert {say(low)[0] for _ in range(60)} == {"0", "1"}

    os.kill(node.pids()[0], signal.SIGKILL)
    node.wait_status(lambda seen: seen["workers"][0]["restarts"] == 1 and seen["workers"][0]["state"] == "READY")

    other = SocketAddress("127.0.0.1", next(port for port in range(low + 1, 1024) if is_free(port)))
    high = SocketAddress("127.0.0.1", free_port())
    node.write(snapshot(listener("a", privileged), listener("b", other), listener("c", high), user="nobody"))
    assert node.ask("reload").errors == []
    assert say(other.port)

    assert node.ask("upgrade").errors == []
    assert node.process.wait(20) == 0
    status = node.status()
    assert set(status_of(status["pid"])["Uid"].split()) == {str(NOBODY.pw_uid)}
    assert capabilities(status["workers"][0]["pid"]) == set()
    node.signal(signal.SIGTTIN)
    node.wait_status(lambda seen: [row["state"] for row in seen["workers"]] == ["READY"] * 3)


def is_free(port: int) -> bool:
    import socket

    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
