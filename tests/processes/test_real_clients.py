"""The clients that people have, and other makes' proxies on either side, over TLS and HTTP/2: every body is compared byte for byte."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.process import PeerMissingError, free_ports, program
from tests.peers.tls_hops import Between, EnvoyHop, HaproxyHop, Hop, NginxHop
from tests.processes.http2_mesh import options, together
from tests.processes.test_tls import Certificates, common, downstream, upstream
from tests.support.origin import Connection, Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, get, post

LIMIT_S = 30
BODY = bytes(range(256)) * 2000
HOPS = (NginxHop, HaproxyHop, EnvoyHop)
PROTOCOLS = {"http1": {"explicit_http_config": {"http_protocol_options": {}}}, "auto": {"auto_config": {"http2_protocol_options": {}}}}
LOG = "%DOWNSTREAM_TLS_VERSION% %PROTOCOL% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\n"


def serve(connection: Connection) -> None:
    """The usual origin: a body comes back with its trailers, `/size/N` gives N bytes, and who says Expect is told to continue."""
    while True:
        request = connection.head()
        if request.header("expect"):
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, trailers = connection.body(request.headers)
        if found := re.search(r"/size/(\d+)$", request.target):
            body = pattern(int(found[1]))
        lines = [f"X-Hop: {request.header('x-hop') or '-'}", f"X-Digest: {hashlib.sha256(body).hexdigest()}"]
        if trailers:
            end = "".join(f"{name}: {value}\r\n" for name, value in trailers).encode()
            connection.send("\r\n".join(["HTTP/1.1 200 OK", *lines, "Transfer-Encoding: chunked", "", ""]).encode())
            connection.send(b"%x\r\n" % len(body) + body + b"\r\n0\r\n" + end + b"\r\n")
        else:
            connection.send("\r\n".join(["HTTP/1.1 200 OK", *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)


def pattern(size: int) -> bytes:
    return (BODY * (size // len(BODY) + 1))[:size]


@dataclasses.dataclass
class Mesh:
    """A node with a TLS port (ALPN h2, http/1.1) and a plaintext one, and the hops that are on this machine."""

    tls: int
    plain: int
    ca: Path
    log: Path
    hops: dict[str, Hop]

    def url(self, path: str = "/", *, plain: bool = False) -> str:
        return f"http://mesh.test:{self.plain}{path}" if plain else f"https://mesh.test:{self.tls}{path}"

    def curl(self, *arguments: str, body: bytes | None = None) -> tuple[bytes, str]:
        """What it got, and what it tells of the way (-v)."""
        names = [f"mesh.test:{port}:127.0.0.1" for port in (self.tls, self.plain)]
        resolve = [word for name in names for word in ("--resolve", name)]
        command = [program("curl", "curl"), "-q", "-sSfv", "--noproxy", "*", "--cacert", str(self.ca), *resolve, *arguments]
        done = subprocess.run(command, input=body, capture_output=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout, done.stderr.decode(errors="replace")

    def nghttp(self, *arguments: str) -> bytes:
        command = [program("nghttp", "nghttp2-client"), "-y", *arguments]
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout

    def logged(self, path: str) -> str:
        def found() -> str:
            lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
            return next((line.rstrip() for line in lines if f" {path} " in line and line.endswith("\n")), "")

        return wait_until(found, LIMIT_S)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Mesh]:
    log = tmp_path_factory.mktemp("log") / "log"
    tls_port, plain_port = free_ports(2)
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(raw=serve))
        between = Between(tls_port, origin.port, certificates.folder)
        hops: dict[str, Hop] = {}
        for kind in HOPS:
            with contextlib.suppress(PeerMissingError):
                hops[kind.name] = stack.enter_context(kind(tmp_path_factory.mktemp(kind.name), between))
        stack.enter_context(Node(tmp_path_factory.mktemp("node"), configuration(between, plain_port, certificates, hops, log)))
        yield Mesh(tls_port, plain_port, certificates.folder / "ca.pem", log, hops)
        assert origin.failures == []


def configuration(between: Between, plain_port: int, certificates: Certificates, hops: dict[str, Hop], log: Path) -> dict[str, Any]:
    """`/<hop>/<protocol>/` leads to that hop by that protocol, everything else to the origin."""
    routes, clusters = [], [bootstrap.cluster("origin", between.origin_port)]
    for name, hop in hops.items():
        for protocol, how in PROTOCOLS.items():
            action = {"cluster": f"{name} {protocol}", "timeout": "0s", "prefix_rewrite": "/"}
            routes.append(bootstrap.route(f"/{name}/{protocol}/", action))
            trust = {"validation_context": {"trusted_ca": certificates.file("ca.pem")}}
            clusters.append(bootstrap.cluster(
                f"{name} {protocol}", hop.behind, transport_socket=upstream(trust, sni="mesh.test"), **options(how),
            ))  # fmt: skip
    hosts = [bootstrap.virtual_host([*routes, bootstrap.route("/", {"cluster": "origin", "timeout": "0s"})])]
    logs = [bootstrap.file_log(str(log), LOG)]
    secured = bootstrap.http_listener("tls", between.node_port, hosts, access_log=logs)
    secured["filter_chains"][0]["transport_socket"] = downstream(common(certificates, alpn_protocols=["h2", "http/1.1"]))
    return bootstrap.bootstrap([secured, bootstrap.http_listener("plain", plain_port, hosts, access_log=logs)], clusters)


# -- curl

WAYS = {
    "http1": (["--http1.1"], False, "TLSv1.3 HTTP/1.1"),
    "h2 by ALPN": (["--http2"], False, "TLSv1.3 HTTP/2"),
    "TLS 1.2": (["--http2", "--tls-max", "1.2"], False, "TLSv1.2 HTTP/2"),
    "plaintext http1": (["--http1.1"], True, "- HTTP/1.1"),
    "upgrade to h2c": (["--http2"], True, "- HTTP/2"),
    "prior knowledge": (["--http2-prior-knowledge"], True, "- HTTP/2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_curl(mesh: Mesh, way: str) -> None:
    arguments, plain, logged = WAYS[way]
    name = way.replace(" ", "-")
    got, _ = mesh.curl(*arguments, mesh.url(f"/{name}/size/700001", plain=plain))
    assert got == pattern(700_001)
    assert mesh.logged(f"/{name}/size/700001").startswith(f"{logged} GET ")

    echoed, told = mesh.curl(*arguments, "--data-binary", "@-", "-H", "Expect:", mesh.url(f"/{name}/up", plain=plain), body=BODY)
    assert echoed == BODY
    assert f"x-digest: {hashlib.sha256(BODY).hexdigest()}" in told.lower()


@pytest.mark.parametrize("way", ["http1", "h2 by ALPN"])
def test_curl_waits_to_continue(mesh: Mesh, way: str) -> None:
    arguments = [*WAYS[way][0], "-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@-", "-m", "15"]
    echoed, told = mesh.curl(*arguments, mesh.url("/expect"), body=BODY)
    assert echoed == BODY
    assert re.search(r"^< HTTP/\S+ 100", told, re.MULTILINE)


def test_curl_asks_many_at_once(mesh: Mesh, tmp_path: Path) -> None:
    """Parallel transfers share one connection when they speak HTTP/2."""
    urls = [word for number in range(40) for word in (mesh.url(f"/size/{number * 1000}"), "-o", str(tmp_path / str(number)))]
    counted, _ = mesh.curl("--http2", "--parallel", "--parallel-max", "40", "-w", "%{http_version} %{num_connects}\n", *urls)
    assert [(tmp_path / str(number)).read_bytes() for number in range(40)] == [pattern(number * 1000) for number in range(40)]
    assert sorted(counted.decode().splitlines()) == ["2 0"] * 39 + ["2 1"]


# -- nghttp and h2load


def test_nghttp_uploads_with_trailers(mesh: Mesh, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(BODY)
    url = f"https://127.0.0.1:{mesh.tls}/trailers"
    assert mesh.nghttp("--no-content-length", "-d", str(body), "--trailer", "x-sum: 17", url) == BODY
    told = mesh.nghttp("-nv", "--no-content-length", "-d", str(body), "--trailer", "x-sum: 17", url).decode()
    assert re.search(r"recv \(stream_id=\d+\) x-sum: 17", told)


def test_nghttp_opens_many_streams(mesh: Mesh) -> None:
    assert mesh.nghttp("-m", "90", "-W", "20", f"https://127.0.0.1:{mesh.tls}/size/4000") == pattern(4000) * 90
    assert mesh.nghttp("-u", f"http://127.0.0.1:{mesh.plain}/size/4000") == pattern(4000)


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_h2load_sees_no_failure(mesh: Mesh, protocol: str) -> None:
    command = [program("h2load", "nghttp2-client"), "-n", "1000", "-c", "4", "-m", "10", f"--npn-list={protocol}"]
    done = subprocess.run([*command, f"https://127.0.0.1:{mesh.tls}/size/2000"], capture_output=True, text=True, timeout=60)
    assert f"Application protocol: {protocol}" in done.stdout
    assert "1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout


# -- hops


@pytest.fixture(params=HOPS, ids=lambda kind: kind.name)
def hop(request: pytest.FixtureRequest, mesh: Mesh) -> Hop:
    if request.param.name not in mesh.hops:
        pytest.skip(f"{request.param.name} is not installed")
    return mesh.hops[request.param.name]


def converse(port: int, prefix: str) -> str:
    """Some requests on each of four connections, every body compared; what the origin heard in x-hop."""
    def one() -> str:
        with Client(port) as client:
            for size in (0, 1, 16_384, 300_000):
                answer = client.ask(get(f"{prefix}/size/{size}"))
                assert (answer.status, answer.body) == (200, pattern(size))
                answer = client.ask(post(BODY[:size], f"{prefix}/echo"))
                assert (answer.status, answer.body) == (200, BODY[:size])
            return answer.header("x-hop") or ""

    (heard,) = set(together([one] * 4))
    return heard


def test_a_hop_in_front(mesh: Mesh, hop: Hop) -> None:
    for protocol, port in hop.front.items():
        prefix = f"/from/{hop.name}/{protocol}"
        assert converse(port, prefix) == "-"
        said = {"http1": "HTTP/1.1", "http2": "HTTP/2"}[protocol]
        assert re.fullmatch(rf"TLSv1\.[23] {said} GET {prefix}/size/1 200", mesh.logged(f"{prefix}/size/1"))


def test_a_hop_behind(mesh: Mesh, hop: Hop) -> None:
    assert converse(mesh.plain, f"/{hop.name}/http1") == "HTTP/1.1"
    assert converse(mesh.plain, f"/{hop.name}/auto").removesuffix(".0") == "HTTP/2"
