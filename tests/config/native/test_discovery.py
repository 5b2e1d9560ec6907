"""Sources of endpoints in native YAML: what is read, written and refused."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.config.document import parse
from meshproxy.config.envoy.write import to_data as to_envoy
from meshproxy.config.native.endpoint_list import parse as parse_endpoints
from meshproxy.config.native.read import read as read_document
from meshproxy.config.native.write import to_yaml
from meshproxy.config.plan import plan, text_of
from meshproxy.config.problems import Problems
from meshproxy.errors import ConfigError
from meshproxy.model import ConsulServer, ConsulService, DnsSrv, Endpoint, EndpointFiles, PipeAddress, Snapshot, SocketAddress
from meshproxy.model.cluster import without_tokens


def read(text: str) -> tuple[Snapshot, list[str]]:
    problems = Problems()
    snapshot = read_document(parse("mesh.yaml", text), {}, problems)
    return snapshot, [str(problem) for problem in problems.errors()]


def sources(discovery: str, top: str = "") -> tuple:
    snapshot, errors = read(f"{top}\nclusters: {{web: {{discovery: {discovery}}}}}")
    assert errors == []
    assert read(to_yaml(snapshot))[0] == snapshot, "what is written reads the same"
    assert snapshot.clusters[0].discovery == "found"
    return snapshot.clusters[0].sources


def test_short_and_long_forms() -> None:
    assert sources("{consul: web}") == (ConsulService(service="web"),)
    assert sources("{consul: {service: web, tag: v2}}") == (ConsulService(service="web", tags=("v2",)),)
    assert sources("{consul: {prepared_query: near, poll: 1s, near: _agent, checks: any}}") == (
        ConsulService(prepared_query="near", poll_s=1.0, near="_agent", checks="any"),
    )
    assert sources("{dns_srv: _web._tcp.example}") == (DnsSrv(name="_web._tcp.example"),)
    assert sources("{dns_srv: {name: _web._tcp, refresh: 1m, lookup_family: v4_only}}") == (
        DnsSrv(name="_web._tcp", refresh_s=60.0, lookup_family="v4_only"),
    )
    assert sources("{files: /etc/endpoints/*.yaml}") == (EndpointFiles(globs=("/etc/endpoints/*.yaml",)),)
    assert sources("[{consul: web}, {files: [/a/*, /b/*]}]") == (ConsulService(service="web"), EndpointFiles(globs=("/a/*", "/b/*")))


def test_the_nodes_consul_is_that_of_services_that_name_none() -> None:
    node = ConsulServer(address=SocketAddress("consul.example", 8501), scheme="https", token="t", ca_file="/ca.pem")
    top = "consul: {address: consul.example:8501, token: t, ca_file: /ca.pem}"
    other = ConsulServer(address=PipeAddress("/run/consul.sock"))

    assert sources("[{consul: web}, {consul: {service: web, server: 'unix:/run/consul.sock'}}]", top) == (
        ConsulService(service="web", server=node), ConsulService(service="web", server=other),
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("discovery: consul", 'mesh.yaml:4: clusters.web.discovery: "consul" is none of: static, strict_dns'),
        ("discovery: {consol: web}", 'has no setting "consol" (did you mean "consul"?)'),
        ("discovery: {consul: web, dns_srv: a.b}", "a source is one of consul, dns_srv, eds and files"),
        ("discovery: []", "the list is empty"),
        ("discovery: {}", "a source is one of"),
        ("discovery: {consul: {tag: v2}}", 'exactly one of "service" and "prepared_query" is needed'),
        ("discovery: {consul: {service: a, prepared_query: b}}", 'exactly one of "service" and "prepared_query" is needed'),
        ("discovery: {consul: {prepared_query: b, tag: c}}", "clusters.web.discovery.consul.tag: tag: a prepared query has its own"),
        ("discovery: {consul: {service: b, poll: 1s}}", "a service is watched, not polled"),
        ("discovery: {consul: {service: b, server: {token: a, token_file: /b}}}", '"token" and "token_file" are both given'),
        ("discovery: {consul: {service: b, server: {key_file: /b}}}", '"key_file" has no meaning without "cert_file"'),
        ("discovery: {consul: {service: b, server: {scheme: http, ca_file: /b}}}", '"ca_file" has no meaning with http'),
        ("discovery: {dns_srv: 'a b'}", '"a b" is no DNS name'),
        ("discovery: {files: a/*.yaml}", '"a/*.yaml" is not absolute'),
        ("discovery: [{files: /a}, {files: /a}]", "discovery[1]: this source is given twice"),
        ("discovery: {consul: web}\n    endpoints: 10.0.0.1:80", "clusters.web.endpoints: the endpoints are found by discovery"),
    ],
)
def test_mistakes_are_told_by_name_and_line(text: str, error: str) -> None:
    _, errors = read(f"# a comment\nclusters:\n  web:\n    {text}\n")

    assert any(error in each for each in errors), errors
    assert all(each.startswith("mesh.yaml:") for each in errors)


def test_envoys_form_has_no_such_source() -> None:
    snapshot, _ = read("clusters: {web: {discovery: [{consul: web}, {dns_srv: _a._b}, {files: /a}]}}")
    _, lost = to_envoy(snapshot)

    assert [each for each in lost if each.startswith('cluster "web" discovery: Envoy has no source')] == [
        f'cluster "web" discovery: Envoy has no source "{name}"' for name in ("consul web", "dns_srv _a._b", "files /a")
    ]


def test_a_token_is_shown_nowhere() -> None:
    snapshot, _ = read("consul: {token: hush}\nclusters: {web: {discovery: {consul: web}}}")
    other, _ = read("consul: {token: other}\nclusters: {web: {discovery: {consul: {service: web, near: n}}}}")

    assert "hush" not in repr(without_tokens(snapshot.clusters[0]))
    shown = text_of(plan(snapshot, other))
    assert "hush" not in shown
    assert "other" not in shown


@pytest.mark.parametrize("text", ["- 10.0.0.1:80\n", '["10.0.0.1:80"]', "endpoints: [10.0.0.1:80]", '{"endpoints": ["10.0.0.1:80"]}'])
def test_a_file_of_endpoints(text: str) -> None:
    assert parse_endpoints("a.yaml", text) == (Endpoint(address=SocketAddress("10.0.0.1", 80)),)
    assert parse_endpoints("a.yaml", "[]") == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "a.yaml: the file is empty"),
        ("- 10.0.0.1:80\n- web:80\n", 'a.yaml:2: [1]: "web:80" is a name'),
        ("7", "a list is needed"),
        ("a: [", "not valid YAML"), ("- {address: 10.0.0.1:80, wieght: 2}", "wieght"),
        ("{}", "a list is needed"), ("null", "a list is needed"),
    ],
)  # fmt: skip
def test_a_file_of_something_else(text: str, error: str) -> Any:
    with pytest.raises(ConfigError) as refused:
        parse_endpoints("a.yaml", text)

    assert error in str(refused.value)
