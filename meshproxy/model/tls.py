"""How connections are secured: secrets by name, and what each side of a handshake offers and demands. Defaults are Envoy's.

A secret is a resource of its own, so that a certificate rotates without its listener. Contexts name secrets; who fills a secret in (the
loader from files or inline text, the agent when a file changes or a control plane sends another) does not matter to them.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from meshproxy.model.route import StringMatch
from meshproxy.model.xds import ConfigSource, without_metadata

_REDACTED = b"[redacted] sha256:"


class Certificate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="certificate"):
    """A certificate chain (PEM, leaf first) and its key."""

    chain_pem: bytes
    key_pem: bytes
    passphrase: bytes = b""
    """Of `key_pem`; empty = it is not encrypted."""
    ocsp_staple: bytes = b""
    """DER of the OCSP response to staple."""


class TrustedCa(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="trusted_ca"):
    """Whom a peer's chain may end at, and what was revoked. An empty `pem` stands for the system's own store."""

    pem: bytes = b""
    crl_pem: bytes = b""


class TicketKeys(msgspec.Struct, frozen=True, kw_only=True, tag="ticket_keys"):
    """Session ticket keys of 80 bytes each: the first encrypts, all decrypt."""

    keys: tuple[bytes, ...]


class SecretFiles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which files a secret was read from, to be read again when one changes; "" = not from a file (inline, or not set)."""

    chain: str = ""
    key: str = ""
    passphrase: str = ""
    ocsp_staple: str = ""
    ca: str = ""
    crl: str = ""
    ticket_keys: tuple[str, ...] = ()
    sds: str = ""
    """A file with a DiscoveryResponse that has the secret in Envoy's form (`path_config_source`)."""
    watched_directory: str = ""
    """Envoy's: only a move within this directory (a symbolic link swapped) makes the files be read again; "" = each file's own changes."""

    @property
    def named(self) -> list[str]:
        """All files, each once."""
        listed = (self.chain, self.key, self.passphrase, self.ocsp_staple, self.ca, self.crl, self.sds, *self.ticket_keys)
        return [file for file in dict.fromkeys(listed) if file]


class Secret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named secret; `value` None = it is waited for (its listener answers no handshake until it comes)."""

    name: str
    value: Certificate | TrustedCa | TicketKeys | None = None
    files: SecretFiles = SecretFiles()
    source: ConfigSource | None = None
    """Whom it is asked of (SDS); None = it is there, or in files."""
    sds_name: str = ""
    """The name that it is asked by; "" = it has no source."""
    rules_digest: str = ""
    """Of what the validation context that this CA is of says beside whom to trust; "" = nothing. What names it has the rest."""

    @property
    def has_rules(self) -> bool:
        """Whether it must not be handed out alone."""
        return bool(self.rules_digest)


def without_keys(secret: Secret) -> Secret:
    """The secret as it may be shown: what is private in it is only told apart (by SHA-256, which tells nothing of a key) and not told."""
    value: Certificate | TrustedCa | TicketKeys | None = secret.value
    if isinstance(value, Certificate):
        value = msgspec.structs.replace(value, key_pem=_digest(value.key_pem), passphrase=b"")
    elif isinstance(value, TicketKeys):
        value = TicketKeys(keys=tuple(map(_digest, value.keys)))
    source = without_metadata(secret.source) if secret.source is not None else None
    return msgspec.structs.replace(secret, value=value, source=source)


def _digest(private: bytes) -> bytes:
    # A second time is the same: what was shown once can be compared with what may be shown.
    return private if private.startswith(_REDACTED) else _REDACTED + hashlib.sha256(private).hexdigest().encode()


class TlsParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Versions and algorithms; empty = the default of the side that uses them."""

    min_version: Literal["", "1.0", "1.1", "1.2", "1.3"] = ""
    """"" = 1.2."""
    max_version: Literal["", "1.0", "1.1", "1.2", "1.3"] = ""
    """"" = 1.3 for a listener, 1.2 for a cluster: Envoy's defaults."""
    ciphers: tuple[str, ...] = ()
    """OpenSSL names, up to TLS 1.2, in order of preference. A group of equal preference is one entry, `[A|B]`."""
    curves: tuple[str, ...] = ()
    signature_algorithms: tuple[str, ...] = ()


class SanMatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """A condition on one subject alternative name of the peer's certificate; one that matches is enough."""

    kind: Literal["dns", "uri", "email", "ip", "other_name"]
    value: StringMatch
    oid: str = ""
    """Of an other_name."""


class PeerValidation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a peer's certificate must be. With a CA and pins or hashes both are demanded; of pins and hashes one."""

    trusted_ca: str = ""
    """Name of a TrustedCa secret; "" = the chain is not verified."""
    sans: tuple[SanMatch, ...] = ()
    spki_pins: tuple[bytes, ...] = ()
    """SHA-256 of the SubjectPublicKeyInfo, 32 bytes."""
    hashes: tuple[bytes, ...] = ()
    """SHA-256 of the DER certificate, 32 bytes."""
    only_leaf_crl: bool = False
    allow_expired: bool = False
    accept_untrusted: bool = False
    """The chain is looked at and may fail: told in metrics and attributes only (Envoy's ACCEPT_UNTRUSTED)."""
    max_depth: int = 100


class KeyLog(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Session secrets in NSS form, for Wireshark and the like; only of connections whose addresses are in the ranges (empty = all)."""

    path: str
    local_ranges: tuple[str, ...] = ()
    remote_ranges: tuple[str, ...] = ()


class DownstreamTls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """TLS that a filter chain terminates."""

    certificates: tuple[str, ...]
    """Names of Certificate secrets; which is used goes by SNI, then by key type (ECDSA before RSA), then by order."""
    params: TlsParameters = TlsParameters()
    alpn: tuple[str, ...] = ()
    validation: PeerValidation | None = None
    """None = no client certificate is asked for."""
    require_client_certificate: bool = False
    ticket_keys: str = ""
    """Name of a TicketKeys secret; "" = keys that the node makes and all its workers share."""
    stateless_resumption: bool = True
    stateful_resumption: bool = True
    session_timeout_s: float = 7200.0
    ocsp_policy: Literal["lenient", "strict", "must"] = "lenient"
    full_scan_certs_on_sni_mismatch: bool = False
    prefer_client_ciphers: bool = False
    key_log: KeyLog | None = None


class UpstreamTls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """TLS that a cluster originates."""

    sni: str = ""
    auto_host_sni: bool = False
    """The endpoint's host name is the SNI."""
    auto_sni: bool = False
    """The request's host is the SNI of a new connection (HttpProtocolOptions' `auto_sni`)."""
    auto_san_validation: bool = False
    """A SAN must match the SNI that was sent."""
    certificate: str = ""
    """Name of a Certificate secret to show when asked."""
    validation: PeerValidation | None = None
    params: TlsParameters = TlsParameters()
    alpn: tuple[str, ...] = ()
    max_session_keys: int = 1
    """Sessions kept for reuse; 0 = none."""
    enforce_rsa_key_usage: bool = True
    key_log: KeyLog | None = None
