"""TLS beside nginx, HAProxy and Envoy: `python -m bench.tls`. CPU of the proxy's process tree for each request and for each new connection.

Every proxy terminates TLS with one ECDSA P-256 certificate, speaks the same versions and asks one plaintext origin. New connections are
measured with session resumption off in all and on in all; wrk resumes up to TLS 1.2 only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.loads import Load
from bench.measure import WRK_SLACK_S, cpu_seconds, drive
from bench.report import table
from bench.stage import Processors
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.haproxy import Haproxy
from tests.peers.nginx import Nginx
from tests.peers.origin import Origin
from tests.peers.process import Peer, PeerFailedError, PeerMissingError, free_ports, peer_environment, program
from tests.peers.scene import Scene
from tests.support.certificates import Authority
from tests.support.processes import Node

CONTEXT = f"{bootstrap.TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


@dataclasses.dataclass(frozen=True)
class TlsLoad(Load):
    """`newest`: the highest version that all proxies speak."""

    newest: str = "1.3"
    resumed: bool = False


CLOSE = ("Connection: close",)
LOADS = {
    load.name: load
    for load in (
        TlsLoad("tls", "2-byte answers over TLS, 64 keep-alive connections"),
        TlsLoad("tls-64k", "64 KiB answers over TLS, 64 keep-alive connections", path="/64k", body_bytes=64 << 10),
        TlsLoad("tls-connect", "a new TLS 1.3 connection for each request, 64 at a time, none resumed", headers=CLOSE),
        TlsLoad("tls12-connect", "a new TLS 1.2 connection for each request, 64 at a time, none resumed", headers=CLOSE, newest="1.2"),
        TlsLoad("tls12-resume", "the same, all resumed", headers=CLOSE, newest="1.2", resumed=True),
        TlsLoad("tls-resume", "a new TLS 1.3 connection for each request, one at a time, all resumed", connections=1, resumed=True),
    )
}


class TlsNginx(Nginx):
    load: TlsLoad

    def configuration(self) -> str:
        listen = f"listen 127.0.0.1:{self.port} backlog=4096"
        versions = "TLSv1.2" if self.load.newest == "1.2" else "TLSv1.2 TLSv1.3"
        sessions = "ssl_session_cache shared:s:10m" if self.load.resumed else "ssl_session_cache off; ssl_session_tickets off"
        files = "ssl_certificate ../server.pem; ssl_certificate_key ../server.key"
        return super().configuration().replace(listen, f"{listen} ssl; {files}; ssl_protocols {versions}; {sessions}")


class TlsHaproxy(Haproxy):
    load: TlsLoad

    def configuration(self) -> str:
        bind = f"bind 127.0.0.1:{self.port} backlog 4096"
        options = f"ssl crt {self.directory.parent}/server.both ssl-min-ver TLSv1.2 ssl-max-ver TLSv{self.load.newest}"
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
            "tls_certificates": [files], "alpn_protocols": ["http/1.1"],
            "tls_params": {"tls_maximum_protocol_version": f"TLSv{load.newest.replace('.', '_')}"},
        },
    }
    if not load.resumed:
        context |= {"disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return config


def _nginx(directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> Peer:
    return type("Nginx", (TlsNginx,), {"load": load})(directory, scene, cpus)


def _haproxy(directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> Peer:
    return type("Haproxy", (TlsHaproxy,), {"load": load})(directory, scene, cpus)


def _envoy(directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    return Envoy(directory, _tls_bootstrap(directory.parent, scene, load, *ports), ports, cpus=cpus)


def _node(directory: Path, scene: Scene, load: TlsLoad, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    node = Node(directory, _tls_bootstrap(directory.parent, scene, load, *ports), cpus=cpus)
    node.port = ports[0]
    return node


MAKERS = {"meshproxy": _node, "nginx": _nginx, "haproxy": _haproxy, "envoy": _envoy}


@contextlib.contextmanager
def stage(directory: Path, load: TlsLoad, names: list[str]) -> Iterator[dict[str, Peer]]:
    """All proxies of `names`, started before one origin."""
    processors = Processors()
    directory.mkdir()
    chain, key = Authority().issue("mesh.test").write(directory, "server")
    (directory / "server.both").write_bytes(chain.read_bytes() + key.read_bytes())
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(directory / "origin", processors.driver))
        yield {name: stack.enter_context(MAKERS[name](directory / name, Scene(origin.port), load, processors.proxy)) for name in names}


@dataclasses.dataclass(frozen=True)
class Sample:
    cpu_us: float
    rate_per_s: float
    busy: float
    failed: int


def sample(load: TlsLoad, peer: Peer, seconds: float) -> Sample:
    before = cpu_seconds(peer.pid)
    if load.name == "tls-resume":
        count, duration_s, failed = _resuming(peer.port, seconds)
    else:
        seen = drive(load, peer.port, seconds, Processors().driver, "https")
        count, duration_s, failed = max(1, int(seen["requests"])), seen["duration_us"] / 1e6, int(seen["failed"])
    spent = cpu_seconds(peer.pid) - before
    return Sample(spent * 1e6 / count, count / duration_s, spent / duration_s, failed)


def _resuming(port: int, seconds: float) -> tuple[int, float, int]:
    """Connections, seconds and failures of OpenSSL's client, which resumes the session that it was given last."""
    cpus = ",".join(map(str, sorted(Processors().driver)))
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-reuse", "-time", str(max(1, round(seconds))), "-www", "/"]
    done = subprocess.run(
        ["taskset", "-c", cpus, program("openssl", "openssl"), *command[1:]],
        capture_output=True, text=True, timeout=seconds + WRK_SLACK_S, env=peer_environment(),
    )  # fmt: skip
    found = re.findall(r"(\d+) connections in (\d+) real seconds", done.stdout)
    if not found:
        raise RuntimeError(f"openssl s_time ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    count, real_s = map(int, found[-1])
    return max(1, count), max(1, real_s), int(done.returncode != 0)


def run(directory: Path, load: TlsLoad, names: list[str], seconds: float, rounds: int) -> dict[str, list[Sample]]:
    """Samples of each peer, in turns."""
    with stage(directory, load, names) as peers:
        for peer in peers.values():
            sample(load, peer, 1)
        samples: dict[str, list[Sample]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in peers.items():
                samples[name].append(sample(load, peer, seconds))
    return samples


def load_table(load: TlsLoad, samples: dict[str, list[Sample]]) -> str:
    costs = {peer: statistics.median(one.cpu_us for one in several) for peer, several in samples.items()}
    lines = []
    for peer, several in samples.items():
        others = [cost for other, cost in costs.items() if other not in (peer, "meshproxy")]
        spread = f"{min(one.cpu_us for one in several):.1f}-{max(one.cpu_us for one in several):.1f}"
        rate, busy = (statistics.median(getattr(one, name) for one in several) for name in ("rate_per_s", "busy"))
        ratios = [costs[peer] / cost if cost else None for cost in (min(others, default=0), costs.get("envoy", 0))]
        lines.append([
            peer, f"{costs[peer]:.1f}", spread, f"{rate:,.0f}", f"{busy:.2f}", str(sum(one.failed for one in several)),
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        ])  # fmt: skip
    return f"{load.name}: {load.about}\n" + table(
        ["proxy", "CPU us/request", "(min-max)", "requests/s", "busy", "failed", "/best peer", "/Envoy"], lines,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description=__doc__)
    parser.add_argument("--loads", default=",".join(LOADS), help="comma-separated (default: all)")
    parser.add_argument("--peers", default=",".join(MAKERS), help="comma-separated (default: all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timed run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each load and peer (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshproxy-bench-") as directory:
        try:
            for load in (LOADS[name] for name in options.loads.split(",")):
                samples = run(Path(directory) / load.name, load, options.peers.split(","), options.seconds, options.rounds)
                print(load_table(load, samples), end="\n\n", flush=True)
        except (PeerMissingError, PeerFailedError, RuntimeError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
