"""The statsd daemon itself (npm `statsd`), fetched once into the user's cache: what it makes of our lines is what a user will see."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.peers.process import Peer, PeerMissingError, free_ports, peer_environment

VERSION = "0.9.0"
FETCH_LIMIT_S = 300
NEVER_MS = 3_600_000
"""Between flushes: what came in stays to be asked for."""


def folder() -> Path:
    """Where the daemon is; fetched at first use. Raises PeerMissingError when it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    found = cache / f"statsd-{VERSION}"
    if not shutil.which("node"):
        raise PeerMissingError("node is not installed: apt-get install nodejs npm (scripts/setup --test does)")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "statsd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found / "node_modules" / "statsd").is_dir():
            _fetch(found)
    return found


def _fetch(target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        # Its optional syslog module has native code that new versions of node do not compile.
        done = subprocess.run(
            ["npm", "install", "--prefix", str(partial), "--ignore-scripts", "--no-audit", "--no-fund", f"statsd@{VERSION}"],
            capture_output=True, text=True, timeout=FETCH_LIMIT_S, env=peer_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"statsd {VERSION} cannot be fetched with npm: {error}") from None
    if done.returncode != 0:
        raise PeerMissingError(f"statsd {VERSION} cannot be fetched with npm:\n{done.stderr[-500:]}")
    shutil.rmtree(target, ignore_errors=True)
    # Renamed when whole, so that a fetch that was cut short is not taken for a daemon.
    partial.rename(target)


class Statsd(Peer):
    """One daemon that listens by UDP and TCP and never flushes; `ask` tells what it has."""

    name = "statsd"

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory)
        self._folder = folder()
        tcp, self.management_port = free_ports(2)
        self.port = port or tcp
        servers = [
            {"server": f"./servers/{kind}", "address": "127.0.0.1", "port": self.port} for kind in ("udp", "tcp")
        ]
        config: dict[str, Any] = {
            "servers": servers, "mgmt_address": "127.0.0.1", "mgmt_port": self.management_port, "flushInterval": NEVER_MS,
            "backends": ["./backends/console"], "dumpMessages": False,
        }  # fmt: skip
        (directory / "config.js").write_text(f"({json.dumps(config)})")

    def command(self) -> list[str]:
        return ["node", str(self._folder / "node_modules" / "statsd" / "stats.js"), str(self.directory / "config.js")]

    def ports(self) -> list[int]:
        return [self.port, self.management_port]

    def ask(self, what: str) -> dict[str, Any]:
        """`counters`, `gauges` or `timers`, as the management port has them."""
        with socket.create_connection(("127.0.0.1", self.management_port), 5) as connection:
            connection.sendall(f"{what}\n".encode())
            answer = b""
            while not answer.endswith(b"END\n\n"):
                more = connection.recv(65536)
                assert more, answer
                answer += more
        return _parsed(answer.decode().removesuffix("END\n\n"))

    def wait(self, what: str, is_there: Callable[[dict[str, Any]], bool], step: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Ask until it is there; `step` is called between. The last answer, also when it never was."""
        found: dict[str, Any] = {}
        for _ in range(300):
            found = self.ask(what)
            if is_there(found):
                break
            step()
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self.process is not None
                self.process.wait(0.01)
        return found


def _parsed(text: str) -> dict[str, Any]:
    """Node prints an object as JavaScript; it is asked to make JSON of it."""
    script = "let t='';process.stdin.on('data',d=>t+=d).on('end',()=>console.log(JSON.stringify(eval('('+t+')'))))"
    done = subprocess.run(["node", "-e", script], input=text, capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)
