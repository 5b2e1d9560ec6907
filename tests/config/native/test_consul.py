"""The node's own Consul in native YAML: what is read, written and refused."""

from __future__ import annotations

import pytest

from meshproxy.config.envoy.write import to_data as to_envoy
from meshproxy.config.native.write import to_yaml
from meshproxy.config.plan import plan, text_of
from meshproxy.model import ConsulCatalog, ConsulNode, ConsulRegistration, ConsulServer, Snapshot, SocketAddress
from tests.config.native.test_discovery import read

LISTENERS = """
listeners:
- {name: in, address: "127.0.0.1:80", respond: 200}
- {name: pipe, address: "unix:/run/x.sock", respond: 200}
"""


def consul_of(consul: str, more: str = LISTENERS) -> ConsulNode:
    snapshot, errors = read(f"consul: {consul}\n{more}")
    assert errors == []
    assert read(to_yaml(snapshot))[0] == snapshot, "what is written reads the same"
    assert snapshot.consul is not None
    return snapshot.consul


def test_short_and_long_forms() -> None:
    server = ConsulServer(address=SocketAddress("consul.example", 8501))
    assert consul_of("'consul.example:8501'") == ConsulNode(server=server)
    assert consul_of("{register: web}") == ConsulNode(services=(ConsulRegistration(service="web", listener="in"),))
    web = "{service: web, id: a, tags: [x, y], meta: {v: 2, ok: true}, weight: 3}"
    assert consul_of(f"{{address: 'consul.example:8501', register: [{web}, {{service: b, port: 9}}]}}") == ConsulNode(
        server=server, services=(
            ConsulRegistration(service="web", listener="in", id="a", tags=("x", "y"), meta={"v": "2", "ok": "true"}, weight=3),
            ConsulRegistration(service="b", port=9),
        ),
    )  # fmt: skip
    checks = consul_of("{register: {service: web, check: [ready, tcp], interval: 2s}}", f"{LISTENERS}\nadmin: 127.0.0.1:1").services[0]
    assert (checks.checks, checks.interval_s) == (("ready", "tcp"), 2.0)


@pytest.mark.parametrize(
    ("register", "error"),
    [
        ("{service: web, listener: inn}", 'consul.register.listener: listener "inn" is not defined (did you mean "in"?)'),
        ("{service: web, listener: pipe}", 'consul.register.listener: listener "pipe" is a UNIX socket'),
        ("[web, web]", 'consul.register[1].id: two registrations of the node have the ID of "web"'),
        ("{service: web, check: ready}", "consul.register.check: ready: Consul needs an admin API on a TCP address"),
        ("{service: web, meta: {'a b': x}}", '"a b" is no key that Consul takes'),
        ("{service: web, meta: {a: [x]}}", "a list is given where a text of at most 512 characters is needed"),
        ("{service: web, check: http}", '"http" is none of: ttl, ready, tcp'),
        ("{service: web, interval: 10ms}", "out of range"),
        ("7", "7 is given where registration needs a service's name or a mapping"),
    ],
)
def test_what_is_refused(register: str, error: str) -> None:
    _, errors = read(f"consul: {{register: {register}}}\n{LISTENERS}")

    assert len(errors) == 1
    assert error in errors[0]


def test_there_must_be_a_port_to_tell() -> None:
    assert "no TCP listener whose port could be told" in read("consul: {register: web}")[1][0]


def test_a_plan_names_what_changes_and_no_token() -> None:
    texts = "{token: a, register: web}", "{token: b, register: [web, x]}"
    one, other = (read(f"consul: {text}\n{LISTENERS}")[0] for text in texts)
    text = text_of(plan(one, other))

    assert "change setting consul" in text
    assert "token" not in text
    assert "token" not in text_of(plan(Snapshot(), one))
    assert "consul register: Envoy registers itself nowhere" in to_envoy(one)[1]


def catalog_of(catalog: str, more: str = "") -> ConsulCatalog:
    listener = f"{{name: in, address: '127.0.0.1:80', catalog: {catalog}{more}}}"
    snapshot, errors = read(f"consul: 'c.example:8500'\nlisteners: [{listener}]\nclusters: {{base: []}}")
    assert errors == []
    assert read(to_yaml(snapshot))[0] == snapshot, "what is written reads the same"
    assert snapshot.route_tables[0].ignore_port_in_host
    assert 'route table "in": catalog: Envoy asks no Consul for routes' in to_envoy(snapshot)[1]
    catalog_made = snapshot.route_tables[0].catalog
    assert catalog_made is not None
    return catalog_made


def test_a_catalogue_beside_routes() -> None:
    server = ConsulServer(address=SocketAddress("c.example", 8500))
    assert catalog_of("'*.Service.consul'") == ConsulCatalog(domains=("{service}.service.consul",), server=server)
    made = catalog_of("{domain: ['{service}.mesh', 'x-{service}.mesh'], tag: a, exclude: [b*], like: base, timeout: 3s}", ", to: base")
    assert made == ConsulCatalog(
        domains=("{service}.mesh", "x-{service}.mesh"), tags=("a",), exclude=("b*",), like="base", timeout_s=3.0, server=server,
    )  # fmt: skip


def test_a_prefix_of_keys_is_not_asked_by_reading_text() -> None:
    _, errors = read("consul: {config: /mesh/}")
    assert "begins or ends with" in errors[0]


@pytest.mark.parametrize(
    ("catalog", "error"),
    [
        ("web.service.consul", "does not say where the service's name is"),
        ("'*.{service}.x'", "does not say where the service's name is"),
        ("{domain: '*.a b'}", "a character that no Host header has"),
        ("{like: bas}", 'cluster "bas" is not defined (did you mean "base"?)'),
        ("{tags: a}", 'catalog has no setting "tags" (did you mean "tag"?)'),
        ("'*.x', tcp: base", '"catalog" is for HTTP and "tcp" is given'),
    ],
)
def test_a_catalogue_that_is_refused(catalog: str, error: str) -> None:
    _, errors = read(f"listeners: [{{name: in, address: '127.0.0.1:80', catalog: {catalog}}}]\nclusters: {{base: []}}")

    assert error in errors[0]
