"""How control planes are asked over gRPC: whom, how again, what is told of it. What is said is in `tests/discovery/test_xds_*`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.server import StreamServer

from meshproxy.agent.xds import call
from meshproxy.agent.xds.client import node_message
from meshproxy.discovery.xds.hash import xxh64
from meshproxy.errors import ConfigError
from meshproxy.model import (
    Certificate,
    Cluster,
    Endpoint,
    Node,
    PeerValidation,
    PipeAddress,
    SanMatch,
    Secret,
    SocketAddress,
    StringMatch,
    TrustedCa,
    UpstreamTls,
)
from meshproxy.model.xds import Dynamic, GrpcService
from tests.agent.xds_scene import ADS, control_plane, grpc, said, scene, until
from tests.discovery.xds_conversations import response_of
from tests.peers.process import free_ports
from tests.peers.xds_server import XdsServer
from tests.support.certificates import Authority


@pytest.fixture
def server(tmp_path: Path) -> Iterator[XdsServer]:
    with XdsServer(tmp_path) as started:
        yield started


def test_resources_come_and_are_acknowledged(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        first = said(server, "CDS [] node")
        assert first.request.node.id == "vm-7"
        server.send(first.stream, response_of("CDS v=1 n=1 s1 s2", False))
        assert clusters.names() == ["s1", "s2"]
        said(server, "CDS [] v=1 n=1 node")

        assert node.plane.connected
        assert not node.plane.error


def test_numbers_are_counted_as_envoy_counts_them(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        stream = said(server, "CDS [] node").stream
        for line in ("CDS v=1 n=1 s1", "CDS v=2 n=2 s1 s2"):
            server.send(stream, response_of(line, False))
            said(server, f"CDS [] {line[4:11]} node")
        clusters.errors = {"s3": "it is bad"}
        server.send(stream, response_of("CDS v=3 n=3 s3", False))
        said(server, 'CDS [] v=2 n=3 node error="Error adding/updating cluster(s) s3: it is bad"')
        assert node.plane.refused == "CDS: Error adding/updating cluster(s) s3: it is bad"
        server.close(stream)
        said(server, "CDS [] v=2 node")

        counters = node.client.counters()
        assert {name.rpartition(".")[2]: value for name, value in counters.items() if name.startswith("cluster_manager.cds.")} == {
            "update_attempt": 5, "update_success": 2, "update_failure": 1, "update_rejected": 1, "init_fetch_timeout": 0,
        }
        gauges = until(lambda: gauges if (gauges := node.client.gauges())["control_plane.connected_state"] else None)
        assert gauges["cluster_manager.cds.version"] == xxh64(b"2") == 6927017134761466251
        assert node.client.version_texts()["cluster_manager.cds.version_text"] == "2"


def test_a_server_that_goes_is_told_and_asked_again(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        said(server, "CDS [] node")
        server.stop()
        until(lambda: clusters.failures)
        until(lambda: f"127.0.0.1:{server.port}" in node.plane.error)
        assert node.client.gauges()["control_plane.connected_state"] == 0
        server.listen()
        server.send(said(server, "CDS [] node").stream, response_of("CDS v=1 n=1 s1", False))

        assert clusters.names() == ["s1"]


def test_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    with XdsServer(tmp_path) as server:
        server.stop()
        with scene(control_plane(server.port)) as node:
            clusters = node.ask()
            until(lambda: len(clusters.failures) > 2)
            server.listen()
            said(server, "CDS [] node")


def test_endpoints_take_turns(server: XdsServer) -> None:
    with scene(control_plane(*free_ports(1), server.port)) as node:
        node.ask()
        said(server, "CDS [] node")


def test_the_next_service_is_tried(server: XdsServer) -> None:
    dead, plain = GrpcService(cluster="nobody"), GrpcService(target_uri=f"127.0.0.1:{server.port}", authority="plane.test")
    with scene(ads=grpc("grpc", dead, plain)) as node:
        clusters = node.ask()
        said(server, "CDS [] node")

        assert clusters.failures == ['there is no cluster "nobody"']


@pytest.mark.parametrize("form", ["{}", "dns:{}", "dns:///{}"])
def test_a_target_without_a_cluster(server: XdsServer, form: str) -> None:
    with scene(ads=grpc("grpc", GrpcService(target_uri=form.format(f"localhost:{server.port}")))) as node:
        node.ask()
        said(server, "CDS [] node")


def test_the_servers_name_is_resolved(server: XdsServer) -> None:
    by_name = Cluster(
        name="control_plane", discovery="strict_dns", dns_lookup_family="v4_only",
        endpoints=(Endpoint(address=SocketAddress("localhost", server.port)),),
    )
    with scene(by_name) as node:
        node.ask()
        said(server, "CDS [] node")


@pytest.mark.parametrize("form", ["", "unix:{}", "unix://{}"])
def test_a_unix_socket(tmp_path: Path, form: str) -> None:
    path = str(tmp_path / "xds.sock")
    service = GrpcService(target_uri=form.format(path)) if form else GrpcService(cluster="control_plane")
    with XdsServer(tmp_path, path=path) as server:
        clusters = () if form else (Cluster(name="control_plane", endpoints=(Endpoint(address=PipeAddress(path)),)),)
        with scene(*clusters, ads=grpc("grpc", service)) as node:
            node.ask()
            said(server, "CDS [] node")


def test_metadata_goes_with_the_stream(server: XdsServer) -> None:
    service = GrpcService(cluster="control_plane", initial_metadata=(("x-token", "t1"),))
    with scene(control_plane(server.port), ads=grpc("grpc", service)) as node:
        node.ask()

        assert said(server, "open StreamAggregatedResources").metadata["x-token"] == "t1"


def test_a_stream_for_each_kind(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        alone = node.ask("EDS", grpc("delta_grpc"), {"a"})
        said(server, "open DeltaEndpoints")
        stream = said(server, "EDS +[a] node").stream
        server.send(stream, response_of("EDS n=1 a@1", True))
        assert alone.names() == ["a"]
        alone.subscription.cancel()
        said(server, "end")

        assert node.client.planes() == []


def test_what_cannot_be_asked_is_refused_by_name() -> None:
    with scene(control_plane(1)) as node:
        with pytest.raises(ConfigError, match="VirtualHost cannot be asked for by grpc"):
            node.ask("VHDS", grpc())


def test_known_versions_are_told(server: XdsServer) -> None:
    with scene(control_plane(server.port), ads=grpc("delta_grpc")) as node:
        node.ask(known={"s1": "4"})
        said(server, "CDS known[s1=4] node")


def test_a_name_that_does_not_come_in_time(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        endpoints = node.ask("EDS", type(ADS)(kind="ads", initial_fetch_timeout_s=0.05), {"a", "b"})
        server.send(said(server, "EDS [a b] node").stream, response_of("EDS v=1 n=1 a", False))
        until(lambda: endpoints.missing)

        assert "b" in endpoints.missing


def test_a_second_subscription_has_at_once_what_the_first_has(server: XdsServer) -> None:
    with scene(control_plane(server.port), ads=grpc("delta_grpc")) as node:
        first = node.ask("EDS", ADS, {"a"})
        server.send(said(server, "EDS +[a] node").stream, response_of("EDS n=1 a@1", True))
        assert first.names() == ["a"]

        assert node.ask("EDS", ADS, {"a"}).names() == ["a"]


def test_a_reload_may_name_another_control_plane(server: XdsServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with XdsServer(tmp_path / "other") as other, scene(control_plane(server.port)) as node:
        clusters, endpoints = node.ask(), node.ask("EDS", ADS, {"a"})
        server.send(said(server, "EDS [a] node").stream, response_of("CDS v=1 n=1 s1", False))
        assert clusters.names() == ["s1"]
        node.view.by_name["other"] = control_plane(other.port)
        node.client.dynamic = Dynamic(ads=grpc("delta_grpc", GrpcService(cluster="other")))
        said(server, "end")
        stream = said(other, "CDS node").stream
        said(other, "EDS +[a] node")
        other.send(stream, response_of("CDS n=1 s2@1", True))
        until(lambda: clusters.names() == ["s2"])
        endpoints.subscription.set_names({"a", "b"})

        said(other, "EDS +[b] node")


# ---- servers that are none ----


def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with scene(control_plane(silent.getsockname()[1], connect_timeout_s=0.1)) as node:
            node.ask()
            until(lambda: node.plane.error == "no HTTP/2 connection within 0.1 s")


def test_a_server_that_speaks_something_else() -> None:
    def answer(link: gevent.socket.socket, address: object) -> None:
        link.recv(1000)
        link.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while link.recv(1000):
            pass
        link.close()

    other = StreamServer(("127.0.0.1", 0), answer)
    other.start()
    try:
        with scene(control_plane(other.server_port)) as node:
            clusters = node.ask()
            until(lambda: clusters.failures)
            assert clusters.failures[0] == "the server does not speak HTTP/2"
    finally:
        other.stop()


def test_bytes_that_are_no_message(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        server.send(said(server, "CDS [] node").stream, b"\xff\xff\xff")
        until(lambda: clusters.failures)
        assert "a message that is none came" in clusters.failures[0]
        said(server, "CDS [] node")


def test_a_message_that_is_too_large(server: XdsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "MOST_BYTES", 1000)
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        server.send(said(server, "CDS [] node").stream, bytes(2000))
        until(lambda: clusters.failures)

        assert "RESOURCE_EXHAUSTED" in clusters.failures[0]


def test_a_flood_waits_for_the_handler(server: XdsServer) -> None:
    """More messages than may wait are sent at once; all are handled, in order."""
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        stream = said(server, "CDS [] node").stream
        for number in range(100):
            server.send(stream, response_of(f"CDS v={number} n={number} s1@{number}", False))
        until(lambda: len(clusters.updates) == 100)

        assert [update.version for update in clusters.updates] == [str(number) for number in range(100)]


def test_a_handler_that_breaks_is_a_refusal(server: XdsServer) -> None:
    with scene(control_plane(server.port)) as node:
        clusters = node.ask()
        clusters.updates = None
        server.send(said(server, "CDS [] node").stream, response_of("CDS v=1 n=1 s1", False))
        until(lambda: "AttributeError" in node.plane.refused)


# ---- TLS ----


def trusting(authority: Authority, *sans: SanMatch, certificate: str = "", sni: str = "plane.test") -> UpstreamTls:
    return UpstreamTls(sni=sni, certificate=certificate, validation=PeerValidation(trusted_ca="ca", sans=sans))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secure(tmp_path: Path, authority: Authority) -> Iterator[XdsServer]:
    chain, key = authority.issue("plane.test", "spiffe://mesh/plane").write(tmp_path, "plane")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    with XdsServer(tmp_path, tls={"chain": str(chain), "key": str(key), "ca": str(ca)}) as server:
        yield server


def client_certificate(authority: Authority) -> Secret:
    issued = authority.issue("client.test")
    return Secret(name="mine", value=Certificate(chain_pem=issued.pem, key_pem=issued.key_pem()))


@pytest.mark.parametrize("san", [SanMatch("dns", StringMatch("exact", "plane.test")), SanMatch("uri", StringMatch("prefix", "spiffe://mesh/"))])
def test_tls_with_certificates_on_both_sides(secure: XdsServer, authority: Authority, san: SanMatch) -> None:
    with scene(control_plane(secure.port, tls=trusting(authority, san, certificate="mine"))) as node:
        node.view.of_files = [Secret(name="ca", value=TrustedCa(pem=authority.pem)), client_certificate(authority)]
        node.ask()
        said(secure, "CDS [] node")


def test_a_server_with_another_name_is_refused(secure: XdsServer, authority: Authority) -> None:
    san = SanMatch("dns", StringMatch("exact", "other.test"))
    with scene(control_plane(secure.port, connect_timeout_s=0.5, tls=trusting(authority, san, certificate="mine"))) as node:
        node.view.of_files = [Secret(name="ca", value=TrustedCa(pem=authority.pem)), client_certificate(authority)]
        node.ask()
        until(lambda: "dns plane.test, uri spiffe://mesh/plane" in node.plane.error)


def test_certificates_that_were_renewed_count_from_the_next_connection(secure: XdsServer, authority: Authority) -> None:
    with scene(control_plane(secure.port, connect_timeout_s=0.5, tls=trusting(authority, certificate="mine"))) as node:
        node.view.of_files = [Secret(name="ca", value=TrustedCa(pem=Authority("other").pem)), client_certificate(authority)]
        node.ask()
        until(lambda: "certificate verify failed" in node.plane.error)
        node.view.of_files[0] = Secret(name="ca", value=TrustedCa(pem=authority.pem))
        said(secure, "CDS [] node")


def test_a_secret_that_is_not_there_yet(secure: XdsServer, authority: Authority) -> None:
    with scene(control_plane(secure.port, connect_timeout_s=0.5, tls=trusting(authority))) as node:
        node.ask()
        until(lambda: 'secret "ca" is not there yet' in node.plane.error)


def test_the_node_says_who_it_is() -> None:
    told = node_message(Node(id="n", cluster="c", zone="z", metadata={"role": "web", "n": 3}))

    assert (told.id, told.cluster, told.locality.zone, told.metadata["role"]) == ("n", "c", "z", "web")
    assert told.user_agent_name == "meshproxy"
