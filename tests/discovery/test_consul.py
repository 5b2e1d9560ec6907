"""Consul's own rules: which instances count, the index, tokens, TLS, servers that hang."""

from __future__ import annotations

import re
from contextlib import ExitStack
from email.message import Message
from pathlib import Path

import gevent
import pytest

from meshproxy.discovery import consul_client
from meshproxy.discovery.consul import ConsulSource, Pace, endpoints_of, next_index
from meshproxy.discovery.consul_client import Told
from meshproxy.discovery.consul_seats import Seats
from meshproxy.discovery.dns import V4, Found
from meshproxy.discovery.source import SourceError
from meshproxy.model import ConsulServer, ConsulService, Endpoint, PipeAddress, SocketAddress
from tests.discovery.stages import ConsulStage, Relay, watched
from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError
from tests.support.certificates import Authority


def server_of(port: int, **settings: object) -> ConsulServer:
    return ConsulServer(address=SocketAddress("127.0.0.1", port), **settings)


@pytest.mark.parametrize(
    ("index", "told", "then"),
    [(0, "7", 7), (7, "9", 9), (7, "7", 7), (9, "7", 0), (0, "0", 1), (1, "0", 0), (0, str(2**63), 2**63)],
)
def test_an_index_that_goes_back_is_forgotten(index: int, told: str, then: int) -> None:
    assert next_index(index, told) == then


@pytest.mark.parametrize("told", ["", "-1", "x", "1.5", "9" * 30, "٣"])
def test_what_is_no_index_is_refused(told: str) -> None:
    with pytest.raises(SourceError, match="no Consul"):
        next_index(0, told)


def test_a_catalogue_in_turmoil_is_asked_so_often() -> None:
    pace = Pace(0.0)

    assert [pace.wait_s(0.0) for _ in range(10)] == [0.0] * 10
    assert pace.wait_s(0.0) == pytest.approx(0.2)
    assert pace.wait_s(100.0) == 0.0


def row(*states: str, **service: object) -> dict:
    return {
        "Node": {"Address": "10.9.9.9"},
        "Service": {"Address": "10.0.0.1", "Port": 80, "Weights": {"Passing": 10, "Warning": 2}, **service},
        "Checks": [{"Status": state} for state in states],
    }


def made(body: object, headers: dict[str, str] | None = None, **settings: object) -> tuple[Endpoint, ...]:
    message = Message()
    for name, value in (headers or {}).items():
        message[name] = value
    named = settings if "prepared_query" in settings else {"service": "web", **settings}
    return endpoints_of(Told(body, message), ConsulService(**named), lambda host: {"a.test": ["10.0.0.7"], "b.test": []}.get(host, [host]))


def test_instances_become_endpoints() -> None:
    assert made([row("passing")]) == (Endpoint(address=SocketAddress("10.0.0.1", 80), weight=10),)
    assert made([row(Address="")])[0].address == SocketAddress("10.9.9.9", 80), "the node's, where a service has none of its own"
    assert made([row(Address="a.test")]) == (Endpoint(address=SocketAddress("10.0.0.7", 80), weight=10, hostname="a.test"),)
    assert made([row(Address="b.test")]) == ()
    assert made([row(Port=0)]) == ()
    assert made([row(Weights=None)])[0].weight == made([row(Weights={"Passing": 0})])[0].weight == 1
    assert [str(each.address) for each in made([row(Port=9), row(Port=10), row(Port=9)])] == ["10.0.0.1:10", "10.0.0.1:9"]
    assert [each.address.port for each in made([row(Port=9), row(Port=10)], near="_agent")] == [9, 10], "nearest first"
    assert made({"Nodes": [row()]}, prepared_query="q")[0].address.port == 80


@pytest.mark.parametrize(
    ("states", "rule", "weight", "healthy"),
    [
        ((), "passing", 10, True), (("warning",), "passing", 0, True), (("critical",), "passing", 0, True),
        (("passing", "warning"), "warning", 2, True), (("warning", "critical"), "warning", 0, True),
        (("critical",), "any", 10, False), (("passing",), "any", 10, True), (("maintenance",), "warning", 0, True),
    ],
)  # fmt: skip
def test_checks_decide(states: tuple[str, ...], rule: str, weight: int, healthy: bool) -> None:
    found = made([row(*states)], checks=rule)

    assert [(each.weight, each.healthy) for each in found] == ([(weight, healthy)] if weight else [])


@pytest.mark.parametrize(
    "body",
    [None, 7, {}, "x", [None], [7], [{}], [{"Service": None}], [{"Service": {"Address": "x"}}], [row(Port="x")],
     [row(Port=99999)], [row(Port=-1)], [row(Weights=[1])], [row(Weights={"Passing": "x"})], [{**row(), "Checks": 7}],
     [{**row(), "Checks": [7]}], [row(Address=""), {"Service": {}}]],
)
def test_an_answer_of_another_shape_is_refused(body: object) -> None:
    with pytest.raises(SourceError):
        made(body)


