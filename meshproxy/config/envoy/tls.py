"""Envoy's TLS contexts and the other transport sockets."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from meshproxy.config import tls_rules
from meshproxy.config.envoy.address import cidrs
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.secrets import certificate, merged, sds, ticket_keys, validation_context
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import DownstreamTls, KeyLog, PeerValidation, TlsParameters, UpstreamTls

_TLS = "envoy.extensions.transport_sockets.tls.v3."
_CORE = "envoy.config.core.v3."
DOWNSTREAM_TLS = _TLS + "DownstreamTlsContext"
UPSTREAM_TLS = _TLS + "UpstreamTlsContext"
RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
PROXY_PROTOCOL = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"

TAKES: Table = {
    _CORE + "TransportSocket": takes("typed_config", name="is a label only"),
    RAW_BUFFER: takes(),
    DOWNSTREAM_TLS: takes(
        "common_tls_context require_client_certificate session_ticket_keys session_ticket_keys_sds_secret_config "
        "disable_stateless_session_resumption disable_stateful_session_resumption session_timeout ocsp_staple_policy "
        "full_scan_certs_on_sni_mismatch prefer_client_ciphers",
        only={"require_sni": (False,)},
    ),
    UPSTREAM_TLS: takes(
        "common_tls_context sni auto_host_sni auto_sni_san_validation max_session_keys enforce_rsa_key_usage",
        only={"allow_renegotiation": (False,)},
        later="allow_renegotiation",
    ),
    _TLS + "CommonTlsContext": takes(
        "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context validation_context_sds_secret_config "
        "combined_validation_context alpn_protocols key_log"
    ),
    _TLS + "CommonTlsContext.CombinedCertificateValidationContext": takes(
        "default_validation_context validation_context_sds_secret_config"
    ),
    _TLS + "TlsParameters": takes(
        "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves signature_algorithms"
    ),
    _TLS + "TlsKeyLog": takes("path local_address_range remote_address_range"),
    PROXY_PROTOCOL: takes("config transport_socket", only={"allow_unspecified_address": (False,), "tlv_as_pool_key": (False,)}),
    _CORE + "ProxyProtocolConfig": takes("version pass_through_tlvs"),
    _CORE + "ProxyProtocolPassThroughTLVs": takes("match_type tlv_type"),
}
_VERSIONS = {"TLS_AUTO": "", "TLSv1_0": "1.0", "TLSv1_1": "1.1", "TLSv1_2": "1.2", "TLSv1_3": "1.3"}
_OCSP = {"LENIENT_STAPLING": "lenient", "STRICT_STAPLING": "strict", "MUST_STAPLE": "must"}
_RAW_NAME = "envoy.transport_sockets.raw_buffer"


class _Shared(NamedTuple):
    """A CommonTlsContext."""

    certificates: tuple[str, ...] = ()
    validation: PeerValidation | None = None
    settings: dict[str, Any] = {}


class Upstream(NamedTuple):
    """How endpoints are connected to."""

    tls: UpstreamTls | None = None
    settings: dict[str, Any] = {}
    """The cluster's fields about the PROXY header."""


def downstream(message: Any, path: Path, translation: Translation) -> DownstreamTls | None:
    """A filter chain's transport socket; None for one without TLS, or after a problem was told."""
    inner = _unpacked(message, path, translation, (RAW_BUFFER, DOWNSTREAM_TLS))
    if inner is None or inner.DESCRIPTOR.full_name == RAW_BUFFER:
        return None
    place = (path, "typed_config")
    given = translation.fields(inner, place)
    shared = _common(given, place, translation)
    common = inner.common_tls_context
    if not common.tls_certificates and not common.tls_certificate_sds_secret_configs:
        translation.error(place, "a context for clients needs a certificate. Add common_tls_context.tls_certificates.")
    settings: dict[str, Any] = dict(shared.settings)
    if "session_ticket_keys" in given:
        settings["ticket_keys"] = ticket_keys(given["session_ticket_keys"], (place, "session_ticket_keys"), translation)
    elif "session_ticket_keys_sds_secret_config" in given:
        field = "session_ticket_keys_sds_secret_config"
        named = sds(given[field], (place, field), translation, "session_ticket_keys")
        settings["ticket_keys"] = named.name if named is not None else ""
    if "session_timeout" in given:
        settings["session_timeout_s"] = seconds(given["session_timeout"])
    required = "require_client_certificate" in given and given["require_client_certificate"].value
    validation = shared.validation
    if required and validation is None:
        # Any certificate will do, but there has to be one.
        validation = PeerValidation(accept_untrusted=True)
    return DownstreamTls(
        certificates=shared.certificates,
        validation=validation,
        require_client_certificate=required,
        stateless_resumption=not given.get("disable_stateless_session_resumption", False),
        stateful_resumption=not given.get("disable_stateful_session_resumption", False),
        ocsp_policy=_OCSP[enum_name(inner, "ocsp_staple_policy")],
        full_scan_certs_on_sni_mismatch="full_scan_certs_on_sni_mismatch" in given and given["full_scan_certs_on_sni_mismatch"].value,
        prefer_client_ciphers=given.get("prefer_client_ciphers", False),
        **settings,
    )


