"""gRPC through a running node: grpcio on both sides, browsers' gRPC-Web and HTTP/1.1 clients by hand."""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Iterator

import pytest
import requests

from tests.peers.grpc_server import GrpcServer, calls
from tests.peers.process import free_ports
from tests.support.processes import Node
from tests.support.wire import Client


@dataclasses.dataclass
class Mesh:
    port: int
    admin: int

    def counted(self, metric: str) -> int:
        """Its value as soon as it is not 0: a method's counters are shown once the master has given them a place."""
        limit_s = time.monotonic() + 20
        while time.monotonic() < limit_s:
            for line in requests.get(f"http://127.0.0.1:{self.admin}/stats", timeout=20).text.splitlines():
                name, _, value = line.partition(": ")
                if name == metric and value != "0":
                    return int(value)
        raise AssertionError(f"{metric} stays 0")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    place = tmp_path_factory.mktemp("grpc")
    port, admin, dead = free_ports(3)
    with GrpcServer(place / "server") as server:
        config = {
            "admin": f"127.0.0.1:{admin}",
            "listeners": [{
                "name": "in", "address": f"127.0.0.1:{port}",
                "filters": ["grpc_http1_bridge", "grpc_web", {"grpc_stats": {"methods": ["test.Echo/Unary"]}}],
                "routes": [
                    {"prefix": "/test.Echo/", "to": "server", "timeout": 0, "grpc_timeout_max": "10s"},
                    {"prefix": "/dead.Echo/", "to": "dead"},
                    {"prefix": "/direct.Echo/", "respond": {"status": 403, "body": "not today: 100%"}},
                ],
            }],
            "clusters": {
                "server": {"endpoints": [f"127.0.0.1:{server.port}"], "protocol": "http2"},
                "dead": {"endpoints": [f"127.0.0.1:{dead}"], "protocol": "http2"},
            },
        }
        with Node(place / "node", config):
            yield Mesh(port, admin)


# -- grpcio's own client


def test_every_kind_of_call(mesh: Mesh) -> None:
    answers = calls(
        mesh.port,
        {"method": "Unary", "message": "hello"}, {"method": "Stream", "message": "\x20"}, {"method": "Collect", "count": 100},
        {"method": "Both", "count": 300}, {"method": "Unary", "message": "x" * 1024, "times": 8192},
    )
    assert answers[0] == {"code": 0, "length": 10, "answer": "hellohello"}
    assert answers[1] == {"code": 0, "count": 32}
    assert answers[2] == {"code": 0, "answer": "100"}
    assert answers[3] == {"code": 0, "same": True}
    assert (answers[4]["code"], answers[4]["length"]) == (0, 16 << 20)


def test_a_status_comes_with_its_words_and_trailers(mesh: Mesh) -> None:
    (answer,) = calls(mesh.port, {"method": "Fail", "message": "9 not in this state"})
    assert (answer["code"], answer["details"], answer["trailing"]["x-trailing"]) == (9, "not in this state", "yes")


def test_a_deadline_is_kept(mesh: Mesh) -> None:
    """By whoever is first; the client is told in any case, and the next call is none the worse."""
    slow, next_one = calls(mesh.port, {"method": "Slow", "message": "5000", "timeout": 0.3}, {"method": "Unary", "message": "a"})
    assert slow["code"] == 4
    assert next_one["code"] == 0


# -- our own answers


