"""What secures connections, chooses among them and looks at them, out of Hypothesis: a part of `snapshots`."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from meshproxy.config.chains import with_needed_filters
from meshproxy.config.secrets import derived_name
from meshproxy.config.tls_rules import UPSTREAM_ALPN
from meshproxy.model import (
    Certificate,
    ChainMatch,
    ClientCertHeader,
    Cluster,
    ConnectionLimit,
    DownstreamTls,
    Echo,
    FilterChain,
    GrpcHttp1Bridge,
    GrpcStats,
    GrpcWeb,
    HeaderMatch,
    Http2Settings,
    HttpInspector,
    HttpRbac,
    KeepAlive,
    KeyLog,
    Listener,
    LocalRateLimit,
    NetworkDirectResponse,
    NetworkRbac,
    OriginalDst,
    PeerValidation,
    Policy,
    ProxyProtocol,
    RbacRules,
    Rule,
    SanMatch,
    Secret,
    SecretFiles,
    SniCluster,
    StringMatch,
    TcpCluster,
    TcpProxy,
    TicketKeys,
    TlsInspector,
    TlsParameters,
    TrustedCa,
    UpstreamTls,
)
from tests.support.certificates import Authority

AUTHORITY = Authority()
_ISSUED = [AUTHORITY.issue(name) for name in ("a.example", "b.example", "c.example")]


def _secret(value: Certificate | TrustedCa | TicketKeys, name: str = "") -> Secret:
    return Secret(name=name or derived_name(value, SecretFiles()), value=value)


def _certificate(index: int, **more: bytes) -> Certificate:
    return Certificate(chain_pem=_ISSUED[index].pem, key_pem=_ISSUED[index].key_pem(more.get("passphrase", b"")), **more)


CERTIFICATES = {
    secret.name: secret
    for secret in (
        _secret(_certificate(0)),
        _secret(_certificate(1, passphrase=b"secret", ocsp_staple=AUTHORITY.ocsp(_ISSUED[1]))),
        _secret(_certificate(2), "of its own"),
    )
}
CAS = {
    secret.name: secret
    for secret in (
        _secret(TrustedCa()),
        _secret(TrustedCa(pem=AUTHORITY.pem, crl_pem=AUTHORITY.crl(_ISSUED[0]))),
        _secret(TrustedCa(pem=AUTHORITY.pem), "roots"),
    )
}
TICKETS = {
    secret.name: secret
    for secret in (_secret(TicketKeys(keys=(b"k" * 80, bytes(range(80))))), _secret(TicketKeys(keys=(b"j" * 80,)), "tickets"))
}
SECRETS = {**CERTIFICATES, **CAS, **TICKETS}

texts = st.one_of(
    st.builds(
        StringMatch, st.sampled_from(["exact", "prefix", "suffix"]), st.sampled_from(["a.example", "spiffe://x/y", "on"]), st.booleans()
    ),
    st.builds(StringMatch, st.just("regex"), st.just("a.*")),
)
sans = st.one_of(
    st.builds(SanMatch, st.sampled_from(["dns", "uri", "email", "ip"]), texts),
    st.builds(SanMatch, st.just("other_name"), texts, st.just("1.2.3")),
)
digests = st.binary(min_size=32, max_size=32)
ranges = st.sampled_from([(), ("10.0.0.0/8",), ("::1/128", "0.0.0.0/0")])
protocols = st.sampled_from([(), ("h2",), ("h2", "http/1.1"), ("x",)])
key_logs = st.one_of(st.none(), st.builds(KeyLog, path=st.just("/tmp/keys"), local_ranges=ranges, remote_ranges=ranges))
limits = st.one_of(st.just(0.0), st.sampled_from([0.5, 7.5, 60.0]))
params = st.builds(
    TlsParameters,
    min_version=st.sampled_from(["", "1.0", "1.2"]),
    max_version=st.sampled_from(["", "1.2", "1.3"]),
    ciphers=st.sampled_from([(), ("ECDHE-RSA-AES128-GCM-SHA256", "[ECDHE-ECDSA-AES128-GCM-SHA256|AES256-SHA]")]),
    curves=st.sampled_from([(), ("X25519", "P-256")]),
    signature_algorithms=st.sampled_from([(), ("ecdsa_secp256r1_sha256",)]),
)


@st.composite
def validations(draw: st.DrawFn) -> PeerValidation:
    if draw(st.booleans()):
        return PeerValidation(spki_pins=(draw(digests),), hashes=draw(st.lists(digests, max_size=1).map(tuple)))
    return PeerValidation(
        trusted_ca=draw(st.sampled_from(sorted(CAS))),
        sans=tuple(dict.fromkeys(draw(st.lists(sans, max_size=2)))),
        spki_pins=draw(st.lists(digests, max_size=1).map(tuple)),
        only_leaf_crl=draw(st.booleans()),
        allow_expired=draw(st.booleans()),
        accept_untrusted=draw(st.booleans()),
        max_depth=draw(st.sampled_from([0, 3, 100])),
    )


@st.composite
def downstream_tls(draw: st.DrawFn) -> DownstreamTls:
    validation = draw(st.one_of(st.none(), validations()))
    stateless = draw(st.booleans())
    return DownstreamTls(
        certificates=draw(st.sampled_from(sorted(itertools.permutations(CERTIFICATES, 2)) + [(name,) for name in sorted(CERTIFICATES)])),
        params=draw(params),
        alpn=draw(protocols),
        validation=validation,
        require_client_certificate=validation is not None and draw(st.booleans()),
        ticket_keys=draw(st.sampled_from(["", *sorted(TICKETS)])) if stateless else "",
        stateless_resumption=stateless,
        stateful_resumption=draw(st.booleans()),
        session_timeout_s=draw(st.sampled_from([7200.0, 60.0])),
        ocsp_policy=draw(st.sampled_from(["lenient", "strict", "must"])),
        full_scan_certs_on_sni_mismatch=draw(st.booleans()),
        prefer_client_ciphers=draw(st.booleans()),
        key_log=draw(key_logs),
    )


@st.composite
def upstream_tls(draw: st.DrawFn, protocol: str) -> UpstreamTls:
    offered = UPSTREAM_ALPN.get(protocol, ())
    validation = draw(st.one_of(st.none(), validations()))
    return UpstreamTls(
        sni=draw(st.sampled_from(["", "a.example"])),
        auto_host_sni=draw(st.booleans()),
        auto_sni=draw(st.booleans()),
        auto_san_validation=validation is not None and bool(validation.trusted_ca) and draw(st.booleans()),
        certificate=draw(st.sampled_from(["", *sorted(CERTIFICATES)])),
        validation=validation,
        params=draw(params),
        alpn=draw(st.one_of(st.just(offered), st.just(("x", "y")))),
        max_session_keys=draw(st.sampled_from([0, 1, 9])),
        enforce_rsa_key_usage=draw(st.booleans()),
        key_log=draw(key_logs),
    )


def http2_settings(envoy: bool, default: Http2Settings) -> st.SearchStrategy[Http2Settings]:
    alive = st.builds(
        KeepAlive, timeout_s=st.sampled_from([0.5, 20.0]), interval_s=limits, interval_jitter_percent=st.sampled_from([0.0, 15.0, 33.3]),
        idle_interval_s=limits,
    )
    made = st.builds(
        Http2Settings,
        max_concurrent_streams=st.sampled_from([1, 100, 1024]),
        initial_stream_window_bytes=st.sampled_from([65535, 1 << 20]),
        initial_connection_window_bytes=st.sampled_from([65535, 1 << 20]),
        hpack_table_bytes=st.sampled_from([0, 4096]),
        max_frame_bytes=st.just(16384) if envoy else st.sampled_from([16384, 1 << 20]),
        allow_connect=st.booleans(),
        max_outbound_frames=st.integers(1, 99),
        max_outbound_control_frames=st.integers(1, 99),
        max_consecutive_empty_frames=st.integers(0, 9),
        max_priority_frames_per_stream=st.integers(0, 9),
        max_window_updates_per_data_frame=st.integers(1, 9),
        max_resets_per_minute=st.just(default.max_resets_per_minute) if envoy else st.integers(0, 99),
        stream_error_on_invalid_message=st.booleans(),
        keep_alive=st.one_of(st.none(), alive),
    )
    return st.one_of(st.just(default), made)


client_cert_headers = st.builds(
    ClientCertHeader,
    mode=st.sampled_from(["sanitize", "forward_only", "append_forward", "sanitize_set", "always_forward_only"]),
    **{fact: st.booleans() for fact in ("subject", "cert", "chain", "dns", "uri")},
)

# -- filters of listeners and connections

tlvs = st.sampled_from([(), (1, 224), None])
listener_filters = st.one_of(
    st.builds(TlsInspector, ja3=st.booleans(), ja4=st.booleans()),
    st.just(HttpInspector()),
    st.just(OriginalDst()),
    st.builds(
        ProxyProtocol, allow_without_header=st.booleans(), versions=st.sampled_from([(1, 2), (1,), (2,)]), pass_tlvs=tlvs,
        stat_prefix=st.sampled_from(["", "p"]),
    ),
)


def rules(permission: bool, requests: bool = False) -> st.SearchStrategy[Rule]:
    """Permissions or principals, some within others; of requests or of connections."""
    addresses = st.sampled_from(["10.0.0.0/8", "::/0"])
    if permission:
        plain = st.one_of(
            st.builds(Rule, kind=st.just("destination_ip"), range=addresses),
            st.builds(Rule, kind=st.just("destination_port"), ports=st.sampled_from([(80, 80), (1, 65535), (0, 0)])),
            st.builds(Rule, kind=st.just("server_name"), match=texts),
        )
    else:
        plain = st.one_of(
            st.builds(Rule, kind=st.sampled_from(["source_ip", "direct_remote_ip", "remote_ip"]), range=addresses),
            st.builds(Rule, kind=st.just("authenticated"), match=st.one_of(st.none(), texts)),
        )
    if requests:
        header = st.builds(HeaderMatch, name=st.sampled_from(["x-a", ":method"]), string=texts, invert=st.booleans())
        plain |= st.builds(Rule, kind=st.just("path"), match=texts) | st.builds(Rule, kind=st.just("header"), header=header)
    return st.recursive(
        st.one_of(st.just(Rule(kind="any")), plain),
        lambda inner: st.one_of(
            st.builds(Rule, kind=st.sampled_from(["all", "one_of"]), rules=st.lists(inner, min_size=1, max_size=2).map(tuple)),
            st.builds(Rule, kind=st.just("not"), rules=inner.map(lambda rule: (rule,))),
        ),
        max_leaves=4,
    )


def rule_sets(requests: bool = False) -> st.SearchStrategy[RbacRules]:
    policies = st.builds(
        Policy,
        name=st.sampled_from(["a", "b"]),
        permissions=st.lists(rules(True, requests), min_size=1, max_size=2).map(tuple),
        principals=st.lists(rules(False, requests), min_size=1, max_size=2).map(tuple),
    )
    return st.builds(
        RbacRules,
        action=st.sampled_from(["allow", "deny", "log"]),
        policies=st.lists(policies, max_size=2).map(lambda found: tuple({one.name: one for one in sorted(found, key=str)}.values())).map(
            lambda found: tuple(sorted(found, key=lambda one: one.name))
        ),
    )


http_filters = st.one_of(
    st.builds(GrpcStats, all_methods=st.booleans(), upstream_stats=st.booleans()),
    st.builds(GrpcStats, methods=st.just(("a.B/C", "a.B/D", "E/F"))),
    st.just(GrpcWeb()),
    st.builds(GrpcHttp1Bridge, upgrade_protobuf=st.booleans()),
    st.builds(
        HttpRbac, rules=st.none() | rule_sets(requests=True), shadow=st.none() | rule_sets(requests=True),
        stat_prefix=st.sampled_from(["", "a"]),
        shadow_stat_prefix=st.sampled_from(["", "b"]),
    ),
)


def connection_filters(prefixes: st.SearchStrategy[str]) -> st.SearchStrategy:
    return st.one_of(
        st.builds(ConnectionLimit, stat_prefix=prefixes, max_connections=st.integers(1, 9), delay_s=limits),
        st.builds(
            LocalRateLimit, stat_prefix=prefixes, max_tokens=st.integers(1, 9), tokens_per_fill=st.integers(1, 9),
            fill_interval_s=st.sampled_from([0.05, 1.0]), share_key=st.sampled_from(["", "k"]),
        ),
        st.builds(
            NetworkRbac, stat_prefix=prefixes, rules=st.none() | rule_sets(), shadow=st.none() | rule_sets(),
            shadow_stat_prefix=st.sampled_from(["", "s"]), delay_deny_s=limits,
        ),
    )


@st.composite
def other_terminals(
    draw: st.DrawFn, listener: str, clusters: list[str], logs: st.SearchStrategy
) -> TcpProxy | Echo | NetworkDirectResponse:
    if draw(st.booleans()):
        return draw(st.one_of(st.just(Echo()), st.builds(NetworkDirectResponse, body=st.sampled_from([b"", b"bye\n", b"\xff\x00"]))))
    targets = draw(st.lists(st.builds(TcpCluster, name=st.sampled_from(clusters), weight=st.integers(1, 9)), min_size=1, max_size=3))
    return TcpProxy(
        stat_prefix=draw(st.sampled_from([listener, "t"])),
        clusters=tuple(targets),
        idle_timeout_s=draw(st.sampled_from([0.0, 3600.0, 60.0])),
        max_connect_attempts=draw(st.integers(1, 9)),
        max_connection_duration_s=draw(limits),
        access_logs=draw(logs),
        flush_access_log_on_connected=draw(st.booleans()),
        access_log_flush_interval_s=draw(limits),
    )


@st.composite
def matches(draw: st.DrawFn, index: int) -> ChainMatch:
    """No two of different indexes are for the same connection."""
    return ChainMatch(
        destination_port=1000 + index,
        prefix_ranges=draw(ranges),
        server_names=draw(st.sampled_from([(), ("a.example",), ("a.example", "*.b.example")])),
        transport_protocol=draw(st.sampled_from(["", "tls", "raw_buffer"])),
        application_protocols=draw(protocols),
        direct_source_prefix_ranges=draw(ranges),
        source_type=draw(st.sampled_from(["any", "same_ip_or_loopback", "external"])),
        source_prefix_ranges=draw(ranges),
        source_ports=draw(st.sampled_from([(), (1, 65535)])),
    )


@st.composite
def chain(draw: st.DrawFn, terminal: object, listener: str, match: ChainMatch, name: str) -> FilterChain:
    filters = draw(st.lists(connection_filters(st.sampled_from([listener, "x"])), max_size=2))
    if isinstance(terminal, TcpProxy) and draw(st.booleans()):
        filters.append(SniCluster())
    return FilterChain(
        terminal=terminal,
        name=name,
        match=match,
        tls=draw(st.one_of(st.none(), downstream_tls())),
        filters=tuple(filters),
        connect_timeout_s=draw(limits),
    )


@st.composite
def filters_of(draw: st.DrawFn, chains: tuple[FilterChain, ...], use_original_dst: bool) -> tuple:
    listed = {type(each): each for each in draw(st.lists(listener_filters, max_size=3))}
    return with_needed_filters(tuple(listed.values()), chains, use_original_dst)


def used_secrets(listeners: list[Listener], clusters: list[Cluster]) -> tuple[Secret, ...]:
    """Those that are named somewhere, by name."""
    names: set[str] = set()
    for listener in listeners:
        for tls in (chain.tls for chain in listener.all_chains if chain.tls is not None):
            names |= {*tls.certificates, tls.ticket_keys, tls.validation.trusted_ca if tls.validation else ""}
    for secured in (cluster.tls for cluster in clusters if cluster.tls is not None):
        names |= {secured.certificate, secured.validation.trusted_ca if secured.validation else ""}
    return tuple(SECRETS[name] for name in sorted(names - {""}))
