"""Programs that are built once by Go into the user's cache, by version."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.peers.process import PeerMissingError, peer_environment


def go() -> str:
    """The machine's Go, or Debian's."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go-1.19/bin")
    if not found:
        raise PeerMissingError("go is not installed: apt-get install golang-1.19-go (scripts/setup --test does)")
    return found


def built(name: str, version: str, package: str, module: str, steps: list[list[str]], *, flags: str, limit_s: float) -> Path:
    """The program `name`, of `package`, in a module whose go.mod is `module`; raises PeerMissingError when it cannot be had.

    `steps` are the arguments of Go, one command after the other, with `flags` as GOFLAGS; `limit_s` is for each of them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    program = cache / f"{name}-{version}" / name
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.is_file():
            return program
        partial = program.parent.with_name(program.parent.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        (partial / "go.mod").write_text(module)
        (partial / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{package}"\n')
        environment = {**peer_environment(), "GOFLAGS": flags}
        for step in steps:
            try:
                done = subprocess.run([go(), *step], cwd=partial, env=environment, capture_output=True, text=True, timeout=limit_s)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise PeerMissingError(f"{name} {version} cannot be built: {error}") from None
            if done.returncode:
                raise PeerMissingError(f"{name} {version} cannot be built: {done.stderr[-800:]}")
        shutil.rmtree(program.parent, ignore_errors=True)
        # Renamed when whole, so that a build that was cut short is not taken for the program.
        partial.rename(program.parent)
    return program
