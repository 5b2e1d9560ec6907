"""The benchmarks' origin: a small C program, compiled at first use into the directory it runs in."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.peers.process import Peer, free_ports, program

SOURCE = Path(__file__).with_suffix(".c")


class Origin(Peer):
    """Answers `/64k`, `/1m` and anything else (2 bytes), with keep-alive."""

    name = "origin"

    def __init__(self, directory: Path, cpus: set[int] | None = None) -> None:
        super().__init__(directory, cpus)
        self.port = free_ports(1)[0]
        subprocess.run([program("gcc", "gcc"), "-O2", "-o", str(directory / "origin"), str(SOURCE)], check=True)

    def command(self) -> list[str]:
        return [str(self.directory / "origin"), str(self.port)]

    def ports(self) -> list[int]:
        return [self.port]
