"""What systemd hears, on a real datagram socket, and the sockets that it gives."""

import os
import socket
import subprocess
import sys

import pytest

from meshproxy.errors import MeshproxyError
from meshproxy.master.systemd import Notifier, listen_fds


@pytest.fixture
def heard(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_messages_are_those_of_sd_notify(heard) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": heard.getsockname()}, 1)
    notifier.ready("2 workers")
    notifier.reloading()
    notifier.main_pid(77)
    notifier.alive()
    notifier.stopping("draining")

    said = [heard.recv(1000).decode().split("\n") for _ in range(5)]

    assert said[0] == ["READY=1", "STATUS=2 workers"]
    assert said[1][0] == "RELOADING=1"
    assert said[1][1].startswith("MONOTONIC_USEC=")
    assert int(said[1][1].partition("=")[2]) > 0
    assert said[2:] == [["MAINPID=77"], ["WATCHDOG=1"], ["STOPPING=1", "STATUS=draining"]]


def test_an_abstract_address_is_understood() -> None:
    name = f"@meshproxy-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:])
        sock.settimeout(5)
        Notifier({"NOTIFY_SOCKET": name}, 1).alive()

        assert sock.recv(100) == b"WATCHDOG=1"


def test_the_watchdog_is_fed_at_half_of_its_interval_by_whom_it_watches() -> None:
    env = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "12"}

    assert Notifier(env, 12).watchdog_interval_s == 1.5
    assert Notifier(env, 13).watchdog_interval_s == 0
    assert Notifier({}, 12).watchdog_interval_s == 0


def test_without_systemd_or_with_a_deaf_one_nothing_happens() -> None:
    Notifier({}, 1).ready("x")
    Notifier({"NOTIFY_SOCKET": "/no/such/socket"}, 1).ready("x")


def test_variables_meant_for_another_process_are_no_sockets() -> None:
    env = {"LISTEN_FDS": "2", "LISTEN_PID": "1", "LISTEN_FDNAMES": "a:b"}

    assert listen_fds(env, 2) == []
    assert env == {}


def test_what_is_no_listening_socket_is_refused_by_name() -> None:
    program = """
import os, sys
from meshproxy.errors import MeshproxyError
from meshproxy.master.systemd import listen_fds
os.dup2(0, 3)
try:
    listen_fds({"LISTEN_FDS": "1", "LISTEN_PID": "5"}, 5)
except MeshproxyError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)

    assert "descriptor 3 of LISTEN_FDS is not a listening stream socket. Use ListenStream=" in run.stdout
    assert MeshproxyError.__name__ not in run.stdout
