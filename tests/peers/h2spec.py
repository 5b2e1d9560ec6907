"""h2spec, the conformance suite of HTTP/2: built once by Go into the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.peers.process import PeerMissingError, peer_environment

VERSION = "2.2.1"
MODULE = f"""module meshproxy/h2spec

go 1.19

require github.com/summerwind/h2spec v{VERSION}+incompatible

require (
\tgithub.com/fatih/color v1.15.0
\tgolang.org/x/net v0.17.0
)
"""
SOURCE = """//go:build tools

package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
"""
BUILD_LIMIT_S = 300
RUN_LIMIT_S = 240


def go() -> str:
    """The machine's Go, or Debian's."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go-1.19/bin")
    if not found:
        raise PeerMissingError("go is not installed: apt-get install golang-1.19-go (scripts/setup --test does)")
    return found


def program() -> Path:
    """The built suite; raises PeerMissingError when it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    built = cache / f"h2spec-{VERSION}" / "h2spec"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "h2spec.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.is_file():
            _build(built)
    return built


def _build(built: Path) -> None:
    partial = built.parent.with_name(built.parent.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / "go.mod").write_text(MODULE)
    (partial / "tools.go").write_text(SOURCE)
    environment = {**peer_environment(), "GOFLAGS": "-mod=mod"}
    for step in (["mod", "tidy", "-e"], ["build", "-o", "h2spec", "github.com/summerwind/h2spec/cmd/h2spec"]):
        try:
            done = subprocess.run([go(), *step], cwd=partial, env=environment, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerMissingError(f"h2spec {VERSION} cannot be built: {error}") from None
        if done.returncode:
            raise PeerMissingError(f"h2spec {VERSION} cannot be built: {done.stderr[-800:]}")
    shutil.rmtree(built.parent, ignore_errors=True)
    # Renamed when whole, so that a build that was cut short is not taken for the suite.
    partial.rename(built.parent)


def run(port: int, directory: Path, *, tls: bool = False) -> dict[str, str]:
    """Each case of the strict suite with what went wrong; "" = it passed. Cases that were skipped are told as such."""
    report = directory / "h2spec.xml"
    command = [str(program()), "-h", "127.0.0.1", "-p", str(port), "-o", "2", "-S", "-j", str(report), *(["-t", "-k"] if tls else [])]
    done = subprocess.run(command, env=peer_environment(), capture_output=True, text=True, timeout=RUN_LIMIT_S)
    if not report.is_file():
        raise AssertionError(f"h2spec ended with {done.returncode} and no report:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    found = {}
    for suite in ET.parse(report).getroot().iter("testsuite"):
        for number, case in enumerate(suite.iter("testcase"), 1):
            trouble = [case.find(kind) for kind in ("failure", "error", "skipped")]
            text = "; ".join(f"{part.tag} {' '.join((part.text or '').split())}" for part in trouble if part is not None)
            found[f"{case.get('package')}/{number} {case.get('classname')}"] = text
    return found
