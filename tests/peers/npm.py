"""Packages of npm, each fetched once into the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.peers.process import PeerMissingError, peer_environment

FETCH_LIMIT_S = 300


def package(name: str, version: str) -> Path:
    """The folder whose `node_modules` has it; fetched at first use. Raises PeerMissingError when it cannot be had."""
    label = name.lstrip("@").replace("/", "-")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    found = cache / f"{label}-{version}"
    if not shutil.which("node"):
        raise PeerMissingError("node is not installed: apt-get install nodejs npm (scripts/setup --test does)")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{label}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found / "node_modules" / name).is_dir():
            _fetch(found, f"{name}@{version}")
    return found


def _fetch(target: Path, wanted: str) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        # Without scripts: optional modules have native code that new versions of node do not compile.
        done = subprocess.run(
            ["npm", "install", "--prefix", str(partial), "--ignore-scripts", "--no-audit", "--no-fund", wanted],
            capture_output=True, text=True, timeout=FETCH_LIMIT_S, env=peer_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"{wanted} cannot be fetched with npm: {error}") from None
    if done.returncode != 0:
        raise PeerMissingError(f"{wanted} cannot be fetched with npm:\n{done.stderr[-500:]}")
    shutil.rmtree(target, ignore_errors=True)
    # Renamed when whole, so that a fetch that was cut short is not taken for a package.
    partial.rename(target)
