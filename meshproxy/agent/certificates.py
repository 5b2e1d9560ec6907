"""What is told about the node's certificates, and when the first of them expires."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from meshproxy.model import Certificate, Secret, TrustedCa

if TYPE_CHECKING:
    from cryptography import x509

DAY_S = 86400


class CertificateFacts(msgspec.Struct, frozen=True):
    """One certificate. Times are Unix seconds; `sans` are pairs of Envoy's word (`dns`, `uri`, `ip_address`) and the name; `staple` are
    the times of its OCSP response."""

    path: str
    serial: str
    sans: tuple[tuple[str, str], ...]
    valid_from_s: float
    expires_s: float
    staple: tuple[float, float] | None = None

    def days_left(self, now_s: float) -> int:
        """Whole days; 0 when it is over."""
        return max(0, int((self.expires_s - now_s) // DAY_S))


def facts_of(secret: Secret) -> CertificateFacts | None:
    """Of a certificate (the peer's own, not what signed it) or of the first of a CA file; None for what has none."""
    value, path = secret.value, ""
    if isinstance(value, Certificate):
        pem, path = value.chain_pem, secret.files.chain
    elif isinstance(value, TrustedCa) and value.pem:
        pem, path = value.pem, secret.files.ca
    else:
        return None
    # Not at the top: a node without secrets does without the library.
    from meshproxy.config.certificates import chain_of

    try:
        first = chain_of(pem)[0]
    except (ValueError, IndexError):
        return None
    return CertificateFacts(
        path=path or "<inline>",
        serial=_even(f"{first.serial_number:x}"),
        sans=tuple(_sans(first)),
        valid_from_s=_unix_s(first.not_valid_before_utc),
        expires_s=_unix_s(first.not_valid_after_utc),
        staple=_staple(value),
    )


def _staple(value: Certificate | TrustedCa) -> tuple[float, float] | None:
    if not isinstance(value, Certificate) or not value.ocsp_staple:
        return None
    from cryptography.x509 import ocsp

    try:
        response = ocsp.load_der_ocsp_response(value.ocsp_staple)
        begin, end = response.this_update_utc, response.next_update_utc
    except ValueError:
        return None
    return (_unix_s(begin), _unix_s(end)) if begin is not None and end is not None else None


def _even(digits: str) -> str:
    """Whole bytes, as tools print a serial number."""
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _unix_s(moment: datetime.datetime) -> float:
    return moment.timestamp()


def _sans(certificate: x509.Certificate) -> Iterator[tuple[str, str]]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return
    for kind, word in ((x509.DNSName, "dns"), (x509.UniformResourceIdentifier, "uri"), (x509.IPAddress, "ip_address")):
        yield from ((word, str(name.value)) for name in names if isinstance(name, kind))
