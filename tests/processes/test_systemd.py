"""The units, by systemd's own tools and, in the long form, under a real systemd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.peers.process import PeerMissingError, free_ports, program
from tests.peers.systemd import PYTHON, Systemd
from tests.support.processes import ROOT, Node
from tests.support.wire import ask, get

UNITS = ROOT / "conf" / "systemd"
PATIENCE_S = 30.0


def tool(name: str) -> str:
    try:
        return program(name, "systemd")
    except PeerMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.iterdir()))
def test_systemd_has_nothing_to_say_against_a_unit(unit: str, tmp_path: Path) -> None:
    command = tmp_path / "meshproxy"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for path in UNITS.iterdir():
        # It looks for commands on its own path only, where a checkout is not.
        (tmp_path / path.name).write_text(path.read_text().replace("=meshproxy ", f"={command} "))
    told = subprocess.run([tool("systemd-analyze"), "verify", str(tmp_path / unit)], capture_output=True, text=True, timeout=PATIENCE_S)

    assert (told.returncode, told.stderr) == (0, "")


class Activated(Node):
    """A node that is started by the first connection to a socket of somebody else's."""

    port = 0

    def command(self) -> list[str]:
        # It hands on no environment but what it is told to.
        passed = [f"--setenv={name}={value}" for name, value in self.environment().items()]
        return [tool("systemd-socket-activate"), f"--listen=127.0.0.1:{self.port}", *passed, *super().command()]

    def wait_ready(self) -> None:
        self.wait_output("Listening on")


def test_a_socket_that_systemd_listens_on_is_the_listeners(tmp_path: Path) -> None:
    [port] = free_ports(1)
    node = Activated(tmp_path, f'listeners:\n- {{name: ingress, address: "127.0.0.1:{port}", respond: {{body: first}}}}\n', workers=2)
    node.port = port
    with node:
        # The first client comes before there is a node; systemd's socket holds it.
        assert ask(port, get("/")).body == b"first"
        assert node.status()["listeners"][0]["addresses"] == [f"127.0.0.1:{port}"]
        node.configure(node.config_file.read_text().replace("first", "second"))
        assert node.reload().returncode == 0
        assert ask(port, get("/")).body == b"second"
        assert {ask(port, get("/", "mesh.test", "Connection: close")).status for _ in range(50)} == {200}
        assert node.wreckage() == []


@pytest.fixture
def machine(tmp_path: Path, long_run: bool) -> Systemd:
    """A machine with a systemd and our units."""
    if not long_run:
        pytest.skip("the long form (--long) starts a systemd")
    try:
        return Systemd(tmp_path)
    except PeerMissingError as error:
        pytest.skip(str(error))


CONVERSATION = """
import pathlib, shutil, socket, subprocess, time
config = pathlib.Path("/etc/meshproxy/meshproxy.yaml")
config.write_text('''
workers: 2
access_log: /var/log/meshproxy/access.log
listeners: [{name: web, address: "0.0.0.0:80", respond: {body: one}}]
''')
shutil.chown(config, "root", "meshproxy")
config.chmod(0o640)
def systemctl(*words):
    return subprocess.run(["systemctl", *words], capture_output=True, text=True)
def state(name):
    return systemctl("show", "-p", name, "--value", "meshproxy").stdout.strip()
def wait(name, value):
    for _ in range(600):
        if state(name) == value:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} is {state(name)} and never {value}\\n{systemctl('status', '-l', 'meshproxy').stdout}")
def connect():
    return socket.create_connection(("127.0.0.1", 80), 20)
def ask(client):
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    return client.recv(65536).rpartition(b"\\r\\n")[2]
def ends_in_peace():
    "A connection that is under way when the service is stopped has its answer."
    with connect() as client:
        client.sendall(b"GET / HTTP/1.1\\r\\nHo")
        stopping = subprocess.Popen(["systemctl", "stop", "meshproxy"])
        wait("ActiveState", "deactivating")
        client.sendall(b"st: x\\r\\n\\r\\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert stopping.wait() == 0
    assert (state("ActiveState"), state("Result")) == ("inactive", "success")
    assert not pathlib.Path("/run/meshproxy").exists()
started = systemctl("start", "meshproxy")
assert started.returncode == 0, started.stderr + systemctl("status", "-l", "meshproxy").stdout
assert state("StatusText") == "2 workers, listening on 0.0.0.0:80"
assert ask(connect()) == b"one"
good = config.read_text().replace("one", "two")
config.write_text(good)
assert systemctl("reload", "meshproxy").returncode == 0
assert ask(connect()) == b"two"
config.write_text(good + "nonsense: 1\\n")
assert systemctl("reload", "meshproxy").returncode == 1
assert (ask(connect()), state("ActiveState")) == (b"two", "active")
config.write_text(good)
for pid in subprocess.run(["pgrep", "-f", "^meshproxy: (worker|agent)"], capture_output=True, text=True).stdout.split():
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    assert "CapEff:\\t0000000000000000" in status, status
assert "GET / HTTP/1.1" in pathlib.Path("/var/log/meshproxy/access.log").read_text()
before = state("MainPID")
subprocess.run(["meshproxy", "upgrade", "--control", "/run/meshproxy/control.sock"], check=True)
assert state("MainPID") != before
assert systemctl("reload", "meshproxy").returncode == 0
ends_in_peace()
assert systemctl("start", "meshproxy").returncode == 0
ends_in_peace()
systemctl("start", "meshproxy")
subprocess.run(["kill", "-KILL", state("MainPID")], check=True)
wait("NRestarts", "1")
wait("ActiveState", "active")
assert ask(connect()) == b"two"
systemctl("stop", "meshproxy")
systemctl("start", "meshproxy.socket")
assert state("ActiveState") == "inactive"
assert ask(connect()) == b"two"
wait("ActiveState", "active")
print("all of it")
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_systemd_starts_reloads_upgrades_drains_and_restarts(machine: Systemd) -> None:
    with machine:
        told = machine.run(PYTHON, "-c", CONVERSATION, limit_s=200)

        assert told.stdout.endswith("all of it\n"), told.stderr
