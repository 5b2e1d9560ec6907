"""gRPC of Node through a running node: grpc-js on both sides, in plaintext and by TLS, and each with grpcio on the other side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.grpc_js import GrpcJsServer, js_calls
from tests.peers.grpc_server import GrpcServer, calls
from tests.peers.process import PeerMissingError, free_ports
from tests.support.certificates import Authority
from tests.support.processes import Node, wait_until

LIMIT_S = 20.0


@dataclasses.dataclass
class Mesh:
    port: int
    to_grpcio: int
    ca: Path | None

    def calls(self, *asked: dict) -> list[dict]:
        return js_calls(self.port, *asked, ca=self.ca)


@pytest.fixture(scope="module", params=["h2c", "tls"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    place = tmp_path_factory.mktemp("grpc_js")
    files, tls, upstream = None, {}, {}
    if request.param == "tls":
        authority = Authority()
        files = authority.issue("mesh.test").write(place, "server")
        (place / "ca.pem").write_bytes(authority.pem)
        tls = {"tls": {"cert": str(files[0]), "key": str(files[1])}}
        upstream = {"tls": {"ca": str(place / "ca.pem"), "sni": "mesh.test"}}
    port, to_grpcio = free_ports(2)
    try:
        server = GrpcJsServer(place / "server", files)
        server.start()
    except PeerMissingError as error:
        pytest.skip(str(error))
    with server, GrpcServer(place / "grpcio") as grpcio:
        config = {
            "listeners": [
                {"name": "in", "address": f"127.0.0.1:{port}", "to": "server", **tls},
                {"name": "grpcio", "address": f"127.0.0.1:{to_grpcio}", "to": "grpcio", **tls},
            ],
            "clusters": {
                "server": {"endpoints": [f"127.0.0.1:{server.port}"], "protocol": "http2", **upstream},
                "grpcio": {"endpoints": [f"127.0.0.1:{grpcio.port}"], "protocol": "http2"},
            },
        }
        with Node(place / "node", config) as node:
            yield Mesh(port, to_grpcio, place / "ca.pem" if files else None)
        assert node.wreckage() == []


KINDS = (
    {"method": "Unary", "message": "hello"}, {"method": "Stream", "message": "\x20"}, {"method": "Collect", "count": 100},
    {"method": "Both", "count": 300}, {"method": "Unary", "message": "x", "times": 4 << 20},
)


def check_kinds(answers: list[dict]) -> None:
    assert (answers[0]["code"], answers[0]["answer"]) == (0, "hellohello")
    assert (answers[1]["code"], answers[1]["count"]) == (0, 32)
    assert (answers[2]["code"], answers[2]["answer"]) == (0, "100")
    assert (answers[3]["code"], answers[3]["same"]) == (0, True)
    assert (answers[4]["code"], answers[4]["length"]) == (0, 8 << 20)


def test_every_kind_of_call(mesh: Mesh) -> None:
    check_kinds(mesh.calls(*KINDS))


def test_node_calls_grpcio(mesh: Mesh) -> None:
    check_kinds(js_calls(mesh.to_grpcio, *KINDS, ca=mesh.ca))


def test_grpcio_calls_node(mesh: Mesh) -> None:
    if mesh.ca is None:
        check_kinds(calls(mesh.port, *KINDS))


def test_metadata_goes_both_ways(mesh: Mesh) -> None:
    raw = bytes(range(256)).decode("latin-1")
    (answer,) = mesh.calls({"method": "Told", "metadata": {"x-ask": "what?", "x-ask-bin": raw}})
    assert answer["code"] == 0
    assert (answer["initial"]["x-told"], answer["initial"]["x-told-bin"]) == ("what?", raw)
    assert answer["trailing"]["x-end"] == "yes"


def test_a_status_without_a_message_comes_with_its_words_and_trailers(mesh: Mesh) -> None:
    """Its head is its trailers as well."""
    words = "not in this state: 100% \u00fc"
    (answer,) = mesh.calls({"method": "Fail", "message": f"9 {words}".encode().decode("latin-1")})
    assert (answer["code"], answer["details"], answer["trailing"]["x-trailing"]) == (9, words, "yes")


def test_a_deadline_is_kept(mesh: Mesh) -> None:
    slow, next_one = mesh.calls({"method": "Slow", "message": "5000", "timeout": 0.3}, {"method": "Unary", "message": "a"})
    assert slow["code"] == 4
    assert next_one["code"] == 0


def test_a_cancelled_call_is_cancelled_at_the_server(mesh: Mesh) -> None:
    held, next_one = mesh.calls({"method": "Held", "count": 3}, {"method": "Both", "count": 3})
    assert (held["code"], held["count"]) == (1, 3)
    assert next_one["same"]
    assert wait_until(lambda: mesh.calls({"method": "Cancelled"})[0]["answer"] == "1", LIMIT_S)
