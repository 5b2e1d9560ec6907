"""Control planes in native YAML: what is read, written and refused, and the same in Envoy's form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshproxy.config import document
from meshproxy.config.envoy import bootstrap
from meshproxy.config.envoy.write import to_data as to_envoy
from meshproxy.config.native import read as native
from meshproxy.config.native import write
from meshproxy.config.problems import Problems
from meshproxy.model import Cluster, ConfigSource, Dynamic, EdsSource, Endpoint, GrpcService, Snapshot, SocketAddress

NODE = "node: {id: n, cluster: c}\n"
ADS = ConfigSource(kind="delta_grpc", services=(GrpcService(cluster="xds"),))
BY_ADS = ConfigSource()


def read(text: str) -> tuple[Snapshot, Problems]:
    """Without the rule that keeps control planes out of a node."""
    problems = Problems()
    return native.read(document.parse("f.yaml", text), {}, problems), problems


def accepted(text: str) -> Snapshot:
    snapshot, problems = read(text)
    assert [str(problem) for problem in problems.errors()] == []
    return snapshot


def test_an_address_is_enough() -> None:
    snapshot = accepted(NODE + "xds: consul.example:8502")

    assert snapshot.dynamic == Dynamic(ads=ADS, cds=BY_ADS, lds=BY_ADS)
    endpoint = Endpoint(address=SocketAddress("consul.example", 8502))
    assert snapshot.clusters == (Cluster(name="xds", discovery="strict_dns", endpoints=(endpoint,), protocol="http2"),)


def test_all_of_it() -> None:
    snapshot = accepted(NODE + """
xds:
  server: [10.0.0.1:8502, 10.0.0.2:8502]
  tls: {sni: consul.example}
  delta: false
  metadata: {x-consul-token: secret, X-Many: [a, b]}
  authority: consul
  connect_timeout: 3s
  node_once: true
  rate_limit: 5
  rate_limit_per_second: 2.5
  clusters: {fetch_timeout: 0s}
  listeners: false
""")

    (service,) = snapshot.dynamic.ads.services
    assert service.initial_metadata == (("x-consul-token", "secret"), ("x-many", "a"), ("x-many", "b"))
    assert (snapshot.dynamic.ads.kind, service.authority, service.timeout_s) == ("grpc", "consul", 3.0)
    assert (snapshot.dynamic.ads.rate_limit_tokens, snapshot.dynamic.ads.rate_limit_per_s) == (5, 2.5)
    assert snapshot.dynamic.cds == ConfigSource(initial_fetch_timeout_s=0.0)
    assert snapshot.dynamic.lds is None
    assert (snapshot.clusters[0].tls.sni, snapshot.clusters[0].tls.alpn) == ("consul.example", ("h2",))


def test_what_a_cluster_a_listener_and_a_secret_ask() -> None:
    snapshot = accepted(NODE + """
xds: 10.0.0.1:8502
clusters:
  own: {endpoints: 10.0.0.9:1, protocol: http2}
  plain: {discovery: {eds: {}}}
  named: {discovery: {eds: s}}
  else: {discovery: {eds: {from: {cluster: own, delta: false}}}, keep_last: 1h, debounce: 100ms}