def test_tags_weights_and_checks_of_a_real_catalogue(consul: Consul) -> None:
    consul.register("tagged", 8001, Tags=["v1", "eu"], Weights={"Passing": 7, "Warning": 1})
    consul.register("tagged", 8002, Tags=["v2", "eu"])
    consul.register("tagged", 8003, Tags=["v2", "eu"], Check={"TTL": "60s", "Status": "critical"})
    consul.register("tagged", 8004, Tags=["v2", "us"])

    for settings, ports in (
        ({}, [8001, 8002, 8004]), ({"tags": ("v2",)}, [8002, 8004]), ({"tags": ("v2", "eu")}, [8002]),
        ({"checks": "any"}, [8001, 8002, 8003, 8004]),
        ({"consistency": "stale", "datacenter": "dc1", "near": "_agent", "tags": ("v1",)}, [8001]),
        ({"consistency": "consistent", "tags": ("v1",)}, [8001]),
    ):  # fmt: skip
        with watched(ConsulSource(ConsulService(service="tagged", server=server_of(consul.port), **settings))) as (heard, _):
            assert heard.next_set() == [f"127.0.0.1:{port}" for port in ports], settings
            assert {each.weight for each in heard.last if each.address.port == 8001} <= {7}
            assert [each.address.port for each in heard.last if not each.healthy] == ([8003] if settings.get("checks") else [])


def test_an_unknown_datacenter_is_a_failure(consul: Consul) -> None:
    with watched(ConsulSource(ConsulService(service="web", server=server_of(consul.port), datacenter="dc9"))) as (heard, _):
        assert "500" in heard.next_error()


def test_a_prepared_query_is_polled(consul: Consul) -> None:
    consul.ask("POST", "/v1/query", {"Name": "near-web", "Service": {"Service": "queried", "OnlyPassing": True}})
    source = ConsulSource(ConsulService(prepared_query="near-web", server=server_of(consul.port)))
    with watched(source) as (heard, clock):
        assert heard.next_set() == []
        consul.register("queried", 8001)
        assert heard.next_set() == ["127.0.0.1:8001"]
        assert set(clock.slept) == {5.0}


def test_a_server_by_its_name_and_through_a_unix_socket_that_is_not_there(consul: Consul) -> None:
    named = ConsulServer(address=SocketAddress("localhost", consul.port))
    with watched(ConsulSource(ConsulService(service="nobody", server=named))) as (heard, _):
        assert heard.next_set() == []
    gone = ConsulServer(address=PipeAddress("/nowhere/consul.sock"))
    with watched(ConsulSource(ConsulService(service="web", server=gone))) as (heard, _):
        assert "/nowhere/consul.sock" in heard.next_error()


def test_a_host_that_cannot_be_looked_up_has_the_addresses_that_it_had(consul: Consul) -> None:
    answers: dict[str, list[str] | OSError] = {"a.test": ["10.0.0.7"]}

    def lookup(host: str, family: int) -> Found:
        answer = answers[host]
        if isinstance(answer, OSError):
            raise answer
        return Found(answer if family == V4 else [])

    source = ConsulSource(ConsulService(service="named", server=server_of(consul.port)))
    source._lookup = lookup
    consul.register("named", 8001, Address="a.test")
    with watched(source) as (heard, _):
        assert heard.next_set() == ["10.0.0.7:8001"]
        answers["a.test"] = OSError("no name server")
        consul.register("named", 8002)
        while (found := heard.next_set()) != ["10.0.0.7:8001", "127.0.0.1:8002"]:
            assert "10.0.0.7:8001" in found
        answers["a.test"] = []
        consul.deregister("named-8002")
        while heard.next_set():
            pass
    consul.deregister("named-8001")


# ---- servers that are not well ----


@pytest.mark.parametrize("status", ["403 Forbidden", "429 Too Many Requests", "500 Internal Server Error", "301 Moved", "204 No Content"])
def test_a_status_is_told_and_waited_out(consul: Consul, status: str) -> None:
    stage = ConsulStage(consul)
    stage.set(8001)
    stage.relay.answer = f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nsorry".encode()
    with watched(stage.source) as (heard, clock):
        errors = [heard.next_error() for _ in range(7)]
        stage.mend()
        assert heard.next_set() == ["127.0.0.1:8001"]

    stage.close()
    assert all(status[:3] in error for error in errors)
    assert clock.slept[:7] == [0.75, 1.5, 3.0, 6.0, 12.0, 22.5, 22.5], "doubled, with chance, up to a bound"


