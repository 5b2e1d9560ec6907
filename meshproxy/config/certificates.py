"""What is wrong with a certificate, its key, a CA file, a revocation list or ticket keys: found before a client finds it.

The rules are those of the TLS library (and BoringSSL's on key sizes and curves, so that what is accepted here works in Envoy too), and what
no client would accept. Imported by the loader, the agent and the commands only.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp

from meshproxy.config.secrets import TICKET_KEY_BYTES
from meshproxy.model import Certificate, SecretFiles, TicketKeys, TrustedCa

SOON_DAYS = 30
"""A certificate that ends sooner is told of: half of what is left when a 90 day certificate should have been renewed."""
LEAST_RSA_BITS = 2048
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class Finding(NamedTuple):
    """What is wrong. `part` is a field of SecretFiles; `harmless` = it can be used all the same; `by_time` = only the date is wrong."""

    part: str
    text: str
    harmless: bool = False
    by_time: bool = False


def findings(value: Certificate | TrustedCa | TicketKeys, files: SecretFiles, now_s: float) -> list[Finding]:
    """All that is wrong at a time (Unix seconds), in the order of reading. `files` are those that the value is from."""
    if empty := [Finding(part, "the file is empty. Write it again, or remove the setting.") for part in _empty(value, files)]:
        return empty
    if isinstance(value, Certificate):
        return list(_certificate(value, now_s))
    if isinstance(value, TrustedCa):
        return list(_trusted_ca(value, now_s))
    return list(_ticket_keys(value))


def _empty(value: Certificate | TrustedCa | TicketKeys, files: SecretFiles) -> Iterator[str]:
    """Parts that a file is named for and that are not there: they must not be taken for parts that nobody asked for."""
    for part, field in (("ocsp_staple", "ocsp_staple"), ("ca", "pem"), ("crl", "crl_pem")):
        if getattr(files, part) and not getattr(value, field, b""):
            yield part


def chain_of(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM text in their order. Raises ValueError."""
    try:
        return x509.load_pem_x509_certificates(pem) if _PEM_CERTIFICATE in pem else []
    except x509.InvalidVersion as error:
        # The library's own, and no ValueError as for all else that is wrong.
        raise ValueError(str(error)) from None


def _certificate(value: Certificate, now_s: float) -> Iterator[Finding]:
    try:
        chain = chain_of(value.chain_pem)
    except ValueError as error:
        yield Finding("chain", f"no certificate can be read from it: {_first_line(error)}. Give the chain in PEM form.")
        return
    if not chain:
        yield Finding("chain", "it has no certificate. Give the chain in PEM form, the server's own first.")
        return
    yield from _validity(chain, now_s)
    yield from _strength(chain[0])
    yield from _order(chain)
    yield from _key(value, chain)
    if value.ocsp_staple:
        yield from _staple(value.ocsp_staple, chain[0], now_s)


def _validity(chain: list[x509.Certificate], now_s: float) -> Iterator[Finding]:
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    for index, certificate in enumerate(chain):
        name = _name(certificate, index)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now < begin:
            early = f"{name} is not valid before {_day(begin)}. Use another, or set the machine's clock right."
            yield Finding("chain", early, by_time=True)
        elif now > end:
            yield Finding("chain", f"{name} has expired on {_day(end)}. Renew it.", by_time=True)
        elif (end - now).days < SOON_DAYS:
            soon = f"{name} expires on {_day(end)}, in {(end - now).days} days. Renew it."
            yield Finding("chain", soon, harmless=True, by_time=True)


def _strength(leaf: x509.Certificate) -> Iterator[Finding]:
    try:
        key = leaf.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        yield Finding("chain", f"its public key is of no known kind: {_first_line(error)}. Use RSA or ECDSA P-256.")
        return
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < LEAST_RSA_BITS:
            yield Finding("chain", f"its RSA key has {key.key_size} bits. Use {LEAST_RSA_BITS} bits or more, or ECDSA P-256.")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            yield Finding("chain", f"its key is on the curve {key.curve.name}. Use one of {', '.join(CURVES.values())}.")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
        yield Finding("chain", f"its key is of the kind {kind}. Use RSA or ECDSA P-256.")


def _order(chain: list[x509.Certificate]) -> Iterator[Finding]:
    """Each one after the first has issued one before it: a client does not look for another order."""
    for index in range(1, len(chain)):
        if not any(before.issuer == chain[index].subject for before in chain[:index]):
            name = _name(chain[index], index)
            yield Finding("chain", f"{name} has issued none of those before it. Put the server's own first, then who issued it, and so on.")
            return


