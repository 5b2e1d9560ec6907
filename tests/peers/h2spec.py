"""h2spec, the conformance suite of HTTP/2: built once by Go into the user's cache."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.peers.go_build import built
from tests.peers.process import peer_environment

VERSION = "2.2.1"
MODULE = f"""module meshproxy/h2spec

go 1.19

require github.com/summerwind/h2spec v{VERSION}+incompatible

require (
\tgithub.com/fatih/color v1.15.0
\tgolang.org/x/net v0.17.0
)
"""
BUILD_LIMIT_S = 300
RUN_LIMIT_S = 240


def program() -> Path:
    """The built suite; raises PeerMissingError when it cannot be had."""
    package = "github.com/summerwind/h2spec/cmd/h2spec"
    steps = [["mod", "tidy", "-e"], ["build", "-o", "h2spec", package]]
    return built("h2spec", VERSION, package, MODULE, steps, flags="-mod=mod", limit_s=BUILD_LIMIT_S)


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
