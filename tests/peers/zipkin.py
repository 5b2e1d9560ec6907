"""Zipkin itself (the slim server), fetched once with Maven into the user's cache: what it makes of our spans is what a user will see."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from tests.peers.process import Peer, PeerMissingError, free_ports, peer_environment, program

VERSION = "3.6.1"
FETCH_LIMIT_S = 300
ASK_LIMIT_S = 20
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"


def jar() -> Path:
    """The server; fetched at first use. Raises PeerMissingError when it cannot be had."""
    program("java", "default-jre-headless")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshproxy"
    found = cache / f"zipkin-server-{VERSION}-slim.jar"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "zipkin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            _fetch(found)
    return found


def _fetch(target: Path) -> None:
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    artifact = f"-Dartifact=io.zipkin:zipkin-server:{VERSION}:jar:slim"
    command = [program("mvn", "maven"), "-B", "-q", _COPY, artifact, f"-DoutputDirectory={partial}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_LIMIT_S, env=peer_environment())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(f"Zipkin {VERSION} cannot be fetched with Maven: {error}") from None
    if done.returncode != 0:
        raise PeerMissingError(f"Zipkin {VERSION} cannot be fetched with Maven:\n{done.stdout[-500:]}")
    (partial / target.name).rename(target)
    shutil.rmtree(partial, ignore_errors=True)


class Zipkin(Peer):
    """One server with its storage in memory; `traces` asks for what it has."""

    name = "zipkin"
    start_limit_s = 120.0  # its virtual machine takes 10 s of a free processor

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._jar = jar()
        self.port = free_ports(1)[0]

    def command(self) -> list[str]:
        return ["java", "-Xmx256m", "-XX:+UseSerialGC", "-jar", str(self._jar)]

    def environment(self) -> dict[str, str]:
        return peer_environment() | {"QUERY_PORT": str(self.port), "SELF_TRACING_ENABLED": "false"}

    def ports(self) -> list[int]:
        return [self.port]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str) -> Any:
        """An answer of its API."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=ASK_LIMIT_S) as answer:
            return json.load(answer)

    def traces(self, service: str, limit: int) -> list[list[dict[str, Any]]]:
        """Traces that the service took part in, each a list of spans."""
        return self.ask(f"/api/v2/traces?serviceName={service}&limit={limit}")
