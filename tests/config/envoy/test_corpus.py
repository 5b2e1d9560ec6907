"""Envoy's own examples: what is accepted of them, and what each of the others is refused for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meshproxy.config.load import load_with_warnings
from meshproxy.errors import ConfigError

CORPUS = Path(__file__).resolve().parents[4] / "shared" / "corpus"
EXAMPLES = CORPUS / "envoy-examples"

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="the corpus of Envoy's examples is not beside the checkout (../shared/corpus)"
)

ACCEPTED: set[str] = {
    "csrf__crosssite__envoy",
    "double-proxy__envoy-backend",
    "double-proxy__envoy-frontend",
    "double-proxy__envoy",
    "dynamic-config-cp__envoy",
    "dynamic-config-fs__envoy",
    "front-proxy__envoy",
    "front-proxy__service-envoy-2",
    "front-proxy__service-envoy",
    "grpc-bridge__server__envoy-proxy",
    "jaeger-tracing__envoy",
    "jaeger-tracing__service1-envoy-jaeger",
    "jaeger-tracing__service2-envoy-jaeger",
    "tls-inspector__envoy",
    "tls-sni__envoy-client",
    "tls-sni__envoy",
    "tls__envoy-http-https",
    "tls__envoy-https-http",
    "tls__envoy-https-https",
    "tls__envoy-https-passthrough",
    "websocket__envoy-ws-route",
    "websocket__envoy-ws",
    "websocket__envoy-wss-passthrough",
    "websocket__envoy-wss",
    "zipkin__envoy-1",
    "zipkin__envoy-2",
}
REFUSED: dict[str, set[str]] = {
    "brotli__envoy": {"Compressor"},
    "cache__envoy": {"CacheConfig"},
    "cors__backend__envoy": {"Cors", "typed_per_filter_config"},
    "cors__frontend__envoy": {"Cors"},
    "csrf__samesite__envoy": {"Cors", "CsrfPolicy", "typed_per_filter_config"},
    "datadog-tracing__envoy": {"DatadogConfig", "HealthCheck"},
    "ext_authz__config__grpc-service__v3": {"ExtAuthz"},
    "ext_authz__config__http-service": {"ExtAuthz"},
    "ext_authz__config__opa-service__v3": {"ExtAuthz"},
    "fault-injection__envoy": {"HTTPFault", "disk_layer"},
    "golang-http__envoy": {"Config"},
    "golang-network__envoy": {"Config", "lb_policy CLUSTER_PROVIDED", "type: ORIGINAL_DST"},
    "grpc-bridge__client__envoy-proxy": {"type: LOGICAL_DNS"},
    "gzip__envoy": {"Compressor", "Decompressor"},
    "kafka-mesh__envoy": {"KafkaBroker", "KafkaMesh"},
    "kafka__envoy": {"KafkaBroker"},
    "load-reporting-service__envoy": {"load_stats_config"},
    "local_ratelimit__envoy": {"LocalRateLimit"},
    "locality-load-balancing__envoy": {"health_checks", "locality_weighted_lb_config", "priority: 1", "priority: 2"},
    "lua-cluster-specifier__envoy": {"inline_cluster_specifier_plugin"},
    "lua__envoy": {"Lua", "typed_per_filter_config"},
    "mysql__envoy": {"MySQLProxy"},
    "opentelemetry__envoy-1": {"grpc_service"},
    "opentelemetry__envoy-2": {"grpc_service"},
    "opentelemetry__envoy-front-proxy": {"grpc_service"},
    "postgres__envoy": {"PostgresProxy"},
    "rbac__envoy": {"matcher"},
    "redis__envoy": {"RedisProxy", "lb_policy MAGLEV"},
    "route-mirror__envoy": {"request_mirror_policies"},
    "single-page-app__envoy": {"Compressor", "OAuth2", "type: LOGICAL_DNS"},
    "skywalking__envoy-1": {"SkyWalkingConfig", "start_child_span: true"},
    "skywalking__envoy-2": {"SkyWalkingConfig", "start_child_span: true"},
    "skywalking__envoy-front-proxy": {"SkyWalkingConfig", "start_child_span: true"},
    "udp__envoy": {
        "UdpProxyConfig",
        'listener "listener_0" has no filter chain. Add one with an HttpConnectionManager or a TcpProxy.',
        "protocol: UDP",
    },
    "wasm-cc__envoy": {"Wasm", "http_filters"},
    "zipkin__envoy-front-proxy": {
        'the operator %REQ(x-b3-traceid)% in header value "%REQ(x-b3-traceid)%" is not supported yet. Write plain text.',
        'the operator %REQ(x-request-id)% in header value "%REQ(x-request-id)%" is not supported yet. Write plain text.',
    },
    "zstd__envoy": {"Compressor"},
}
"""The last name of each type or field that is refused."""


def index() -> list[dict]:
    return json.loads((EXAMPLES / "index.json").read_text())["files"] if EXAMPLES.is_dir() else []


def verdict(file: str) -> set[str]:
    """Empty for accepted; else the things refused by name, or the whole problem where it is another kind."""
    try:
        load_with_warnings(file, {})
    except ConfigError as error:
        return {_short(problem.message) for problem in error.problems}
    return set()


def _short(message: str) -> str:
    found = re.search(r'([\w.@: ]+?)"? is (?:not supported yet|no type of Envoy)', message.replace("/", "."))
    return found[1].split(".")[-1].strip() if found else message


@pytest.mark.parametrize("example", index(), ids=lambda example: Path(example["file"]).stem)
def test_verdict(example: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CORPUS)
    name = Path(example["file"]).stem

    assert verdict(example["file"]) == (set() if name in ACCEPTED else REFUSED[name])


def test_what_is_accepted_envoy_accepts() -> None:
    rejected = {Path(example["file"]).stem for example in index() if example["verdict"] != "accept"}

    assert rejected & ACCEPTED == set()
    assert len(ACCEPTED) + len(REFUSED) == len(index())
