"""TLS, TCP, several chains and HTTP/2 in native YAML: what short forms mean, and what is said about mistakes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshproxy.config.load import load_text
from meshproxy.config.native.chain import CHAIN, MATCH
from meshproxy.config.native.cluster import CLUSTER
from meshproxy.config.native.http import CLIENT_CERT_HEADER, HTTP2
from meshproxy.config.native.listener import LISTENER
from meshproxy.config.native.tls import DOWNSTREAM_TLS, UPSTREAM_TLS
from meshproxy.errors import ConfigError
from meshproxy.model import (
    ChainMatch,
    ClientCertHeader,
    Cluster,
    ConnectionLimit,
    DownstreamTls,
    Echo,
    GrpcStats,
    GrpcWeb,
    HeaderMatch,
    Http2Settings,
    HttpConnectionManager,
    HttpRbac,
    KeepAlive,
    Listener,
    LocalRateLimit,
    NetworkDirectResponse,
    NetworkRbac,
    OriginalDst,
    PathMatch,
    Policy,
    ProxyProtocol,
    RbacRules,
    Rule,
    SanMatch,
    SniCluster,
    StringMatch,
    TcpCluster,
    TcpProxy,
    TlsInspector,
    UpstreamTls,
)
from tests.support.certificates import Authority

AUTHORITY = Authority()
ISSUED = AUTHORITY.issue("a.example")
CERT = {"cert": {"inline": ISSUED.pem.decode()}, "key": {"inline": ISSUED.key_pem().decode()}}
CA = {"inline": AUTHORITY.pem.decode()}
CLUSTERS = {"a": [], "b": []}


def listener(**settings: Any) -> Listener:
    data = {"clusters": CLUSTERS, "listeners": [{"name": "l", "address": "127.0.0.1:1", **settings}]}
    return load_text(json.dumps(data), {}).snapshot.listeners[0]


def cluster(**settings: Any) -> Cluster:
    return load_text(json.dumps({"clusters": {"c": {"endpoints": "c.example:443", **settings}}}), {}).snapshot.clusters[0]


def problems(data: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_text(json.dumps(data), {}, "f.yaml")
    return [str(problem) for problem in refused.value.problems]


def of_listener(**settings: Any) -> list[str]:
    return problems({"clusters": CLUSTERS, "listeners": [{"name": "l", "address": "127.0.0.1:1", **settings}]})


# -- TLS with clients


@pytest.mark.parametrize(
    ("settings", "alpn"),
    [
        ({"to": "a"}, ("h2", "http/1.1")),
        ({"to": "a", "http": {"codec": "http1"}}, ("http/1.1",)),
        ({"to": "a", "http": {"codec": "http2"}}, ("h2",)),
        ({"tcp": "a"}, ()),
    ],
)
def test_what_a_client_is_offered(settings: dict[str, Any], alpn: tuple[str, ...]) -> None:
    assert listener(**settings, tls=CERT).chains[0].tls.alpn == alpn
    assert listener(**settings, tls={**CERT, "alpn": "x"}).chains[0].tls.alpn == ("x",)


def test_a_handshake_has_a_limit_unless_it_is_taken_away() -> None:
    def limit(**settings: Any) -> float:
        return listener(to="a", **settings).chains[0].connect_timeout_s

    assert (limit(tls=CERT), limit()) == (15.0, 0.0)
    assert limit(tls=CERT, handshake_timeout="2s") == 2.0
    assert limit(tls=CERT, handshake_timeout=0) == 0.0


def test_permissive_is_two_chains_and_an_inspector() -> None:
    made = listener(to="a", tls={**CERT, "mode": "permissive"})

    assert [chain.match.transport_protocol for chain in made.chains] == ["tls", "raw_buffer"]
    assert [chain.tls is None for chain in made.chains] == [False, True]
    assert made.chains[0].terminal == made.chains[1].terminal
    assert made.filters == (TlsInspector(),)


def test_a_secret_is_shared_by_who_names_the_same() -> None:
    data = {"listeners": [{"address": f"127.0.0.1:{port}", "respond": 200, "tls": CERT} for port in (1, 2)]}
    snapshot = load_text(json.dumps(data), {}).snapshot

    assert len(snapshot.secrets) == 1
    assert {item.chains[0].tls.certificates for item in snapshot.listeners} == {(snapshot.secrets[0].name,)}


def test_secrets_by_name() -> None:
    data = {
        "secrets": {"server": CERT, "roots": {"ca": CA}, "tickets": {"ticket_keys": {"inline": "k" * 80}}},
        "listeners": [
            {
                "address": "127.0.0.1:1",
                "respond": 200,
                "tls": {"certificates": "server", "client_ca": {"secret": "roots"}, "ticket_keys": {"secret": "tickets"}},
            }
        ],
        "clusters": {"c": {"endpoints": "c:1", "tls": {"ca": {"secret": "roots"}, "certificate": "server"}}},
    }
    snapshot = load_text(json.dumps(data), {}).snapshot
    tls = snapshot.listeners[0].chains[0].tls

    assert [secret.name for secret in snapshot.secrets] == ["roots", "server", "tickets"]
    assert (tls.certificates, tls.validation.trusted_ca, tls.ticket_keys) == (("server",), "roots", "tickets")
    assert snapshot.clusters[0].tls.certificate == "server"


@pytest.mark.parametrize(
    ("san", "made"),
    [
        ("a.example", SanMatch("dns", StringMatch("exact", "a.example"))),
        ("spiffe://x/y", SanMatch("uri", StringMatch("exact", "spiffe://x/y"))),
        ({"kind": "uri", "prefix": "spiffe://x/"}, SanMatch("uri", StringMatch("prefix", "spiffe://x/"))),
        ({"kind": "other_name", "exact": "u", "oid": "1.2"}, SanMatch("other_name", StringMatch("exact", "u"), "1.2")),
    ],
)
def test_names_of_clients(san: Any, made: SanMatch) -> None:
    assert listener(to="a", tls={**CERT, "client_ca": CA, "sans": san}).chains[0].tls.validation.sans == (made,)


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        ({}, "tls: there is no certificate"),
        ({**CERT, "require_client_cert": True}, "any certificate would do"),
        ({**CERT, "sans": "a"}, "names are looked at in a chain that was verified. Add \"client_ca\""),
        ({**CERT, "crl": CA}, "needs the CA. Add \"client_ca\""),
        ({**CERT, "min_version": "1.3", "max_version": "1.2"}, "the highest version 1.2 is below the lowest, 1.3"),
        ({**CERT, "ciphers": "ECDHE-RSA-AES128-GCM-SHA265"}, 'knows (did you mean "ECDHE-RSA-AES128-GCM-SHA256"?)'),
        ({**CERT, "ciphers": "TLS_AES_128_GCM_SHA256"}, "a cipher of TLS 1.3"),
        ({**CERT, "curves": "P-255"}, "\"P-255\" is no curve"),
        ({**CERT, "curves": "X25519MLKEM768"}, "is not supported yet"),
        ({**CERT, "signature_algorithms": "md5"}, "no signature algorithm"),
        ({**CERT, "spki_pins": "abc"}, "no base64 of a SHA-256"),
        ({**CERT, "cert_hashes": "ab:cd"}, "no SHA-256 in hexadecimal digits"),
        ({**CERT, "key_log": {"path": "/x", "local_ranges": "10.0.0.0/40"}}, "no range of addresses"),
        ({**CERT, "certificates": "nope"}, 'certificate "nope" is not defined'),
        ({**CERT, "client_ca": {"secret": "nope"}}, 'CA "nope" is not defined'),
        ({**CERT, "client_ca": {"inline": ""}}, "it is empty. Give CA certificates"),
        ({**CERT, "ticket_keys": {"inline": "k" * 80}, "session_tickets": False}, '"ticket_keys" are given'),
        ({"key": CERT["key"], "certificates": "nope"}, '"key" has no meaning without "cert"'),
    ],
)
def test_refused_tls(tls: dict[str, Any], words: str) -> None:
    told = of_listener(to="a", tls=tls)

    assert any(words in line and line.startswith("f.yaml:1: listeners[0].tls") for line in told), told


def test_a_secret_of_another_kind() -> None:
    data = {"secrets": {"roots": {"ca": CA}}, "listeners": [{"address": "127.0.0.1:1", "respond": 200, "tls": {"certificates": "roots"}}]}

    assert 'certificate "roots" is not defined' in problems(data)[0]


@pytest.mark.parametrize(("secret", "words"), [({}, "it has nothing"), ({**CERT, "ca": CA}, '"cert" and "ca" are both given')])
def test_refused_secrets(secret: dict[str, Any], words: str) -> None:
    assert words in problems({"secrets": {"s": secret}})[0]


# -- TLS with endpoints


def test_true_verifies_by_the_systems_cas_and_the_host_name() -> None:
    tls = cluster(tls=True).tls

    assert (tls.validation.trusted_ca, tls.auto_host_sni, tls.auto_san_validation) == ("system CA", True, True)


@pytest.mark.parametrize(
    ("tls", "made"),
    [
        ({"verify": False}, UpstreamTls(auto_host_sni=True)),
        ({"verify": False, "sni": "x"}, UpstreamTls(sni="x")),
        ({"verify": False, "auto_sni": True}, UpstreamTls(auto_sni=True)),
    ],
)
def test_upstream_tls(tls: dict[str, Any], made: UpstreamTls) -> None:
    assert cluster(tls=tls).tls == made


def test_names_or_pins_take_the_place_of_the_host_name() -> None:
    assert not cluster(tls={"sans": "other.example"}).tls.auto_san_validation
    pinned = cluster(tls={"cert_hashes": "ab" * 32}).tls
    assert (pinned.validation.trusted_ca, pinned.validation.hashes, pinned.auto_san_validation) == ("", (b"\xab" * 32,), False)


def test_an_endpoint_without_a_name_cannot_be_compared() -> None:
    loaded = load_text(json.dumps({"clusters": {"c": {"endpoints": "10.0.0.1:1", "tls": True}}}), {})
    named = load_text(json.dumps({"clusters": {"c": {"endpoints": {"address": "10.0.0.1:1", "hostname": "h"}, "tls": True}}}), {})

    assert [problem.path for problem in loaded.warnings] == ["clusters.c.tls"]
    assert named.warnings == []


@pytest.mark.parametrize(("protocol", "alpn"), [("http1", ()), ("http2", ("h2",)), ("auto", ("h2", "http/1.1")), ("downstream", ())])
def test_what_an_endpoint_is_offered(protocol: str, alpn: tuple[str, ...]) -> None:
    assert cluster(protocol=protocol, tls=True).tls.alpn == alpn


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "auto"}, "auto: the protocol is agreed on by TLS"),
        ({"tls": {"verify": False, "ca": CA}}, "verify is false"),
        ({"tls": {**CERT, "certificate": "x"}}, '"cert" and "certificate" are both given'),
        ({"tls": False}, "where tls needs true or a mapping"),
        ({"proxy_protocol": "v3"}, "none of: v1, v2"),
    ],
)
def test_refused_clusters(settings: dict[str, Any], words: str) -> None:
    told = problems({"clusters": {"c": {"endpoints": "c:1", **settings}}})

    assert any(words in line for line in told), told


# -- chains and what serves them


@pytest.mark.parametrize(
    ("settings", "terminal"),
    [
        ({"tcp": "a"}, TcpProxy(stat_prefix="l", clusters=(TcpCluster(name="a"),))),
        (
            {"tcp": {"cluster": {"a": 1, "b": 3}, "idle_timeout": 0, "stat_prefix": "t"}},
            TcpProxy(stat_prefix="t", clusters=(TcpCluster(name="a"), TcpCluster(name="b", weight=3)), idle_timeout_s=0.0),
        ),
        ({"echo": True}, Echo()),
        ({"send": "bye\n"}, NetworkDirectResponse(body=b"bye\n")),
        ({"send": {"base64": "/wA="}}, NetworkDirectResponse(body=b"\xff\x00")),
        ({"send": ""}, NetworkDirectResponse()),
    ],
)
def test_terminals(settings: dict[str, Any], terminal: object) -> None:
    assert listener(**settings).chains[0].terminal == terminal


def test_chains_by_name() -> None:
    made = listener(
        chains=[
            {"match": "A.example", "tls": CERT, "to": "a"},
            {"match": {"server_names": "*.b.example", "source_type": "external"}, "tcp": "b", "name": "b"},
        ],
        default_chain={"respond": 404},
    )

    assert [chain.match for chain in made.chains] == [
        ChainMatch(server_names=("a.example",)), ChainMatch(server_names=("*.b.example",), source_type="external"),
    ]
    assert made.filters == (TlsInspector(),)
    tables = [chain.terminal.route_table for chain in made.all_chains if isinstance(chain.terminal, HttpConnectionManager)]
    assert tables == ["l/0", "l/default"]


@pytest.mark.parametrize(
    ("settings", "filters"),
    [
        ({"proxy_protocol": True}, (ProxyProtocol(),)),
        ({"proxy_protocol": {"versions": 2, "pass_tlvs": "all"}}, (ProxyProtocol(versions=(2,), pass_tlvs=None),)),
        ({"listener_filters": ["proxy_protocol", {"tls_inspector": {"ja3": True}}]}, (ProxyProtocol(), TlsInspector(ja3=True))),
        ({"use_original_dst": True, "bind_to_port": False}, (OriginalDst(),)),
        ({"tls": {**CERT, "mode": "permissive"}, "proxy_protocol": True}, (ProxyProtocol(), TlsInspector())),
        ({"tls": {**CERT, "mode": "permissive"}, "listener_filters": []}, ()),
    ],
)
def test_listener_filters(settings: dict[str, Any], filters: tuple) -> None:
    assert listener(to="a", **settings).filters == filters


def test_connection_filters() -> None:
    made = listener(
        tcp="a",
        connection_filters=[
            {"connection_limit": 5},
            {"local_rate_limit": {"max_tokens": 3, "stat_prefix": "r"}},
            {
                "rbac": {
                    "rules": {
                        "action": "deny",
                        "policies": {
                            "p": {"who": [{"remote_ip": "10.0.0.1"}, {"authenticated": True}], "may": {"not": {"destination_port": [1, 9]}}}
                        },
                    }
                }
            },
            "sni_cluster",
        ],
    ).chains[0].filters
    policy = Policy(
        name="p",
        permissions=(Rule(kind="not", rules=(Rule(kind="destination_port", ports=(1, 9)),)),),
        principals=(Rule(kind="remote_ip", range="10.0.0.1/32"), Rule(kind="authenticated")),
    )

    assert made == (
        ConnectionLimit(stat_prefix="l", max_connections=5),
        LocalRateLimit(stat_prefix="r", max_tokens=3),
        NetworkRbac(stat_prefix="l", rules=RbacRules(action="deny", policies=(policy,))),
        SniCluster(),
    )


def test_the_nodes_access_log_is_of_all_chains_that_have_none() -> None:
    data = {
        "access_log": "stderr",
        "clusters": CLUSTERS,
        "listeners": [
            {
                "address": "127.0.0.1:1",
                "chains": [{"match": "a", "to": "a"}, {"tcp": "b", "access_log": []}],
                "default_chain": {"echo": True},
            }
        ],
    }
    made = load_text(json.dumps(data), {}).snapshot.listeners[0]

    assert [len(getattr(chain.terminal, "access_logs", ())) for chain in made.all_chains] == [1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, 'listener "l" has no routes'),
        ({"tcp": "a", "to": "a"}, '"to" and "tcp" are both given'),
        ({"tcp": "a", "http": {}}, '"http" is for HTTP and "tcp" is given'),
        ({"tcp": "nope"}, 'cluster "nope" is not defined'),
        ({"tcp": {"cluster": {"a": 0}}}, "0 is out of range"),
        ({"echo": True, "access_log": "stderr"}, '"echo" writes no access log'),
        ({"to": "a", "chains": [{"to": "b"}]}, '"to" is given beside chains'),
        ({"chains": [{"to": "a"}, {"to": "b"}]}, "filter chain 2 matches the same connections as filter chain 1"),
        ({"chains": [{"match": ["a", "b"], "to": "a"}, {"match": ["b", "c"], "to": "b"}]}, "filter chain 2 matches the same"),
        ({"chains": [{"name": "x", "match": "a", "to": "a"}, {"name": "x", "to": "b"}]}, 'filter chain "x" is there twice'),
        ({"chains": [{"match": "*", "to": "a"}]}, 'server name "*" has "*" inside'),
        ({"chains": [{"tls": {**CERT, "mode": "permissive"}, "to": "a"}]}, "mode: permissive makes two chains"),
        ({"to": "a", "connection_filters": "sni_cluster"}, 'sni_cluster picks the cluster of "tcp"'),
        ({"to": "a", "connection_filters": {"connection_limit": 0}}, "0 is out of range"),
        (
            {"to": "a", "connection_filters": {"rbac": {"rules": {"policies": {"p": {"who": {"any": True, "remote_ip": "::"}}}}}}},
            "give one condition",
        ),
        ({"to": "a", "proxy_protocol": True, "listener_filters": []}, '"proxy_protocol" and "listener_filters" are both given'),
        ({"to": "a", "filters": {"grpc_web": True, "python": "a:B"}}, "give one of"),
        ({"to": "a", "filters": "rbac"}, "rbac"),
        ({"to": "a", "filters": {"rbac": {"rules": {"policies": {"p": {"may": {"headers": {}}}}}}}}, "there is no condition in it"),
        ({"to": "a", "connection_filters": {"rbac": {"rules": {"policies": {"p": {"may": {"path": "/x"}}}}}}}, 'no setting "path"'),
        ({"to": "a", "filters": {"grpc_stats": {"methods": "x"}}}, '"x" is no gRPC method'),
        ({"to": "a", "http": {"http2": {"initial_stream_window": 10}}}, "out of range"),
    ],
)
def test_refused_listeners(settings: dict[str, Any], words: str) -> None:
    told = of_listener(**settings)

    assert any(words in line for line in told), told


def test_http2_and_grpc() -> None:
    made = listener(
        to="a",
        http={"codec": "http2", "http2": {"max_concurrent_streams": 9, "keep_alive": {"timeout": "1s", "interval": "5s"}},
              "client_cert_header": {"mode": "sanitize_set", "set": ["uri", "dns"]}},
        filters=["grpc_stats", "grpc_web", {"grpc_stats": {"methods": "a.B/C"}}],
    ).chains[0].terminal

    assert made.http2 == Http2Settings(max_concurrent_streams=9, keep_alive=KeepAlive(timeout_s=1.0, interval_s=5.0))
    assert made.client_cert_header == ClientCertHeader(mode="sanitize_set", uri=True, dns=True)
    assert made.filters == (GrpcStats(), GrpcWeb(), GrpcStats(methods=("a.B/C",)))


def test_who_may_do_what_over_http() -> None:
    who = [{"headers": {"X-A": "b", "x-c": True}}, {"not": {"remote_ip": "10.0.0.0/8"}}, {"methods": ["GET", "PUT"]}]
    rules = {"policies": {"p": {"may": {"path": {"prefix": "/x"}}, "who": who}}}
    made = listener(to="a", filters=[{"rbac": {"rules": rules, "stat_prefix": "s"}}])

    a = Rule(kind="header", header=HeaderMatch(name="x-a", string=StringMatch("exact", "b")))
    c = Rule(kind="header", header=HeaderMatch(name="x-c", present=True))
    outside = Rule(kind="not", rules=(Rule(kind="remote_ip", range="10.0.0.0/8"),))
    methods = Rule(kind="header", header=HeaderMatch(name=":method", string=StringMatch("regex", "GET|PUT")))
    path = Rule(kind="path", match=StringMatch("prefix", "/x"))
    policy = Policy(name="p", permissions=(path,), principals=(Rule(kind="all", rules=(a, c)), outside, methods))
    assert made.chains[0].terminal.filters == (HttpRbac(rules=RbacRules(policies=(policy,)), stat_prefix="s"),)


def test_upstream_http2_keeps_its_own_defaults() -> None:
    assert cluster(protocol="http2").http2 == Cluster(name="").http2
    assert cluster(protocol="http2", http2={"hpack_table": 0}).http2.max_concurrent_streams == Cluster(name="").http2.max_concurrent_streams


def test_routes_of_connect_and_grpc() -> None:
    data = {
        "clusters": CLUSTERS,
        "listeners": [
            {
                "address": "127.0.0.1:1",
                "routes": [
                    {"connect": True, "to": "a"},
                    {"to": "b", "grpc_timeout_max": 0, "max_stream_duration": "5s", "retry": {"on": "unavailable"}},
                ],
            }
        ],
    }
    connect, grpc = load_text(json.dumps(data), {}).snapshot.route_tables[0].virtual_hosts[0].routes

    assert connect.path == PathMatch("connect", "")
    assert (grpc.action.grpc_timeout_max_s, grpc.action.max_stream_duration_s, grpc.action.retry.on) == (0.0, 5.0, ("unavailable",))


# -- every field of the model has its setting


@pytest.mark.parametrize(
    ("section", "struct", "elsewhere"),
    [
        (MATCH, ChainMatch, set()),
        (HTTP2, Http2Settings, set()),
        (CLUSTER, Cluster, {"name", "sources"}),
        (LISTENER, Listener, set()),
        (DOWNSTREAM_TLS, DownstreamTls, {"params", "validation"}),
        (UPSTREAM_TLS, UpstreamTls, {"params", "validation"}),
    ],
)
def test_every_field_has_its_setting(section: Any, struct: Any, elsewhere: set[str]) -> None:
    """`elsewhere`: under another name, or spread over several settings."""
    assert set(struct.__struct_fields__) - {row.field for row in section.rows} == elsewhere


def test_a_chain_has_the_settings_of_a_listener() -> None:
    assert {row.name for row in CHAIN.rows} - {row.name for row in LISTENER.rows} == {"match"}
    assert {row.field for row in CLIENT_CERT_HEADER.rows} == {"mode", "set"}