listeners:
- {address: 127.0.0.1:1, rds: r}
- {address: 127.0.0.1:2, rds: {name: q, from: {fetch_timeout: 0s}}, tls: {certificates: [web]}}
secrets: {web: {sds: default}, root: {sds: {}}}
""")

    clusters = {cluster.name: cluster for cluster in snapshot.clusters}
    assert [clusters["plain"].sources, clusters["named"].sources] == [(EdsSource(),), (EdsSource(service="s"),)]
    assert (clusters["plain"].keep_last_s, clusters["plain"].debounce_s) == (0.0, 0.0)
    assert (clusters["else"].keep_last_s, clusters["else"].debounce_s) == (3600.0, 0.1)
    assert clusters["else"].sources[0].source == ConfigSource(kind="grpc", services=(GrpcService(cluster="own"),))
    assert [(each.chains[0].terminal.route_table, each.chains[0].terminal.rds) for each in snapshot.listeners] == [
        ("r", BY_ADS), ("q", ConfigSource(initial_fetch_timeout_s=0.0)),
    ]
    secrets = [(secret.name, secret.sds_name, secret.source) for secret in snapshot.secrets]
    assert secrets == [("root", "root", BY_ADS), ("web", "default", BY_ADS)]


WRITTEN = {
    "an address": "xds: consul.example:8502",
    "addresses": "xds: {server: [10.0.0.1:1, 10.0.0.2:1], delta: false}",
    "tls": "xds: {server: 10.0.0.1:1, tls: {sni: a.example}, metadata: {x: [a, b]}, node_once: true, listeners: false}",
    "a cluster": "xds: {cluster: own, clusters: {fetch_timeout: 0s}}\nclusters: {own: {endpoints: 10.0.0.1:1, protocol: http2}}",
    "a cluster of that name that says more":
    "xds: {cluster: xds}\nclusters: {xds: {endpoints: 10.0.0.1:1, protocol: http2, tcp_keepalive: true}}",
    "a target": "xds: {target: 'dns:///a:1'}",
    "without a stream": "xds: {clusters: {rest: true, cluster: own, refresh: 2s, request_timeout: 3s}}\nclusters: {own: 10.0.0.1:1}",
    "endpoints": "xds: 10.0.0.1:1\nclusters: {a: {discovery: {eds: {}}}, b: {discovery: {eds: {service: s, from: {fetch_timeout: 9s}}}}}",
    "routes": "xds: 10.0.0.1:1\nlisteners: [{address: '127.0.0.1:1', rds: r}, {address: '127.0.0.1:2', rds: {name: r, from: ads}}]",
    "a secret": "xds: 10.0.0.1:1\nsecrets: {default by ads: {sds: default}}\n"
    "listeners: [{address: '127.0.0.1:1', rds: r, tls: {certificates: [default by ads]}}]",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_reads_the_same(name: str) -> None:
    snapshot = accepted(NODE + WRITTEN[name])

    assert accepted(write.to_yaml(snapshot)) == snapshot


@pytest.mark.parametrize("name", WRITTEN)
def test_envoys_form_says_the_same(name: str) -> None:
    snapshot = accepted(NODE + WRITTEN[name])
    data, lost = to_envoy(snapshot)
    problems = Problems()
    again = bootstrap.read(document.parse("boot.json", json.dumps(data)), {}, problems)

    assert (problems.errors(), lost) == ([], [])
    assert again == snapshot


def test_short_forms_are_written() -> None:
    text = "clusters:\n  web:\n    discovery:\n      eds: web\nxds: consul.example:8502\nnode:\n  id: n\n  cluster: c\n"

    assert write.to_yaml(accepted(text)) == text


def test_beside_other_sources() -> None:
    found = accepted(NODE + "xds: 10.0.0.1:1\nclusters: {web: {discovery: [{eds: web}, {files: /x/*}]}}").clusters[0]

    assert [type(source).__name__ for source in found.sources] == ["EdsSource", "EndpointFiles"]


REFUSED: dict[str, tuple[str, str, str]] = {
    # name: (text, path, words)
    "nobody": ("xds: {}", "xds", "nobody is named"),
    "two": ("xds: {server: '10.0.0.1:1', cluster: a}", "xds.cluster", "both given"),
    "tls of a cluster": ("xds: {cluster: a, tls: true}\nclusters: {a: '10.0.0.1:1'}", "xds.tls", 'for "server"'),
    "unknown cluster": ("xds: {cluster: nope}", "xds.cluster", '"nope" is not defined'),
    "a cluster that is asked for": (
        "xds: {cluster: a}\nclusters: {a: {discovery: {eds: {}}}}", "xds.cluster", '"a" is not defined'
    ),
    "no stream": ("clusters: {a: {discovery: {eds: {}}}}", "clusters.a.discovery.eds", 'Add "xds"'),
    "a stream for nothing": ("xds: {clusters: true}", "xds.clusters", 'Add "xds"'),
    "polls without a pause": (
        "xds: {clusters: {rest: true, cluster: a}}\nclusters: {a: '10.0.0.1:1'}", "xds.clusters", '"refresh" is missing'
    ),
    "a pause without polls": ("xds: {server: '10.0.0.1:1', clusters: {refresh: 1s}}", "xds.clusters", "for rest: true"),
    "polls of a target": ("xds: {clusters: {rest: true, target: a, refresh: 1s}}", "xds.clusters.target", "rest needs a cluster"),
    "a file and a cluster": ("xds: {clusters: {path: /x, cluster: a}}", "xds.clusters", "both given"),
    "a relative file": ("xds: {clusters: {path: x}}", "xds.clusters.path", "not absolute"),
    "a token that is none": ("xds: {server: '10.0.0.1:1', metadata: {a: 1}}", "xds.metadata.a", "is no text"),
    "routes beside": ("xds: '10.0.0.1:1'\nlisteners: [{address: '127.0.0.1:1', rds: r, respond: 200}]", "listeners[0].rds", "Keep one"),
    "files beside": ("xds: '10.0.0.1:1'\nsecrets: {a: {sds: b, ca: system}}", "secrets.a.sds", "Keep one"),
    "a second cluster of that name": ("xds: '10.0.0.1:1'\nclusters: {xds: '10.0.0.1:2'}", "xds", "defined twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, path, words = REFUSED[name]
    problems = read(NODE + text)[1].errors()
    told = [problem for problem in problems if words in problem.message]

    assert told, [str(problem) for problem in problems]
    assert told[0].path.startswith(path)


def test_a_control_plane_wants_to_know_who_asks() -> None:
    assert "Set both under node" in str(read("xds: 10.0.0.1:1")[1].errors()[0])


PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "xds.md"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_an_example_of_the_documentation(example: str) -> None:
    assert accepted(example.replace("${CONSUL_TOKEN:-}", "")).dynamic.ads is not None
