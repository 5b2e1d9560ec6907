"""A server process of somebody else: started on free loopback ports, waited for by connecting, ended by its pid."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

START_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
PROBE_MS = 10


class PeerMissingError(Exception):
    """A peer's program is not on this machine; the text says how to get it. Tests skip with it, benchmarks stop with it."""


class PeerFailedError(Exception):
    """A peer ended or never listened; the text has the last lines it printed."""


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody has now. Another process may take one before it is used: then the peer says so at its start."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in held]
    for sock in held:
        sock.close()
    return ports


def program(name: str, package: str) -> str:
    """Path of a program; sbin is looked at too, where Debian puts servers."""
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]:
        candidate = Path(folder, name)
        if folder and os.access(candidate, os.X_OK):
            return str(candidate)
    raise PeerMissingError(f"{name} is not installed: apt-get install {package} (scripts/setup --test does)")


def peer_environment() -> dict[str, str]:
    """Our environment without what is meant for our own process: Envoy dies of a preloaded sanitizer."""
    return {key: value for key, value in os.environ.items() if key not in {"LD_PRELOAD", "PYTHONMALLOC", "ASAN_OPTIONS"}}


class Peer:
    """A started process. Subclasses say `command()` and, before that, write their files into `directory`."""

    stop_signal = signal.SIGTERM
    start_limit_s = START_LIMIT_S
    name = "peer"

    def __init__(self, directory: Path, cpus: set[int] | None = None) -> None:
        self.directory = directory
        self.cpus = cpus
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """The argument vector."""
        raise NotImplementedError

    def ports(self) -> list[int]:
        """Ports that answer when the peer is ready."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def output_file(self) -> Path:
        return self.directory / f"{self.name}.out"

    def output(self) -> str:
        """What it printed so far."""
        return self.output_file.read_text(errors="replace") if self.output_file.exists() else ""

    def start(self) -> Self:
        with self.output_file.open("wb") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(self.command(), cwd=self.directory, env=self.environment(), **streams)
        if self.cpus:
            # Set from here and at once: what the process starts later inherits it.
            os.sched_setaffinity(self.pid, self.cpus)
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def environment(self) -> dict[str, str]:
        return peer_environment()

    def wait_ready(self) -> None:
        for port in self.ports():
            failure = lambda: PeerFailedError(f"{self.name} did not start:\n{self.output()[-2000:]}")  # noqa: E731
            wait_listening(port, self.pid, failure, self.start_limit_s)

    def stop(self) -> None:
        """End it by its pid; a peer that does not end in time is killed."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(STOP_LIMIT_S)
        self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def wait_listening(port: int, pid: int, failure: object, limit_s: float = START_LIMIT_S) -> None:
    """Connect until it works; `failure()` is raised when the process ends first or the time is up."""
    watch = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(watch, select.POLLIN)
        for _ in range(int(limit_s * 1000 / PROBE_MS)):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if poller.poll(PROBE_MS):
                break
        raise failure()  # type: ignore[operator]
    finally:
        os.close(watch)
