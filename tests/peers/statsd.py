"""The statsd daemon itself (npm `statsd`), fetched once into the user's cache: what it makes of our lines is what a user will see."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.peers.npm import package
from tests.peers.process import Peer, free_ports

VERSION = "0.9.0"
NEVER_MS = 3_600_000
"""Between flushes: what came in stays to be asked for."""


class Statsd(Peer):
    """One daemon that listens by UDP and TCP and never flushes; `ask` tells what it has."""

    name = "statsd"

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory)
        self._folder = package("statsd", VERSION)
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
