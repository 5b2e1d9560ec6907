"""A real node in a directory of its own: started by the command line, asked by `status`, ended by its pid, its wreckage looked for."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.peers.process import STOP_LIMIT_S, Peer, PeerFailedError

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT_S = 30.0
COMMAND_LIMIT_S = 60.0
LOOK_AGAIN_MS = 10
COMMAND = [sys.executable, "-c", "from meshproxy.cli.main import main; main()"]
WRECKAGE = re.compile(r"Traceback \(most recent call last\)|Fatal Python error|AddressSanitizer|runtime error:|event=crash")


class Node(Peer):
    """`meshproxy run` on a configuration (a dict is written as JSON, a str as YAML), with its control socket in `directory`."""

    name = "meshproxy"

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any] | str,
        *,
        workers: int | None = 1,
        cpus: set[int] | None = None,
        environment: dict[str, str] | None = None,
        open_files: int | None = None,
    ) -> None:
        super().__init__(directory, cpus)
        self.control = directory / "control.sock"
        self.config_file = directory / ("mesh.json" if isinstance(config, dict) else "mesh.yaml")
        self.workers = workers
        self.more_environment = environment or {}
        self.open_files = open_files
        self.heir = 0
        self.configure(config)

    def configure(self, config: dict[str, Any] | str) -> None:
        """Write the configuration file; a running node reads it at the next reload."""
        text = config if isinstance(config, str) else json.dumps(config)
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.config_file)

    def command(self) -> list[str]:
        workers = [] if self.workers is None else ["--workers", str(self.workers)]
        run = [*COMMAND, "run", "-c", str(self.config_file), "--control", str(self.control), *workers]
        if self.open_files is None:
            return run
        return ["sh", "-c", f'ulimit -n {self.open_files} && exec "$@"', "sh", *run]

    def environment(self) -> dict[str, str]:
        # The sanitizer's preload stays: this is the process that it is for.
        path = os.pathsep.join(filter(None, [str(ROOT), str(self.directory), os.environ.get("PYTHONPATH", "")]))
        own = {"MESHPROXY_CONTROL": str(self.control), "MESHPROXY_STATE": str(self.directory / "state")}
        return os.environ | {"PYTHONPATH": path, **own, **self.more_environment}

    @property
    def pid(self) -> int:
        """The master's pid: that of the process that was started, or after an upgrade of the one that took over."""
        return self.heir or super().pid

    def follow_upgrade(self) -> int:
        """After `meshproxy upgrade`: the pid of the new master, which is looked after from now on."""
        self.heir = int(self.status()["pid"])
        return self.heir

    def stop(self) -> None:
        """SIGTERM to whoever is master now; an heir is no child of ours, so its end is awaited by a pidfd.

        A test that failed in the middle of an upgrade did not follow it: then the control socket still answers, and tells the pid.
        """
        if self.heir:
            _end_foreign(self.heir)
            self.heir = 0
        super().stop()
        if self.control.exists():
            left = self.run_command("status", "--format", "json")
            if left.returncode == 0:
                _end_foreign(int(json.loads(left.stdout)["pid"]))

    def wait_ready(self) -> None:
        self.wait_output(r"\bready\b")

    def wait_output(self, pattern: str, limit_s: float = READY_LIMIT_S) -> re.Match[str]:
        """Wait until the node has printed a match of `pattern`; fails when it ends first or the time is up."""
        found = wait_until(lambda: re.search(pattern, self.output()), limit_s, self.pid)
        if not found:
            raise PeerFailedError(f"meshproxy did not print {pattern!r}:\n{self.output()[-4000:]}")
        return found

    def run_command(self, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Another `meshproxy` command, against this node."""
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, env=self.environment(), cwd=self.directory, timeout=limit_s
        )

    def status(self) -> dict[str, Any]:
        """`meshproxy status --format json`."""
        done = self.run_command("status", "--format", "json")
        if done.returncode != 0:
            raise PeerFailedError(f"status exited with {done.returncode}: {done.stderr}\nthe node printed:\n{self.output()[-4000:]}")
        return json.loads(done.stdout)

    def wait_status(self, accept: Any, limit_s: float = READY_LIMIT_S) -> dict[str, Any]:
        """Ask until `accept(status)` is true; the last status is in the failure."""
        last: list[dict[str, Any]] = [{}]

        def ask() -> bool:
            last[0] = self.status()
            return bool(accept(last[0]))

        if not wait_until(ask, limit_s, self.pid):
            raise AssertionError(f"status never became what the test waits for; the last one: {last[0]}\n{self.output()[-2000:]}")
        return last[0]

    def port_of(self, listener: str) -> int:
        """The port that the kernel picked for a listener on port 0."""
        for row in self.status()["listeners"]:
            if row["name"] == listener:
                return int(row["addresses"][0].rsplit(":", 1)[1])
        raise AssertionError(f"status has no listener {listener!r}")

    def ready_workers(self) -> list[dict[str, Any]]:
        return [row for row in self.status()["workers"] if row["state"] == "READY"]

    def reload(self) -> subprocess.CompletedProcess[str]:
        return self.run_command("reload")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wreckage(self) -> list[str]:
        """Lines of the output that tell of a crash or an exception that escaped."""
        return [line for line in self.output().splitlines() if WRECKAGE.search(line)]

    def ports(self) -> list[int]:
        return []


def _end_foreign(pid: int) -> None:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(watch, select.POLLIN)
        signal.pidfd_send_signal(watch, signal.SIGTERM)
        if not poller.poll(STOP_LIMIT_S * 1000):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
            poller.poll(STOP_LIMIT_S * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(watch)


def wait_until(condition: Any, limit_s: float, pid: int | None = None) -> Any:
    """What `condition()` returns once it is true; the last value when the time is up or process `pid` ended."""
    watch = os.pidfd_open(pid) if pid else None
    poller = select.poll()
    if watch is not None:
        poller.register(watch, select.POLLIN)
    try:
        for _ in range(int(limit_s * 1000 / LOOK_AGAIN_MS)):
            if value := condition():
                return value
            if poller.poll(LOOK_AGAIN_MS):
                break
        return condition()
    finally:
        if watch is not None:
            os.close(watch)


def children_of(pid: int) -> list[int]:
    """Direct children of all threads of a process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def tree_of(pid: int) -> list[int]:
    """A process and all that descend from it."""
    return [pid, *(member for child in children_of(pid) for member in tree_of(child))]


def pss_bytes(pids: list[int]) -> int:
    """Proportional set size of processes together."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(kib) * 1024 for kib in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
    return total


def raise_open_files() -> int:
    """Raise this process's limit of open files to the hard limit and say what it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