@pytest.mark.parametrize(
    "answer",
    [b"\x00\x01garbage", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 2\r\n\r\n{}",
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n[]",
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500,
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 1\r\n\r\n" + b"[" * 9,
     b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\n\r\n" + b"[" * 200_000, b"A" * 200_000],
)
def test_nonsense_is_a_failure_and_nothing_more(answer: bytes) -> None:
    relay = Relay(0)
    relay.answer = answer
    with watched(ConsulSource(ConsulService(service="web", server=server_of(relay.port)))) as (heard, _):
        for _ in range(3):
            assert heard.next_error()
        assert heard.sets.empty()
    relay.close()


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_client, "CONNECT_LIMIT_S", 0.02)
    monkeypatch.setattr(consul_client, "GRACE_S", 0.02)
    relay = Relay(0)
    relay.answer = b""
    with watched(ConsulSource(ConsulService(service="web", server=server_of(relay.port)))) as (heard, _):
        assert "no answer within" in heard.next_error()
        assert "no answer within" in heard.next_error()
    relay.close()


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(consul: Consul) -> None:
    stage = ConsulStage(consul)
    stage.set(8001)
    with watched(stage.source) as (heard, _):
        heard.next_set()
        stage.relay.cut()
        stage.set(8001, 8002)
        assert heard.next_set() == ["127.0.0.1:8001", "127.0.0.1:8002"]
        assert heard.errors.empty()
    stage.close()


# ---- ACLs and TLS ----


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory):
    try:
        server = Consul(tmp_path_factory.mktemp("guarded"), acl=True)
    except PeerMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


def test_tokens_from_a_file_and_none_at_all(guarded: Consul, tmp_path: Path) -> None:
    guarded.register("web", 8001)
    file = tmp_path / "token"
    file.write_text("00000000-0000-0000-0000-00000000dead\n")
    server = server_of(guarded.port, token_file=str(file))
    with watched(ConsulSource(ConsulService(service="web", server=server))) as (heard, _):
        assert "403 ACL not found" in heard.next_error()
        file.write_text(Consul.MANAGEMENT + "\n")
        assert heard.next_set() == ["127.0.0.1:8001"]
    with watched(ConsulSource(ConsulService(service="web", server=server_of(guarded.port, token=Consul.MANAGEMENT)))) as (heard, _):
        assert heard.next_set() == ["127.0.0.1:8001"]
    weak = guarded.ask("PUT", "/v1/acl/token", {"Description": "may nothing"})["SecretID"]
    with watched(ConsulSource(ConsulService(service="web", server=server_of(guarded.port, token=weak)))) as (heard, _):
        assert "hidden by ACLs" in heard.next_error(), "what may not be seen is not what is not there"
    with watched(ConsulSource(ConsulService(service="web", server=server_of(guarded.port, token_file="/nowhere/token")))) as (heard, _):
        assert "/nowhere/token" in heard.next_error()


def test_tls_on_both_sides(tmp_path: Path) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    cert, key = authority.issue("consul.test", "127.0.0.1").write(tmp_path, "server")
    client_cert, client_key = authority.issue("client.test").write(tmp_path, "client")
    try:
        server = Consul(tmp_path / "consul", tls=(ca, cert, key))
    except PeerMissingError as error:
        pytest.skip(str(error))
    mine = {"cert_file": str(client_cert), "key_file": str(client_key)}
    good = {"scheme": "https", "ca_file": str(ca), **mine}
    with server:
        server.register("web", 8001)
        for settings in (good, {**good, "server_name": "consul.test"}):
            with watched(ConsulSource(ConsulService(service="web", server=server_of(server.https_port, **settings)))) as (heard, _):
                assert heard.next_set() == ["127.0.0.1:8001"]
        for settings, error in (
            ({**good, "ca_file": ""}, "certificate verify failed"), ({**good, "server_name": "other.test"}, "certificate verify failed"),
            ({**good, "cert_file": "", "key_file": ""}, "certificate required|bad certificate|EOF|reset|alert"),
            ({**good, "ca_file": "/nowhere/ca"}, "No such file"), ({**good, "scheme": "http"}, "400"),
        ):  # fmt: skip
            with watched(ConsulSource(ConsulService(service="web", server=server_of(server.https_port, **settings)))) as (heard, _):
                assert re.search(error, heard.next_error()), settings


def test_more_services_than_connections_take_turns(consul: Consul) -> None:
    relay, seats, names = Relay(consul.port), Seats(3), [f"crowd-{number}" for number in range(12)]
    try:
        for number, name in enumerate(names):
            consul.register(name, 9000 + number)
        with ExitStack() as stack:
            every = [
                stack.enter_context(watched(ConsulSource(ConsulService(service=name, server=server_of(relay.port)), seats=seats)))[0]
                for name in names
            ]
            for number, heard in enumerate(every):
                assert heard.next_set() == [f"127.0.0.1:{9000 + number}"]
            consul.register(names[7], 9100)
            assert every[7].next_set() == ["127.0.0.1:9007", "127.0.0.1:9100"]
            assert all(heard.errors.empty() for heard in every)
            while relay.links > 3:  # those that are closed go as the relay gets to them
                gevent.sleep(0.01)
    finally:
        relay.close()
