"""A master in a process of its own, on the stubs, and what a test does with it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from meshproxy.ipc.client import converse
from meshproxy.ipc.messages import Answer, Order
from meshproxy.model import (
    Admin,
    Cluster,
    FilterChain,
    HttpConnectionManager,
    Listener,
    PipeAddress,
    Process,
    RouteTable,
    Snapshot,
    SocketAddress,
)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 20.0
"""For anything that a test waits for: many times what it takes, so that only a lost event meets it."""
UNTOLD_S = 0.1
"""For what changes without a line in the log."""


def listener(name: str, *addresses: SocketAddress | PipeAddress, **settings) -> Listener:
    manager = HttpConnectionManager(stat_prefix=name, route_table="routes")
    return Listener(name=name, addresses=addresses or (SocketAddress("127.0.0.1", 0),), chains=(FilterChain(terminal=manager),), **settings)


def snapshot(*listeners: Listener, clusters: tuple[str, ...] = (), admin: bool = True, **process) -> Snapshot:
    return Snapshot(
        listeners=listeners,
        route_tables=(RouteTable(name="routes"),),
        clusters=tuple(Cluster(name=name, discovery="strict_dns") for name in clusters),
        admin=Admin(address=SocketAddress("127.0.0.1", 0)) if admin else None,
        process=Process(**{"drain_timeout_s": 5.0, "worker_hung_s": 1.0, **process}),
    )


class Node:
    """One running node. `lines` is everything that it wrote to stderr."""

    def __init__(
        self, directory: Path, config: Snapshot | str, workers: int = 2, options: tuple[str, ...] = (), env: dict | None = None, **popen,
    ) -> None:
        self.directory = directory
        self.config = directory / "node.json"
        self.control = str(directory / "control.sock")
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.write(config)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.master.start", str(self.config), self.control, str(workers), *options],
            cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, **popen,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def write(self, config: Snapshot | str) -> None:
        self.config.write_bytes(config.encode() if isinstance(config, str) else msgspec.json.encode(config))

    def wait_line(self, pattern: str, count: int = 1) -> str:
        """The `count`-th line of the log that matches."""
        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]
        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, LIMIT_S), f"no {pattern!r} x{count} in\n" + "\n".join(self.lines)
            return found()[count - 1]

    def ready(self) -> Node:
        self.wait_line("meshproxy: ready ")
        return self

    def ask(self, verb: str, **order) -> Answer:
        answer, fds = converse(self.control, Order(id=7, verb=verb, **order), LIMIT_S)
        for fd in fds:
            os.close(fd)
        return answer

    def status(self) -> dict:
        return json.loads(self.ask("status").body)

    def wait_status(self, condition: Callable[[dict], bool]) -> dict:
        """The status once it fulfils the condition. What happens is in the log: each line is a reason to look again; so is some time."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            told = self._told()
            seen = self.status()
            if condition(seen):
                return seen
            assert time.monotonic() < deadline, f"still {seen}"
            with self._news:
                self._news.wait_for(lambda told=told: self._told() > told, UNTOLD_S)

    def _told(self) -> int:
        """Lines of the log, but those that asking makes."""
        return sum("verb=status" not in line for line in self.lines)

    def states(self) -> list[str]:
        return [row["state"] for row in self.status()["workers"]]

    def pids(self) -> list[int]:
        return [row["pid"] for row in self.status()["workers"]]

    def port(self, name: str = "a", index: int = 0) -> int:
        row = next(row for row in self.status()["listeners"] if row["name"] == name)
        return int(row["addresses"][index].rpartition(":")[2])

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.status()["pid"], number)

    def end(self) -> int:
        """Ends it and whatever took its place; gives the exit code of the first master. What does not end is killed and told."""
        if self._reader.is_alive():
            with contextlib.suppress(Exception):
                self.ask("stop", graceful=False)
        # The log ends with the last process that has it: masters, workers and agents of all generations.
        self._reader.join(LIMIT_S)
        if self._reader.is_alive():
            for pid in {int(pid) for line in self.lines for pid in re.findall(r"(?:pid|master)=(\d+)", line)}:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._reader.join(LIMIT_S)
            raise AssertionError("the node did not end:\n" + "\n".join(self.lines))
        self.process.stderr.close()
        return self.process.wait(LIMIT_S)


def wait_for(look: Callable[[], object], condition: Callable, limit_s: float = LIMIT_S):
    """What `look` gives once it fulfils the condition."""
    deadline = time.monotonic() + limit_s
    while True:
        seen = look()
        if condition(seen):
            return seen
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.01)


def say(port: int | str, words: str = "who", timeout_s: float = LIMIT_S) -> list[str]:
    """One line to a listener, the words of its answer."""
    with connect(port, timeout_s) as sock:
        sock.sendall(words.encode() + b"\n")
        return sock.recv(1000).decode().split()


def connect(port: int | str, timeout_s: float = LIMIT_S) -> socket.socket:
    if isinstance(port, int):
        return socket.create_connection(("127.0.0.1", port), timeout_s)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout_s)
    sock.connect(port)
    return sock


@contextlib.contextmanager
def load(port: int, threads: int = 2) -> Iterator[list]:
    """Clients that connect, ask and check, one after the other, until the block ends. The list has what failed, then is checked empty."""
    failed: list[str] = []
    answered = [0]
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                if len(say(port)) != 3:
                    failed.append("no answer")
                answered[0] += 1
            except OSError as error:
                failed.append(repr(error))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for thread in workers:
        thread.start()
    try:
        yield answered
    finally:
        stop.set()
        for thread in workers:
            thread.join()
    assert failed == []
