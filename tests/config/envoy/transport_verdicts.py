"""More of `verdicts`: TLS, secrets, filter chains, listener and network filters, HTTP/2 and gRPC."""

from __future__ import annotations

from typing import Any

from tests.config.envoy.bootstraps import CLUSTER, LISTENER, MANAGER, REMOVE, ROUTE, any_of, good
from tests.support.certificates import Authority

_AUTHORITY = Authority()
_ISSUED = _AUTHORITY.issue("a.example")
_OTHER = _AUTHORITY.issue("b.example")
_SOCKETS = "envoy.extensions.transport_sockets"
_NETWORK = "envoy.extensions.filters.network"
_INSPECTORS = "envoy.extensions.filters.listener"
_HTTP = "envoy.extensions.filters.http"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SECRETS = "static_resources.secrets"
_CHAIN = f"{LISTENER}.filter_chains.0"

CERT = {"certificate_chain": {"inline_string": _ISSUED.pem.decode()}, "private_key": {"inline_string": _ISSUED.key_pem().decode()}}
CA = {"inline_string": _AUTHORITY.pem.decode()}
CRL = {"inline_string": _AUTHORITY.crl(_OTHER).decode()}
TICKET_KEYS = {"keys": [{"inline_string": "k" * 80}]}


def socket(kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": "socket", "typed_config": any_of(f"{_SOCKETS}.{kind}", **fields)}


def downstream(common: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The listener's chain with TLS."""
    return {f"{_CHAIN}.transport_socket": socket("tls.v3.DownstreamTlsContext", common_tls_context=common, **fields)}


def upstream(common: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The cluster with TLS."""
    return {
        f"{CLUSTER}.transport_socket": socket("tls.v3.UpstreamTlsContext", **({"common_tls_context": common} if common else {}), **fields)
    }


def filters(*kinds: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """The chain has these network filters alone."""
    return {f"{_CHAIN}.filters": [{"name": kind, "typed_config": any_of(f"{_NETWORK}.{kind}", **fields)} for kind, fields in kinds]}


def before(kind: str, **fields: Any) -> dict[str, Any]:
    """This network filter in front of the connection manager."""
    manager = good()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    return {f"{_CHAIN}.filters": [{"name": kind, "typed_config": any_of(f"{_NETWORK}.{kind}", **fields)}, manager]}


def inspectors(*kinds: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{LISTENER}.listener_filters": [
            {"name": kind, "typed_config": any_of(f"{_INSPECTORS}.{kind}", **fields)} for kind, fields in kinds
        ]
    }


def http_filter(kind: str, **fields: Any) -> dict[str, Any]:
    router = good()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0]
    return {f"{MANAGER}.http_filters": [{"name": kind, "typed_config": any_of(f"{_HTTP}.{kind}", **fields)}, router]}


def options(**fields: Any) -> dict[str, Any]:
    return {f"{CLUSTER}.typed_extension_protocol_options": {_OPTIONS: any_of(_OPTIONS, **fields)}}


def http_rbac(**fields: Any) -> dict[str, Any]:
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}], **fields}
    return http_filter("rbac.v3.RBAC", rules={"policies": {"p": policy}})


def rbac(**fields: Any) -> dict[str, Any]:
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}], **fields}
    return before("rbac.v3.RBAC", stat_prefix="r", rules={"policies": {"p": policy}})


def chains(*matches: dict[str, Any]) -> dict[str, Any]:
    """Chains with these matches, and the names c0, c1, ..."""
    echo = {"name": "e", "typed_config": any_of(f"{_NETWORK}.echo.v3.Echo")}
    return {
        f"{LISTENER}.filter_chains": [
            {"name": f"c{index}", "filter_chain_match": match, "filters": [echo]} for index, match in enumerate(matches)
        ]
    }


_TCP = ("tcp_proxy.v3.TcpProxy", {"stat_prefix": "t", "cluster": "web"})
_SDS = {"name": "nope"}
_SANS = [{"san_type": "URI", "matcher": {"prefix": "spiffe://x/"}}, {"san_type": "OTHER_NAME", "oid": "1.2.3", "matcher": {"exact": "x"}}]

ACCEPTED: dict[str, dict[str, Any]] = {
    "TLS": downstream({"tls_certificates": [CERT], "alpn_protocols": ["h2", "http/1.1"]}),
    "TLS with all": downstream(
        {
            "tls_certificates": [CERT],
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
                "cipher_suites": ["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "ECDHE-RSA-AES256-GCM-SHA384"],
                "ecdh_curves": ["X25519", "P-256"],
                "signature_algorithms": ["ecdsa_secp256r1_sha256"],
            },
            "validation_context": {
                "trusted_ca": CA,
                "crl": CRL,
                "match_typed_subject_alt_names": _SANS,
                "verify_certificate_hash": ["ab" * 32, ":".join(["cd"] * 32)],
                "verify_certificate_spki": ["NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A="],
                "only_verify_leaf_cert_crl": True,
                "allow_expired_certificate": True,
                "max_verify_depth": 3,
            },
            "key_log": {"path": "/dev/null", "local_address_range": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        },
        require_client_certificate=True,
        session_ticket_keys=TICKET_KEYS,
        session_timeout="60s",
        disable_stateful_session_resumption=True,
        ocsp_staple_policy="LENIENT_STAPLING",
        prefer_client_ciphers=True,
        full_scan_certs_on_sni_mismatch=True,
    ),
    "any client certificate": downstream({"tls_certificates": [CERT]}, require_client_certificate=True),
    "no tickets": downstream({"tls_certificates": [CERT]}, disable_stateless_session_resumption=True),
    "untrusted clients": downstream(
        {
            "tls_certificates": [CERT],
            "validation_context": {"trusted_ca": CA, "trust_chain_verification": "ACCEPT_UNTRUSTED"},
        }
    ),
    "static secrets": {
        _SECRETS: [
            {"name": "server", "tls_certificate": CERT},
            {"name": "roots", "validation_context": {"trusted_ca": CA}},
            {"name": "tickets", "session_ticket_keys": TICKET_KEYS},
        ],
        **downstream(
            {
                "tls_certificate_sds_secret_configs": [{"name": "server"}],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": _SANS[:1]},
                    "validation_context_sds_secret_config": {"name": "roots"},
                },
            },
            session_ticket_keys_sds_secret_config={"name": "tickets"},
        ),
        **upstream({"validation_context_sds_secret_config": {"name": "roots"}}, sni="a.example"),
    },
    "upstream TLS": upstream(
        {"validation_context": {"trusted_ca": CA}, "tls_certificates": [CERT], "alpn_protocols": ["h2"]},
        sni="a.example",
        max_session_keys=0,
    ),
    "upstream TLS of little": upstream(),
    "upstream TLS by the endpoint's name": upstream(
        {"validation_context": {"trusted_ca": CA}}, auto_host_sni=True, auto_sni_san_validation=True, enforce_rsa_key_usage=False
    ),
    "the system's CAs": upstream({"validation_context": {"system_root_certs": {}}}, sni="a.example"),
    "upstream PROXY header": {
        f"{CLUSTER}.transport_socket": socket(
            "proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            config={"version": "V2", "pass_through_tlvs": {"match_type": "INCLUDE", "tlv_type": [1, 224]}},
            transport_socket=socket("raw_buffer.v3.RawBuffer"),
        )
    },
    "listener filters": inspectors(
        (
            "proxy_protocol.v3.ProxyProtocol",
            {"allow_requests_without_proxy_protocol": True, "disallowed_versions": ["V1"], "stat_prefix": "p"},
        ),
        ("original_dst.v3.OriginalDst", {}),
        (
            "tls_inspector.v3.TlsInspector",
            {"enable_ja3_fingerprinting": True, "enable_ja4_fingerprinting": True},
        ),
        ("http_inspector.v3.HttpInspector", {}),
    ),
    "listener settings": {
        f"{LISTENER}.use_original_dst": True,
        f"{LISTENER}.bind_to_port": False,
        f"{LISTENER}.listener_filters_timeout": "0s",
        f"{LISTENER}.continue_on_listener_filters_timeout": True,
        f"{LISTENER}.access_log": [{"name": "l", "typed_config": any_of("envoy.extensions.access_loggers.stream.v3.StderrAccessLog")}],
    },
    "chains": {
        **chains(
            {"server_names": ["a.example", "*.b.example"], "transport_protocol": "tls", "application_protocols": ["h2"]},
            {"destination_port": 80, "prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}], "source_type": "EXTERNAL"},
            {"source_prefix_ranges": [{"address_prefix": "::1", "prefix_len": 128}], "source_ports": [1, 2]},
            {"direct_source_prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}], "transport_protocol": "raw_buffer"},
        ),
        **inspectors(("tls_inspector.v3.TlsInspector", {})),
        f"{LISTENER}.default_filter_chain": {"filters": [{"name": "t", "typed_config": any_of(f"{_NETWORK}.{_TCP[0]}", **_TCP[1])}]},
    },
    "only a default chain": {
        f"{LISTENER}.filter_chains": REMOVE,
        f"{LISTENER}.default_filter_chain": {"filters": [{"name": "t", "typed_config": any_of(f"{_NETWORK}.{_TCP[0]}", **_TCP[1])}]},
    },
    "tcp": filters(_TCP),
    "tcp with all": filters(
        (
            "tcp_proxy.v3.TcpProxy",
            {
                "stat_prefix": "t",
                "weighted_clusters": {"clusters": [{"name": "web", "weight": 1}, {"name": "web", "weight": 3}]},
                "idle_timeout": "0s",
                "max_connect_attempts": 3,
                "max_downstream_connection_duration": "60s",
                "access_log_options": {"access_log_flush_interval": "1s", "flush_access_log_on_connected": True},
            },
        )
    ),
    "by the server name": filters(
        ("sni_cluster.v3.SniCluster", {}), ("tcp_proxy.v3.TcpProxy", {"stat_prefix": "t", "cluster": "elsewhere"})
    ),
    "echo": filters(("echo.v3.Echo", {})),
    "fixed bytes": filters(("direct_response.v3.Config", {"response": {"inline_string": "bye"}})),
    "connection limit": before("connection_limit.v3.ConnectionLimit", stat_prefix="c", max_connections=1, delay="1s"),
    "connection limit that is off": before(
        "connection_limit.v3.ConnectionLimit",
        stat_prefix="c",
        max_connections=1,
        runtime_enabled={"default_value": False, "runtime_key": "k"},
    ),
    "rate of connections": before(
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="r",
        share_key="k",
        token_bucket={"max_tokens": 3, "tokens_per_fill": 2, "fill_interval": "0.05s"},
    ),
    "rbac": rbac(
        permissions=[
            {"and_rules": {"rules": [{"destination_port": 80}, {"destination_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}]}},
            {"not_rule": {"destination_port_range": {"start": 1, "end": 1024}}},
            {"requested_server_name": {"suffix": ".example"}},
        ],
        principals=[
            {"or_ids": {"ids": [{"authenticated": {}}, {"authenticated": {"principal_name": {"exact": "spiffe://x/y"}}}]}},
            {"not_id": {"remote_ip": {"address_prefix": "::1", "prefix_len": 128}}},
            {"direct_remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}},
        ],
    ),
    "HTTP/2": {
        f"{MANAGER}.codec_type": "HTTP2",
        f"{MANAGER}.http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65535,
            "allow_connect": True,
            "connection_keepalive": {"interval": "5s", "timeout": "1s", "interval_jitter": {"value": 0}},
            "override_stream_error_on_invalid_http_message": True,
        },
    },
    "CONNECT": {
        f"{MANAGER}.upgrade_configs": [{"upgrade_type": "CONNECT"}],
        f"{ROUTE}.match": {"connect_matcher": {}},
        f"{ROUTE}.route.upgrade_configs": [{"upgrade_type": "CONNECT"}],
    },
    "gRPC routes": {
        f"{ROUTE}.match.grpc": {},
        f"{ROUTE}.route.max_stream_duration": {
            "grpc_timeout_header_max": "0s",
            "grpc_timeout_header_offset": "0.1s",
            "max_stream_duration": "5s",
        },
        f"{ROUTE}.route.retry_policy": {"retry_on": "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable,refused-stream"},
    },
    "gRPC counters": http_filter("grpc_stats.v3.FilterConfig", stats_for_all_methods=True, enable_upstream_stats=True),
    "gRPC counters of some": http_filter(
        "grpc_stats.v3.FilterConfig", individual_method_stats_allowlist={"services": [{"name": "a.B", "method_names": ["C", "D"]}]}
    ),
    "gRPC-Web": http_filter("grpc_web.v3.GrpcWeb"),
    "gRPC bridge": http_filter("grpc_http1_bridge.v3.Config", upgrade_protobuf_to_grpc=True),
    "rbac of requests": http_rbac(
        permissions=[{"header": {"name": ":method", "string_match": {"exact": "GET"}}}, {"url_path": {"path": {"prefix": "/a"}}}],
        principals=[{"header": {"name": "x-user", "present_match": True}}, {"url_path": {"path": {"exact": "/b"}}}, {"authenticated": {}}],
    ),
    "client certificate header": {
        f"{MANAGER}.forward_client_cert_details": "SANITIZE_SET",
        f"{MANAGER}.set_current_client_cert_details": {"subject": True, "uri": True, "dns": True, "cert": True, "chain": True},
    },
    "HTTP/2 clusters": {f"{CLUSTER}.http2_protocol_options": {}},
    "explicit HTTP/2": options(explicit_http_config={"http2_protocol_options": {"max_concurrent_streams": 7}}),
    "the downstream's protocol": options(use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}}),
    "by ALPN": {
        **options(auto_config={}, upstream_http_protocol_options={"auto_sni": True, "auto_san_validation": True}),
        **upstream({"validation_context": {"trusted_ca": CA}}),
    },
}

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "TLS without certificate": (downstream({}), "transport_socket.typed_config", "needs a certificate"),
    "key of another": (
        downstream({"tls_certificates": [{**CERT, "private_key": {"inline_string": _OTHER.key_pem().decode()}}]}),
        "tls_certificates[0].private_key",
        "is not that of the certificate",
    ),
    "no key": (
        downstream({"tls_certificates": [{"certificate_chain": CERT["certificate_chain"]}]}),
        "tls_certificates[0]",
        '"private_key" is missing',
    ),
    "file that is not there": (
        downstream({"tls_certificates": [{**CERT, "certificate_chain": {"filename": "/nowhere/a.pem"}}]}),
        "certificate_chain.filename",
        'cannot read "/nowhere/a.pem": No such file or directory',
    ),
    "private key provider": (
        downstream(
            {"tls_certificates": [{"certificate_chain": CERT["certificate_chain"], "private_key_provider": {"provider_name": "x"}}]}
        ),
        "private_key_provider",
        "not supported yet",
    ),
    "cipher": (
        downstream({"tls_certificates": [CERT], "tls_params": {"cipher_suites": ["NOPE"]}}),
        "cipher_suites[0]",
        "no cipher that OpenSSL knows",
    ),
    "curve": (downstream({"tls_certificates": [CERT], "tls_params": {"ecdh_curves": ["P-111"]}}), "ecdh_curves[0]", "is no curve"),
    "pin": (
        downstream({"tls_certificates": [CERT], "validation_context": {"trusted_ca": CA, "verify_certificate_spki": ["x" * 44]}}),
        "verify_certificate_spki[0]",
        "no base64 of a SHA-256",
    ),
    "length of a pin": (
        downstream({"tls_certificates": [CERT], "validation_context": {"verify_certificate_spki": ["abc"]}}),
        "verify_certificate_spki",
        "at least 44",
    ),
    "names without CA": (
        downstream({"tls_certificates": [CERT], "validation_context": {"match_typed_subject_alt_names": _SANS}}),
        "common_tls_context",
        "names are looked at in a chain that was verified",
    ),
    "CRL without CA": (downstream({"tls_certificates": [CERT], "validation_context": {"crl": CRL}}), "crl", "needs the CA"),
    "kind of name": (
        downstream(
            {
                "tls_certificates": [CERT],
                "validation_context": {"trusted_ca": CA, "match_typed_subject_alt_names": [{"matcher": {"exact": "x"}}]},
            }
        ),
        "match_typed_subject_alt_names[0]",
        "san_type",
    ),
    "require_sni": (downstream({"tls_certificates": [CERT]}, require_sni=True), "require_sni", "not supported yet"),
    "renegotiation": (upstream(allow_renegotiation=True), "allow_renegotiation", "not supported yet"),
    "two upstream certificates": (upstream({"tls_certificates": [CERT, CERT]}), "common_tls_context", "one certificate at most"),
    "own name without CA": (upstream(auto_sni_san_validation=True), "auto_sni_san_validation", "Add trusted_ca"),
    "starttls": (
        {f"{CLUSTER}.transport_socket": socket("starttls.v3.UpstreamStartTlsConfig")},
        "transport_socket",
        "UpstreamStartTlsConfig is not supported",
    ),
    "unknown secret": (
        downstream({"tls_certificate_sds_secret_configs": [_SDS]}),
        "sds_secret_configs[0].name",
        'secret "nope" is not defined',
    ),
    "secret of another kind": (
        {
            _SECRETS: [{"name": "nope", "validation_context": {"trusted_ca": CA}}],
            **downstream({"tls_certificate_sds_secret_configs": [_SDS]}),
        },
        "sds_secret_configs[0].name",
        "is of the kind validation context, and a certificate is needed",
    ),
    "SDS by gRPC": (
        downstream({"tls_certificate_sds_secret_configs": [{"name": "x", "sds_config": {"ads": {}, "resource_api_version": "V3"}}]}),
        "sds_config",
        "Add dynamic_resources.ads_config",
    ),
    "SDS file that is not there": (
        downstream(
            {"tls_certificate_sds_secret_configs": [{"name": "x", "sds_config": {"path_config_source": {"path": "/nowhere.yaml"}}}]}
        ),
        "path_config_source",
        "is not there",
    ),
    "generic secret": (
        {_SECRETS: [{"name": "g", "generic_secret": {"secret": {"inline_string": "x"}}}]},
        "secrets[0].generic_secret",
        "not supported yet",
    ),
    "ticket key": (
        downstream({"tls_certificates": [CERT]}, session_ticket_keys={"keys": [{"inline_string": "k" * 40}]}),
        "session_ticket_keys.keys[0]",
        "has 40 bytes. Make one of 80 bytes",
    ),
    "by ALPN without TLS": (options(auto_config={}), "clusters[0]", "the protocol is agreed on by TLS"),
    "HTTP/3": (options(explicit_http_config={"http3_protocol_options": {}}), "http3_protocol_options", "not supported yet"),
    "window": (
        {f"{MANAGER}.http2_protocol_options": {"initial_stream_window_size": 10}},
        "initial_stream_window_size",
        "at least 65535",
    ),
    "keep-alive without time": (
        {f"{MANAGER}.http2_protocol_options": {"connection_keepalive": {"interval": "1s"}}},
        "connection_keepalive",
        '"timeout" is missing',
    ),
    "custom settings": (
        {f"{MANAGER}.http2_protocol_options": {"custom_settings_parameters": [{"identifier": 9, "value": 1}]}},
        "custom_settings_parameters",
        "not supported yet",
    ),
    "network filter": (
        filters(("redis_proxy.v3.RedisProxy", {"stat_prefix": "r", "settings": {"op_timeout": "1s"}})),
        "filters[0]",
        "RedisProxy is not supported yet",
    ),
    "nothing serves": (filters(("sni_cluster.v3.SniCluster", {})), "filters[0]", "does not serve connections and is the last"),
    "terminal in the middle": (filters(_TCP, ("echo.v3.Echo", {})), "filters[0]", "ends the chain and is not the last"),
    "tcp cluster": (filters(("tcp_proxy.v3.TcpProxy", {"stat_prefix": "t", "cluster": "wob"})), "cluster", 'cluster "wob" is not defined'),
    "tcp without cluster": (
        filters(("tcp_proxy.v3.TcpProxy", {"stat_prefix": "t"})),
        "typed_config",
        "one of cluster, weighted_clusters is missing",
    ),
    "tcp weight": (
        filters(("tcp_proxy.v3.TcpProxy", {"stat_prefix": "t", "weighted_clusters": {"clusters": [{"name": "web"}]}})),
        "clusters[0]",
        "weight",
    ),
    "tunneling": (
        filters(("tcp_proxy.v3.TcpProxy", {"stat_prefix": "t", "cluster": "web", "tunneling_config": {"hostname": "h:1"}})),
        "tunneling_config",
        "not supported yet",
    ),
    "no connections": (before("connection_limit.v3.ConnectionLimit", stat_prefix="c", max_connections=0), "max_connections", "at least 1"),
    "fill interval": (
        before("local_ratelimit.v3.LocalRateLimit", stat_prefix="r", token_bucket={"max_tokens": 1, "fill_interval": "0.01s"}),
        "fill_interval",
        "at least 50ms",
    ),
    "rbac by header, of a connection": (
        rbac(permissions=[{"header": {"name": "x", "present_match": True}}]), "permissions[0].header", "about requests"
    ),
    "rbac by metadata": (http_rbac(permissions=[{"metadata": {"filter": "x", "path": [{"key": "a"}], "value": {"present_match": True}}}]),
                         "permissions[0].metadata", "not supported yet"),
    "rbac with a condition": (http_rbac(condition={"const_expr": {"bool_value": True}}), "policies.p.condition", "not supported yet"),
    "rbac by a matcher": (
        http_filter(
            "rbac.v3.RBAC", matcher={"on_no_match": {"action": {"name": "a", "typed_config": any_of("envoy.config.rbac.v3.RBAC")}}},
        ),
        "matcher", "not supported yet",
    ),
    "rbac ports": (
        rbac(permissions=[{"destination_port_range": {"start": 5, "end": 5}}]),
        "destination_port_range",
        "is no range of ports",
    ),
    "rbac of nobody": (rbac(principals=[]), "policies.p", "principals"),
    "listener filter": (inspectors(("original_src.v3.OriginalSrc", {})), "listener_filters[0]", "OriginalSrc is not supported yet"),
    "no version": (
        inspectors(("proxy_protocol.v3.ProxyProtocol", {"disallowed_versions": ["V1", "V2"]})),
        "disallowed_versions",
        "no version is left",
    ),
    "two chains for the same": (
        chains({"server_names": ["a", "b"]}, {"server_names": ["b"]}),
        "filter_chains[1]",
        "matches the same connections",
    ),
    "equal ranges": (
        chains(
            {"prefix_ranges": [{"address_prefix": "10.1.0.0", "prefix_len": 8}]},
            {"prefix_ranges": [{"address_prefix": "10.2.0.0", "prefix_len": 8}]},
        ),
        "filter_chains[1]",
        "matches the same connections",
    ),
    "server name": (chains({"server_names": ["a.*"]}), "server_names[0]", '"*" inside'),
    "transport": (chains({"transport_protocol": "quic"}), "transport_protocol", 'transport_protocol "quic" is not supported yet'),
    "range": (chains({"prefix_ranges": [{"address_prefix": "x", "prefix_len": 8}]}), "prefix_ranges[0]", "no range of addresses"),
    "CONNECT that ends here": (
        {f"{ROUTE}.match": {"connect_matcher": {}}, f"{ROUTE}.route.upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
        "connect_config",
        "not supported yet",
    ),
    "gRPC state": (http_filter("grpc_stats.v3.FilterConfig", emit_filter_state=True), "emit_filter_state", "not supported yet"),
}