def raw_call(port: int, path: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """A gRPC call by HTTP/1.1: status, headers, body."""
    with Client(port) as client:
        head = [f"POST {path} HTTP/1.1", "Host: mesh.test", f"Content-Length: {len(body)}", *headers]
        client.send("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        answer = client.answer()
        return answer.status, {name.lower(): value for name, value in answer.headers}, answer.body


def test_what_the_proxy_answers_itself_is_grpc_to_a_grpc_client(mesh: Mesh) -> None:
    status, headers, body = raw_call(mesh.port, "/direct.Echo/Any", "Content-Type: application/grpc", "TE: trailers")
    assert (status, body) == (200, b"")
    assert headers["grpc-status"] == "7"
    assert headers["grpc-message"] == "not today: 100%25"
    assert headers["content-type"] == "application/grpc"


def test_no_route_and_no_endpoint_have_their_status(mesh: Mesh) -> None:
    _, no_route, _ = raw_call(mesh.port, "/nobody/Any", "Content-Type: application/grpc+proto")
    assert no_route["grpc-status"] == "12"
    _, dead, _ = raw_call(mesh.port, "/dead.Echo/Any", "Content-Type: application/grpc")
    assert dead["grpc-status"] == "14"
    status, plain, _ = raw_call(mesh.port, "/nobody/Any", "Content-Type: application/grpcx")
    assert (status, "grpc-status" in plain) == (404, False)


# -- gRPC-Web


def message(text: bytes) -> bytes:
    return b"\0" + len(text).to_bytes(4, "big") + text


def test_grpc_web_in_binary(mesh: Mesh) -> None:
    status, headers, body = raw_call(mesh.port, "/test.Echo/Unary", "Content-Type: application/grpc-web+proto", body=message(b"abc"))
    assert (status, headers["content-type"]) == (200, "application/grpc-web+proto")
    answer, trailers = body[:11], body[11:]
    assert answer == message(b"abcabc")
    assert trailers[0] == 0x80
    assert int.from_bytes(trailers[1:5], "big") == len(trailers) - 5
    assert b"grpc-status:0\r\n" in trailers[5:]


@pytest.mark.parametrize("cut", [None, 1, 3, 5])
def test_grpc_web_in_text(mesh: Mesh, cut: int | None) -> None:
    """Base64 both ways, whatever pieces the request comes in."""
    sent = base64.b64encode(message(b"abcd"))
    with Client(mesh.port) as client:
        client.send(
            b"POST /test.Echo/Unary HTTP/1.1\r\nHost: mesh.test\r\nContent-Type: application/grpc-web-text\r\n"
            b"Accept: application/grpc-web-text\r\nContent-Length: %d\r\n\r\n" % len(sent),
        )
        for at in range(0, len(sent), cut or len(sent)):
            client.send(sent[at : at + (cut or len(sent))])
        answer = client.answer()
    assert {name.lower(): value for name, value in answer.headers}["content-type"] == "application/grpc-web-text+proto"
    decoded = b"".join(base64.b64decode(answer.body[at : at + 4]) for at in range(0, len(answer.body), 4))
    assert decoded.startswith(message(b"abcdabcd") + b"\x80")
    assert b"grpc-status:0\r\n" in decoded


def test_bad_base64_is_a_bad_request(mesh: Mesh) -> None:
    status, headers, _ = raw_call(mesh.port, "/test.Echo/Unary", "Content-Type: application/grpc-web-text", body=b"!!!!")
    assert (status, headers["grpc-status"]) == (200, "13")


# -- the bridge for HTTP/1.1


def test_a_http1_client_reads_the_status_in_the_head(mesh: Mesh) -> None:
    status, headers, body = raw_call(mesh.port, "/test.Echo/Unary", "Content-Type: application/grpc", "TE: trailers", body=message(b"ab"))
    assert (status, headers["grpc-status"], headers["content-length"], body) == (200, "0", "9", message(b"abab"))
    body = message(b"5 nothing here")
    status, headers, _ = raw_call(mesh.port, "/test.Echo/Fail", "Content-Type: application/grpc", "TE: trailers", body=body)
    assert headers["grpc-status"] == "5"


# -- metrics


def test_calls_are_counted_by_method(mesh: Mesh) -> None:
    raw_call(mesh.port, "/test.Echo/Unary", "Content-Type: application/grpc", "TE: trailers", body=message(b"ab"))
    raw_call(mesh.port, "/test.Echo/Fail", "Content-Type: application/grpc", "TE: trailers", body=message(b"5 nothing here"))
    assert mesh.counted("cluster.server.grpc.test.Echo.Unary.success") >= 1
    assert mesh.counted("cluster.server.grpc.test.Echo.Unary.request_message_count") >= 1
    assert mesh.counted("cluster.server.grpc.5") >= 1
