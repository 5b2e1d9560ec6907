"""Rules of TLS settings that both forms obey: each takes a value and returns what is wrong with it, "" when nothing is."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from functools import cache

from meshproxy.config.problems import did_you_mean

CURVES = ("X25519", "P-256", "P-384", "P-521", "X448")
"""What the OpenSSL of Debian 12 (3.0) has of the groups in use."""
_LATER_CURVES = ("X25519MLKEM768", "X25519Kyber768Draft00", "MLKEM1024")
SIGNATURES = (
    "rsa_pkcs1_sha256", "rsa_pkcs1_sha384", "rsa_pkcs1_sha512", "ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512", "rsa_pss_rsae_sha256", "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512", "ed25519", "rsa_pkcs1_sha1",
    "ecdsa_sha1",
)
UPSTREAM_ALPN: dict[str, tuple[str, ...]] = {"http2": ("h2",), "auto": ("h2", "http/1.1")}
"""What is offered to endpoints by TLS, by the cluster's protocol, unless it is said."""
_HASH = re.compile(r"[0-9a-fA-F]{2}(?::?[0-9a-fA-F]{2}){31}\Z")


@cache
def ciphers() -> frozenset[str]:
    """OpenSSL's names up to TLS 1.2."""
    # Not at the top: who only writes settings needs no library.
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    return frozenset(cipher["name"] for cipher in context.get_ciphers() if not cipher["name"].startswith("TLS_"))


def cipher(entry: str) -> str:
    """One name, or `[A|B]`: a group of equal preference."""
    grouped = entry.startswith("[") and entry.endswith("]")
    for name in entry[1:-1].split("|") if grouped else [entry]:
        if name.startswith("TLS_"):
            return f'"{name}" is a cipher of TLS 1.3, where all are good and none is chosen. Remove it.'
        if name not in ciphers():
            return f'"{name}" is no cipher that OpenSSL knows{did_you_mean(name, ciphers())}. Correct or remove it.'
    return ""


def curve(name: str) -> str:
    if name in CURVES:
        return ""
    if name in _LATER_CURVES:
        return f'the curve "{name}" is not supported yet. Use {", ".join(CURVES)}.'
    return f'"{name}" is no curve{did_you_mean(name, CURVES)}. Use {", ".join(CURVES)}.'


def signature(name: str) -> str:
    near = did_you_mean(name, SIGNATURES)
    return "" if name in SIGNATURES else f'"{name}" is no signature algorithm{near}. Use {", ".join(SIGNATURES)}.'


def alpn(name: str) -> str:
    """RFC 7301 3.1: 1 to 255 bytes."""
    return "" if 1 <= len(name.encode()) <= 255 else f'the application protocol "{name[:20]}" has {len(name.encode())} bytes. Use 1 to 255.'


def versions(least: str, most: str) -> str:
    """The model's words; "" is 1.2 at the lower end."""
    if most and (least or "1.2") > most:
        return f"the highest version {most} is below the lowest, {least or '1.2'}. Raise it."
    return ""


def spki_pin(text: str) -> str:
    try:
        made = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        made = b""
    return "" if len(made) == 32 else f'the pin "{text}" is no base64 of a SHA-256. Make it with: {_PIN_COMMAND}.'


_PIN_COMMAND = "openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64"


def certificate_hash(text: str) -> str:
    """64 hexadecimal digits, with or without colons."""
    remedy = "Make it with: openssl x509 -in cert.pem -noout -fingerprint -sha256"
    return "" if _HASH.match(text) else f'the hash "{text}" is no SHA-256 in hexadecimal digits. {remedy}.'


def cidr(text: str) -> str:
    """An address with a length of prefix; bits beyond it may be set."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f'"{text}" is no range of addresses. Write it like "10.0.0.0/8" or "2001:db8::/32".'
    return ""


def server_name(name: str) -> str:
    """Of a chain match: exact or `*.suffix`."""
    if not name:
        return 'a server name is empty. Leave "server_names" out to match all.'
    if "*" in name.removeprefix("*.") or (name.startswith("*") and not name.startswith("*.")):
        return f'server name "{name}" has "*" inside. It may stand alone in front, as in "*.example.com".'
    return ""
