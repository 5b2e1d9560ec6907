"""TLS of the agent's own connections, to control planes and collectors, by the standard library's OpenSSL: what a cluster's upstream TLS says,
for a connection a day and not a thousand a second. Parts of it that this cannot do are refused, never left out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from gevent import ssl

from meshproxy.model import Certificate, PeerValidation, SanMatch, Secret, StringMatch, TrustedCa, UpstreamTls

_VERSIONS = {"1.0": ssl.TLSVersion.TLSv1, "1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""


def secured(opened: Any, tls: UpstreamTls, hostname: str, alpn: str, secrets: Mapping[str, Secret]) -> Any:
    """The socket after the handshake. Raises OSError (ssl.SSLError is one) or ValueError with what is wrong."""
    sni = tls.sni or (hostname if tls.auto_host_sni else "")
    wrapped = _context(tls, alpn, secrets).wrap_socket(opened, server_hostname=sni or None)
    try:
        if tls.validation is not None:
            _check(wrapped.getpeercert(binary_form=True), tls.validation, sni if tls.auto_san_validation else "")
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _context(tls: UpstreamTls, alpn: str, secrets: Mapping[str, Secret]) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # names are matched by the rules of the cluster
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = _VERSIONS[tls.params.min_version or "1.2"]
    if tls.params.max_version:
        context.maximum_version = _VERSIONS[tls.params.max_version]
    if tls.params.ciphers:
        context.set_ciphers(":".join(each.strip("[]").replace("|", ":") for each in tls.params.ciphers))
    context.set_alpn_protocols(list(tls.alpn) or [alpn])
    if tls.certificate:
        value = _value(secrets, tls.certificate, Certificate)
        with _file(value.chain_pem) as chain, _file(value.key_pem) as key:
            context.load_cert_chain(chain, key, value.passphrase or None)
    rules = tls.validation
    if rules is not None and rules.trusted_ca and not rules.accept_untrusted:
        ca = _value(secrets, rules.trusted_ca, TrustedCa)
        context.verify_mode = ssl.CERT_REQUIRED
        if ca.pem:
            with _file(ca.pem) as file:
                context.load_verify_locations(file)
        else:
            context.load_default_certs()
        if ca.crl_pem:
            with _file(ca.crl_pem) as file:
                context.load_verify_locations(file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF if rules.only_leaf_crl else ssl.VERIFY_CRL_CHECK_CHAIN
        if rules.allow_expired:
            context.verify_flags |= _NO_CHECK_TIME
    return context


def _value(secrets: Mapping[str, Secret], name: str, kind: type) -> Any:
    secret = secrets.get(name)
    if secret is None or not isinstance(secret.value, kind):
        raise ValueError(f'secret "{name}" is not there yet')
    return secret.value


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A path of bytes that are on no disk: the library reads keys from files alone."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _check(der: bytes | None, rules: PeerValidation, sni: str) -> None:
    """Raises ValueError when the certificate is not what it must be."""
    if der is None:
        raise ValueError("the server has shown no certificate")
    if not (rules.sans or rules.hashes or rules.spki_pins or sni):
        return
    certificate = x509.load_der_x509_certificate(der)
    if rules.hashes or rules.spki_pins:
        key = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if hashlib.sha256(der).digest() not in rules.hashes and hashlib.sha256(key).digest() not in rules.spki_pins:
            raise ValueError("the server's certificate is none of those that are pinned")
    named = _names(certificate)
    wanted = [*rules.sans, *([SanMatch("dns", StringMatch("exact", sni))] if sni else [])]
    if wanted and not any(matches(each, kind, name) for each in wanted for kind, name in named):
        shown = ", ".join(f"{kind} {name}" for kind, name in named) or "none"
        raise ValueError(f"no name of the server's certificate is one of those wanted (it has {shown})")


def _names(certificate: x509.Certificate) -> list[tuple[str, str]]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    kinds = {x509.DNSName: "dns", x509.UniformResourceIdentifier: "uri", x509.RFC822Name: "email", x509.IPAddress: "ip"}
    return [(kinds[type(name)], str(name.value)) for name in found if type(name) in kinds]


def matches(wanted: SanMatch, kind: str, name: str) -> bool:
    """Whether a name is the one wanted. A wildcard in a certificate's DNS name stands for one whole label."""
    if wanted.kind != kind:
        return False
    rule, value = wanted.value, wanted.value.value
    if rule.ignore_case or kind == "dns":
        name, value = name.lower(), value if rule.kind == "regex" else value.lower()
    if rule.kind == "exact":
        if kind == "dns" and name.startswith("*."):
            return "." in value and value.partition(".")[2] == name[2:]
        return name == value
    if rule.kind == "regex":
        import re2

        return re2.fullmatch(value, name) is not None
    return {"prefix": name.startswith, "suffix": name.endswith, "contains": lambda part: re.search(re.escape(part), name) is not None}[
        rule.kind
    ](value)
