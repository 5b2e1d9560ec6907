"""Secrets and TLS contexts in Envoy's form."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

from meshproxy.config.envoy.write_messages import Data, cidr, content, put, typed
from meshproxy.config.envoy.write_route import duration, string
from meshproxy.config.envoy.write_source import config_source
from meshproxy.config.secrets import derived_name
from meshproxy.config.tls_rules import UPSTREAM_ALPN
from meshproxy.model import (
    Certificate,
    Cluster,
    DownstreamTls,
    KeyLog,
    Listener,
    PeerValidation,
    Secret,
    TicketKeys,
    TlsParameters,
    TrustedCa,
    UpstreamTls,
)

_SOCKETS = "envoy.extensions.transport_sockets."
_TLS = _SOCKETS + "tls.v3."
_VERSIONS = {"1.0": "TLSv1_0", "1.1": "TLSv1_1", "1.2": "TLSv1_2", "1.3": "TLSv1_3"}
_OCSP = {"strict": "STRICT_STAPLING", "must": "MUST_STAPLE"}
_SANS = {"email": "EMAIL", "dns": "DNS", "uri": "URI", "ip": "IP_ADDRESS", "other_name": "OTHER_NAME"}
Secrets = Mapping[str, Secret]


def static_secrets(secrets: Secrets, listeners: Iterable[Listener]) -> list[Data]:
    """Those that have a name of their own and no file of their own, and what stands beside them: a context has all or none by name."""
    beside: set[str] = set()
    for tls in (chain.tls for listener in listeners for chain in listener.all_chains if chain.tls is not None):
        if not all(_in_place(name, secrets) for name in tls.certificates):
            beside.update(tls.certificates)
    listed = [each for each in secrets.values() if each.value is not None and not each.files.sds]
    return [secret_data(each) for each in listed if not _is_inline(each) or each.name in beside]


def secret_data(secret: Secret) -> Data:
    """A Secret."""
    data: Data = {"name": secret.name}
    if isinstance(secret.value, Certificate):
        data["tls_certificate"] = _certificate(secret)
    elif isinstance(secret.value, TicketKeys):
        data["session_ticket_keys"] = _ticket_keys(secret)
    elif isinstance(secret.value, TrustedCa):
        data["validation_context"] = _ca(secret)
    return data


def shown_secret(secret: Secret) -> Data:
    """A Secret as it may be shown: what is private is named by its file or not at all."""
    data = secret_data(secret)
    certificate, keys = data.get("tls_certificate", {}), data.get("session_ticket_keys", {}).get("keys", [])
    private = [certificate[field] for field in ("private_key", "password") if field in certificate] + keys
    for source in private:
        if "filename" not in source:
            source.clear()
            source["inline_string"] = "[redacted]"
    return data


def _is_inline(secret: Secret) -> bool:
    return secret.value is not None and secret.name == derived_name(secret.value, secret.files)


def _watched(secret: Secret) -> Data:
    return {"watched_directory": {"path": secret.files.watched_directory}} if secret.files.watched_directory else {}


def _certificate(secret: Secret) -> Data:
    value, files = secret.value, secret.files
    assert isinstance(value, Certificate)
    data: Data = {"certificate_chain": content(value.chain_pem, files.chain), "private_key": content(value.key_pem, files.key)}
    if value.passphrase or files.passphrase:
        data["password"] = content(value.passphrase, files.passphrase)
    if value.ocsp_staple or files.ocsp_staple:
        data["ocsp_staple"] = content(value.ocsp_staple, files.ocsp_staple)
    return {**data, **_watched(secret)}


def _ticket_keys(secret: Secret) -> Data:
    value = secret.value
    assert isinstance(value, TicketKeys)
    files = secret.files.ticket_keys or ("",) * len(value.keys)
    return {"keys": [content(key, file) for key, file in zip(value.keys, files, strict=True)]}


def _ca(secret: Secret) -> Data:
    value, files = secret.value, secret.files
    assert isinstance(value, TrustedCa)
    data: Data = {"trusted_ca": content(value.pem, files.ca)} if value.pem or files.ca else {"system_root_certs": {}}
    if value.crl_pem or files.crl:
        data["crl"] = content(value.crl_pem, files.crl)
    return {**data, **_watched(secret)}


def _sds(name: str, secrets: Secrets) -> Data:
    """An SdsSecretConfig."""
    secret = secrets.get(name)
    if secret is not None and secret.source is not None:
        return {"name": secret.sds_name, "sds_config": config_source(secret.source)}
    if secret is None or not secret.files.sds:
        return {"name": name}
    source: Data = {"path": secret.files.sds}
    if secret.files.watched_directory:
        source["watched_directory"] = {"path": secret.files.watched_directory}
    return {"name": name.removesuffix(f" of {secret.files.sds}"), "sds_config": {"path_config_source": source}}


def _in_place(name: str, secrets: Secrets) -> Secret | None:
    """The secret, when it is written where it is used."""
    secret = secrets.get(name)
    return secret if secret is not None and _is_inline(secret) else None


def downstream(tls: DownstreamTls, secrets: Secrets) -> Data:
    """A filter chain's transport socket."""
    common = _params(tls.params)
    own = [secret for name in tls.certificates if (secret := _in_place(name, secrets)) is not None]
    if len(own) == len(tls.certificates):
        common["tls_certificates"] = [_certificate(secret) for secret in own]
    else:
        common["tls_certificate_sds_secret_configs"] = [_sds(name, secrets) for name in tls.certificates]
    common.update(_validation(tls.validation, secrets))
    put(common, "alpn_protocols", list(tls.alpn))
    put(common, "key_log", _key_log(tls.key_log))
    data: Data = {"common_tls_context": common}
    if tls.require_client_certificate:
        data["require_client_certificate"] = True
    if tls.ticket_keys:
        keys = _in_place(tls.ticket_keys, secrets)
        if keys is not None:
            data["session_ticket_keys"] = _ticket_keys(keys)
        else:
            data["session_ticket_keys_sds_secret_config"] = _sds(tls.ticket_keys, secrets)
    if not tls.stateless_resumption:
        data["disable_stateless_session_resumption"] = True
    if not tls.stateful_resumption:
        data["disable_stateful_session_resumption"] = True
    if tls.session_timeout_s != 7200.0:
        data["session_timeout"] = duration(tls.session_timeout_s)
    put(data, "ocsp_staple_policy", _OCSP.get(tls.ocsp_policy, ""))
    for field in ("full_scan_certs_on_sni_mismatch", "prefer_client_ciphers"):
        put(data, field, getattr(tls, field))
    return _socket("tls", "tls.v3.DownstreamTlsContext", data)