def _key(value: Certificate, chain: list[x509.Certificate]) -> Iterator[Finding]:
    if b"-----BEGIN" not in value.key_pem:
        yield Finding("key", "it has no private key. Give it in PEM form.")
        return
    encrypted = b"ENCRYPTED" in value.key_pem
    if encrypted and not value.passphrase:
        yield Finding("key", "the private key is encrypted and there is no passphrase. Give one, or decrypt the key.")
        return
    try:
        key = serialization.load_pem_private_key(value.key_pem, value.passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        part, wrong = "key", f"no private key can be read from it: {_first_line(error)}. Give it in PEM form."
        if encrypted:
            part = "passphrase"
            wrong = "the private key cannot be decrypted with this passphrase. Correct it."
        yield Finding(part, wrong)
        return
    ours = _spki(key.public_key())
    owners = [index for index, certificate in enumerate(chain) if _spki_of(certificate) == ours]
    if not owners:
        yield Finding("key", "the private key is not that of the certificate. Give the key that the certificate was made for.")
    elif owners[0] != 0:
        yield Finding("chain", f"the private key is that of certificate {owners[0] + 1} of the chain. Put the server's own first.")


def _staple(staple: bytes, leaf: x509.Certificate, now_s: float) -> Iterator[Finding]:
    try:
        response = ocsp.load_der_ocsp_response(staple)
    except ValueError as error:
        yield Finding("ocsp_staple", f"it is no OCSP response: {_first_line(error)}. Give one in DER form.")
        return
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        yield Finding("ocsp_staple", f"the responder answered {response.response_status.name}. Fetch it again.")
        return
    if response.serial_number != leaf.serial_number:
        yield Finding("ocsp_staple", "it is about another certificate. Fetch the one of this certificate.")
    end = response.next_update_utc
    if end is not None and end.timestamp() < now_s:
        yield Finding("ocsp_staple", f"it has expired on {_day(end)}. Fetch it again.", harmless=True)


def _trusted_ca(value: TrustedCa, now_s: float) -> Iterator[Finding]:
    if value.pem:
        try:
            found = chain_of(value.pem)
        except ValueError as error:
            yield Finding("ca", f"no certificate can be read from it: {_first_line(error)}. Give CA certificates in PEM form.")
            return
        if not found:
            yield Finding("ca", "it has no certificate. Give CA certificates in PEM form.")
            return
        ends = max(certificate.not_valid_after_utc for certificate in found)
        if ends.timestamp() < now_s:
            # A store of many has some that are over; only when all are, no peer can be verified.
            yield Finding("ca", f"all of its certificates have expired, the last on {_day(ends)}. Renew it.", by_time=True)
    if value.crl_pem:
        yield from _crls(value.crl_pem, now_s)


def _crls(pem: bytes, now_s: float) -> Iterator[Finding]:
    lists = _CRL.findall(pem)
    if not lists:
        yield Finding("crl", "it has no revocation list. Give it in PEM form (BEGIN X509 CRL).")
    for one in lists:
        try:
            crl = x509.load_pem_x509_crl(one)
        except (ValueError, x509.InvalidVersion) as error:
            yield Finding("crl", f"a revocation list in it cannot be read: {_first_line(error)}. Give it in PEM form.")
            continue
        end = crl.next_update_utc
        if end is not None and end.timestamp() < now_s:
            wrong = f"the list of {crl.issuer.rfc4514_string()} was to be renewed by {_day(end)}: no peer passes. Fetch it again."
            yield Finding("crl", wrong, harmless=True)


def _ticket_keys(value: TicketKeys) -> Iterator[Finding]:
    for index, key in enumerate(value.keys):
        if len(key) != TICKET_KEY_BYTES:
            wrong = f"a session ticket key has {len(key)} bytes. Make one of {TICKET_KEY_BYTES} bytes: openssl rand {TICKET_KEY_BYTES}."
            yield Finding(f"ticket_keys[{index}]", wrong)


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _spki_of(certificate: x509.Certificate) -> bytes:
    try:
        return _spki(certificate.public_key())
    except (UnsupportedAlgorithm, ValueError):
        return b""


def _name(certificate: x509.Certificate, index: int) -> str:
    which = "the certificate" if index == 0 else f"certificate {index + 1} of the chain"
    subject = certificate.subject.rfc4514_string()
    return f"{which} ({subject})" if subject else which


def _day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