def upstream(message: Any, path: Path, translation: Translation) -> Upstream:
    """A cluster's transport socket."""
    inner = _unpacked(message, path, translation, (RAW_BUFFER, UPSTREAM_TLS, PROXY_PROTOCOL))
    if inner is None or inner.DESCRIPTOR.full_name == RAW_BUFFER:
        return Upstream()
    place = (path, "typed_config")
    given = translation.fields(inner, place)
    if inner.DESCRIPTOR.full_name == PROXY_PROTOCOL:
        below = Upstream()
        if "transport_socket" in given:
            below = upstream(given["transport_socket"], (place, "transport_socket"), translation)
        if below.settings:
            translation.error((place, "transport_socket"), "a PROXY header is sent twice. Remove one of the two sockets.")
        return Upstream(below.tls, _proxy_header(given, place, translation))
    shared = _common(given, place, translation)
    if len(shared.certificates) > 1:
        translation.error((place, "common_tls_context"), "a context for endpoints has one certificate at most. Remove the others.")
    validation = shared.validation
    if validation is not None and not (validation.trusted_ca or validation.spki_pins or validation.hashes):
        validation = None  # nothing is verified
    if given.get("auto_sni_san_validation") and not (validation is not None and validation.trusted_ca) and not translation.problems.refused:
        translation.error((place, "auto_sni_san_validation"), "names are looked at in a chain that was verified. Add trusted_ca.")
    tls = UpstreamTls(
        sni=given.get("sni", ""),
        auto_host_sni=given.get("auto_host_sni", False),
        auto_san_validation=given.get("auto_sni_san_validation", False),
        certificate=shared.certificates[0] if shared.certificates else "",
        validation=validation,
        max_session_keys=given["max_session_keys"].value if "max_session_keys" in given else 1,
        enforce_rsa_key_usage=given["enforce_rsa_key_usage"].value if "enforce_rsa_key_usage" in given else True,
        **shared.settings,
    )
    return Upstream(tls)


def pass_through_tlvs(message: Any, path: Path, translation: Translation) -> tuple[int, ...] | None:
    """Types of TLVs; None = all."""
    given = translation.fields(message, path)
    return None if enum_name(message, "match_type") == "INCLUDE_ALL" else tuple(given.get("tlv_type", ()))


def _unpacked(message: Any, path: Path, translation: Translation, supported: tuple[str, ...]) -> Any:
    given = translation.fields(message, path)
    if "typed_config" not in given:
        if message.name != _RAW_NAME:
            translation.error(path, f'transport socket "{message.name}": "typed_config" is missing. Add it.')
        return None
    inner = translation.unpack(given["typed_config"], (path, "typed_config"), supported, "transport socket")
    if inner is not None and inner.DESCRIPTOR.full_name == RAW_BUFFER:
        translation.fields(inner, (path, "typed_config"))
    return inner


def _proxy_header(given: dict[str, Any], path: Path, translation: Translation) -> dict[str, Any]:
    if "config" not in given:
        return {"proxy_protocol": "v1"}
    place = (path, "config")
    config = translation.fields(given["config"], place)
    settings: dict[str, Any] = {"proxy_protocol": enum_name(given["config"], "version").lower()}
    if "pass_through_tlvs" in config:
        settings["proxy_protocol_tlvs"] = pass_through_tlvs(config["pass_through_tlvs"], (place, "pass_through_tlvs"), translation)
    return settings