def upstream(cluster: Cluster, secrets: Secrets, lost: list[str]) -> Data:
    """A cluster's transport socket; empty when it needs none."""
    data = _upstream_tls(cluster.tls, cluster, secrets, lost) if cluster.tls is not None else {}
    if not cluster.proxy_protocol:
        return data
    config: Data = {"version": cluster.proxy_protocol.upper()}
    if cluster.proxy_protocol_tlvs != ():
        config["pass_through_tlvs"] = pass_through_tlvs(cluster.proxy_protocol_tlvs)
    inner = {"config": config, "transport_socket": data or _socket("raw_buffer", "raw_buffer.v3.RawBuffer", {})}
    return _socket("upstream_proxy_protocol", "proxy_protocol.v3.ProxyProtocolUpstreamTransport", inner)


def pass_through_tlvs(types: tuple[int, ...] | None) -> Data:
    return {"match_type": "INCLUDE_ALL"} if types is None else {"match_type": "INCLUDE", "tlv_type": list(types)}


def _upstream_tls(tls: UpstreamTls, cluster: Cluster, secrets: Secrets, lost: list[str]) -> Data:
    common = _params(tls.params)
    if tls.certificate:
        own = _in_place(tls.certificate, secrets)
        if own is not None:
            common["tls_certificates"] = [_certificate(own)]
        else:
            common["tls_certificate_sds_secret_configs"] = [_sds(tls.certificate, secrets)]
    common.update(_validation(tls.validation, secrets))
    if tls.alpn != UPSTREAM_ALPN.get(cluster.protocol, ()):
        put(common, "alpn_protocols", list(tls.alpn))
        if not tls.alpn:
            lost.append(f'cluster "{cluster.name}" tls alpn: Envoy always offers what it speaks')
    put(common, "key_log", _key_log(tls.key_log))
    data: Data = {"common_tls_context": common} if common else {}
    put(data, "sni", tls.sni)
    put(data, "auto_host_sni", tls.auto_host_sni)
    put(data, "auto_sni_san_validation", tls.auto_san_validation)
    if tls.max_session_keys != 1:
        data["max_session_keys"] = tls.max_session_keys
    if not tls.enforce_rsa_key_usage:
        data["enforce_rsa_key_usage"] = False
    return _socket("tls", "tls.v3.UpstreamTlsContext", data)


def _socket(name: str, kind: str, fields: Data) -> Data:
    return {"name": f"envoy.transport_sockets.{name}", "typed_config": typed(_SOCKETS + kind, fields)}


def _params(params: TlsParameters) -> Data:
    data: Data = {}
    put(data, "tls_minimum_protocol_version", _VERSIONS.get(params.min_version))
    put(data, "tls_maximum_protocol_version", _VERSIONS.get(params.max_version))
    put(data, "cipher_suites", list(params.ciphers))
    put(data, "ecdh_curves", list(params.curves))
    put(data, "signature_algorithms", list(params.signature_algorithms))
    return {"tls_params": data} if data else {}


def _key_log(log: KeyLog | None) -> Data:
    if log is None:
        return {}
    data: Data = {"path": log.path}
    put(data, "local_address_range", [cidr(text) for text in log.local_ranges])
    put(data, "remote_address_range", [cidr(text) for text in log.remote_ranges])
    return data


def _validation(validation: PeerValidation | None, secrets: Secrets) -> Data:
    """The field of a CommonTlsContext that says it."""
    if validation is None:
        return {}
    data: Data = {}
    put(data, "match_typed_subject_alt_names", [
        {"san_type": _SANS[san.kind], "matcher": string(san.value), **({"oid": san.oid} if san.oid else {})} for san in validation.sans
    ])
    put(data, "verify_certificate_spki", [base64.b64encode(pin).decode() for pin in validation.spki_pins])
    put(data, "verify_certificate_hash", [digest.hex() for digest in validation.hashes])
    put(data, "only_verify_leaf_cert_crl", validation.only_leaf_crl)
    put(data, "allow_expired_certificate", validation.allow_expired)
    put(data, "trust_chain_verification", "ACCEPT_UNTRUSTED" if validation.accept_untrusted else "")
    if validation.max_depth != 100:
        data["max_verify_depth"] = validation.max_depth
    if not validation.trusted_ca:
        return {"validation_context": data}
    own = _in_place(validation.trusted_ca, secrets)
    if own is not None:
        return {"validation_context": {**_ca(own), **data}}
    named = {"validation_context_sds_secret_config": _sds(validation.trusted_ca, secrets)}
    return {"combined_validation_context": {"default_validation_context": data, **named}} if data else named
