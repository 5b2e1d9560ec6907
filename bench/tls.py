"""TLS before nginx, HAProxy, Envoy and meshproxy: one ECDSA P-256 certificate, the same versions, one plaintext origin.

New connections are measured with session resumption off in all and on in all.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.loads import TlsLoad
from bench.measure import WRK_SLACK_S, Seen, wrk
from bench.stage import Processors
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.haproxy import Haproxy
from tests.peers.nginx import Nginx
from tests.peers.origin import Origin
from tests.peers.process import Peer, free_ports, peer_environment, program
from tests.peers.scene import Scene
from tests.support.certificates import Authority
from tests.support.processes import Node

CONTEXT = f"{bootstrap.TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


class TlsNginx(Nginx):
    def __init__(self, directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> None:
        self.load = load
        super().__init__(directory, scene, cpus)

    def configuration(self) -> str:
        listen = f"listen 127.0.0.1:{self.port} backlog=4096"
        versions = "TLSv1.2" if self.load.newest == "1.2" else "TLSv1.2 TLSv1.3"
        sessions = "ssl_session_cache shared:s:10m" if self.load.resumed else "ssl_session_cache off; ssl_session_tickets off"
        http2 = " http2" if self.load.streams else ""
        files = "ssl_certificate ../server.pem; ssl_certificate_key ../server.key"
        return super().configuration().replace(listen, f"{listen} ssl{http2}; {files}; ssl_protocols {versions}; {sessions}")


class TlsHaproxy(Haproxy):
    def __init__(self, directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> None:
        self.load = load
        super().__init__(directory, scene, cpus)

    def configuration(self) -> str:
        bind = f"bind 127.0.0.1:{self.port} backlog 4096"
        options = f"ssl crt {self.directory.parent}/server.both ssl-min-ver TLSv1.2 ssl-max-ver TLSv{self.load.newest}"
        if self.load.streams:
            options += " alpn h2,http/1.1"
        text = super().configuration()
        if not self.load.resumed:
            options += " no-tls-tickets"
            text = text.replace("global\n", "global\n  tune.ssl.cachesize 0\n")
        return text.replace(bind, f"{bind} {options}")


def _tls_bootstrap(directory: Path, scene: Scene, load: TlsLoad, port: int, admin_port: int) -> dict[str, Any]:
    config = bootstrap.of_scene(scene, port, admin_port)
    files = {"certificate_chain": {"filename": f"{directory}/server.pem"}, "private_key": {"filename": f"{directory}/server.key"}}
    context: dict[str, Any] = {
        "@type": CONTEXT,
        "common_tls_context": {
            "tls_certificates": [files], "alpn_protocols": ["h2", "http/1.1"] if load.streams else ["http/1.1"],
            "tls_params": {"tls_maximum_protocol_version": f"TLSv{load.newest.replace('.', '_')}"},
        },
    }
    if not load.resumed:
        context |= {"disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return config


def _envoy(directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    return Envoy(directory, _tls_bootstrap(directory.parent, scene, load, *ports), ports, cpus=cpus)


def _node(directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    node = Node(directory, _tls_bootstrap(directory.parent, scene, load, *ports), cpus=cpus)
    node.port = ports[0]
    return node


MAKERS = {"meshproxy": _node, "nginx": TlsNginx, "haproxy": TlsHaproxy, "envoy": _envoy}


@contextlib.contextmanager
def stage(directory: Path, load: TlsLoad, names: list[str]) -> Iterator[dict[str, Peer]]:
    """All proxies of `names`, started before one origin."""
    processors = Processors(load)
    directory.mkdir()
    chain, key = Authority().issue("mesh.test").write(directory, "server")
    (directory / "server.both").write_bytes(chain.read_bytes() + key.read_bytes())
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(directory / "origin", processors.driver))
        yield {name: stack.enter_context(MAKERS[name](directory / name, Scene(origin.port), load, processors.proxy)) for name in names}


def drive(load: TlsLoad, port: int, seconds: float, cpus: set[int]) -> Seen:
    """wrk, or OpenSSL's client."""
    return _resuming(port, seconds, cpus) if load.one_by_one else wrk(load, port, seconds, cpus, "https")


def _resuming(port: int, seconds: float, cpus: set[int]) -> Seen:
    """OpenSSL's client resumes the session that it was given last. The time is what it printed: whole seconds."""
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-reuse", "-time", str(max(1, round(seconds))), "-www", "/"]
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, sorted(cpus))), program("openssl", "openssl"), *command[1:]],
        capture_output=True, text=True, timeout=seconds + WRK_SLACK_S, env=peer_environment(),
    )  # fmt: skip
    found = re.findall(r"(\d+) connections in (\d+) real seconds", done.stdout)
    if not found:
        raise RuntimeError(f"openssl s_time ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    count, real_s = map(int, found[-1])
    return Seen(count, max(1, real_s), int(done.returncode != 0))