def _common(outer: dict[str, Any], path: Path, translation: Translation) -> _Shared:
    if "common_tls_context" not in outer:
        return _Shared()
    place = (path, "common_tls_context")
    given = translation.fields(outer["common_tls_context"], place)
    alpn = tuple(given.get("alpn_protocols", ()))
    # Envoy takes "h2,http/1.1" in one entry too: it joins them by a comma.
    alpn = tuple(name for entry in alpn for name in entry.split(","))
    for index, name in enumerate(alpn):
        if wrong := tls_rules.alpn(name):
            translation.error(((place, "alpn_protocols"), index), wrong)
    settings: dict[str, Any] = {"alpn": alpn}
    if "tls_params" in given:
        settings["params"] = _params(given["tls_params"], (place, "tls_params"), translation)
    if "key_log" in given:
        settings["key_log"] = _key_log(given["key_log"], (place, "key_log"), translation)
    return _Shared(_certificates(given, place, translation), _validation(given, place, translation), settings)


def _certificates(given: dict[str, Any], path: Path, translation: Translation) -> tuple[str, ...]:
    inline, named = given.get("tls_certificates", ()), given.get("tls_certificate_sds_secret_configs", ())
    field = "tls_certificate_sds_secret_configs"
    names = [certificate(item, ((path, "tls_certificates"), index), translation) for index, item in enumerate(inline)]
    if inline and named:
        translation.error((path, field), 'it and "tls_certificates" are both given. Keep one.')
        return tuple(filter(None, names))
    found = [sds(item, ((path, field), index), translation, "tls_certificate") for index, item in enumerate(named)]
    return tuple(filter(None, [*names, *(item.name for item in found if item is not None)]))


def _validation(given: dict[str, Any], path: Path, translation: Translation) -> PeerValidation | None:
    made: PeerValidation | None = None
    if "validation_context" in given:
        made = validation_context(given["validation_context"], (path, "validation_context"), translation)
    elif "validation_context_sds_secret_config" in given:
        made = _validation_secret(given, path, translation)
    elif "combined_validation_context" in given:
        place = (path, "combined_validation_context")
        both = translation.fields(given["combined_validation_context"], place)
        default, dynamic = PeerValidation(), _validation_secret(both, place, translation)
        if "default_validation_context" in both:
            default = validation_context(both["default_validation_context"], (place, "default_validation_context"), translation)
        made = merged(default, dynamic) if dynamic is not None else default
    if made is not None and not made.trusted_ca and not translation.problems.refused:
        if made.sans:
            translation.error(path, "names are looked at in a chain that was verified. Add trusted_ca.")
        if made.allow_expired:
            translation.error(path, "allow_expired_certificate: without a CA no certificate is too old. Add trusted_ca or remove it.")
    asks = made is not None and (made.trusted_ca or made.spki_pins or made.hashes or made.accept_untrusted)
    return made if asks else None


def _validation_secret(given: dict[str, Any], path: Path, translation: Translation) -> PeerValidation | None:
    field = "validation_context_sds_secret_config"
    if field not in given:
        return None
    found = sds(given[field], (path, field), translation, "validation_context")
    return found.validation if found is not None else None


def _params(message: Any, path: Path, translation: Translation) -> TlsParameters:
    given = translation.fields(message, path)
    lists: dict[str, tuple[str, ...]] = {}
    for field, ours, rule in (
        ("cipher_suites", "ciphers", tls_rules.cipher),
        ("ecdh_curves", "curves", tls_rules.curve),
        ("signature_algorithms", "signature_algorithms", tls_rules.signature),
    ):
        # The library's own lists are joined by colons, and so may an entry be.
        lists[ours] = tuple(name for entry in given.get(field, ()) for name in entry.split(":"))
        for index, name in enumerate(lists[ours]):
            if wrong := rule(name):
                translation.error(((path, field), index), wrong)
    least = _VERSIONS[enum_name(message, "tls_minimum_protocol_version")]
    most = _VERSIONS[enum_name(message, "tls_maximum_protocol_version")]
    if wrong := tls_rules.versions(least, most):
        translation.error((path, "tls_maximum_protocol_version"), wrong)
    return TlsParameters(min_version=least, max_version=most, **lists)


def _key_log(message: Any, path: Path, translation: Translation) -> KeyLog:
    given = translation.fields(message, path)
    return KeyLog(
        path=given.get("path", ""),
        local_ranges=cidrs(given.get("local_address_range", ()), (path, "local_address_range"), translation),
        remote_ranges=cidrs(given.get("remote_address_range", ()), (path, "remote_address_range"), translation),
    )


def with_alpn(tls: UpstreamTls, protocol: str) -> UpstreamTls:
    """What is offered when nothing was said: what the cluster speaks."""
    return msgspec.structs.replace(tls, alpn=tls_rules.UPSTREAM_ALPN.get(protocol, ())) if not tls.alpn else tls
