"""What is read out of certificates, beside the `cryptography` library."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from meshproxy.workers.tls_certificate import describe

from tests.support.certificates import Authority, Issued, rsa_key

AUTHORITY = Authority('CA "one", of many')


@pytest.mark.parametrize("issued", [
    AUTHORITY.issue("a.test", "*.b.test", "10.0.0.1", "2001:db8::1", "spiffe://mesh/ns/a", "a@mesh.test", subject="x, y+z"),
    AUTHORITY.issue(key=rsa_key(), subject="no names"), AUTHORITY.issue("é".encode("idna").decode() + ".test"),
])
def test_all_that_it_says(issued: Issued) -> None:
    certificate, said = issued.certificate, describe(issued.pem)
    try:
        sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        sans = x509.SubjectAlternativeName([])
    der = certificate.public_bytes(serialization.Encoding.DER)
    info = certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    assert said["dns"] == [name.encode() for name in sans.get_values_for_type(x509.DNSName)]
    assert said["uri"] == [name.encode() for name in sans.get_values_for_type(x509.UniformResourceIdentifier)]
    assert said["email"] == [name.encode() for name in sans.get_values_for_type(x509.RFC822Name)]
    assert said["ip"] == [str(address).encode() for address in sans.get_values_for_type(x509.IPAddress)]
    assert int(said["serial"], 16) == certificate.serial_number
    assert said["sha256"].decode() == certificate.fingerprint(hashes.SHA256()).hex()
    assert said["sha1"].decode() == hashlib.sha1(der).hexdigest()
    assert (said["hash"], said["key_hash"]) == (hashlib.sha256(der).digest(), hashlib.sha256(info).digest())
    assert said["subject"].decode() == certificate.subject.rfc4514_string()
    assert said["issuer"].decode() == 'CN=CA \\"one\\"\\, of many'
    assert said["from"] == int(certificate.not_valid_before_utc.timestamp())
    assert said["until"] == int(certificate.not_valid_after_utc.timestamp())
    assert said["pem"] == certificate.public_bytes(serialization.Encoding.PEM)


def test_other_names_and_what_a_name_may_hide() -> None:
    """A name with a zero byte is told whole: whoever compares it must not stop there."""
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
    text = b"user@mesh"
    issued = AUTHORITY.issue(x509.OtherName(oid, bytes([12, len(text)]) + text), "good.test\0.evil.test")

    said = describe(issued.pem)
    assert said["other"] == [text]
    assert said["dns"] == [b"good.test\0.evil.test"]


def test_what_is_no_certificate_is_refused() -> None:
    for pem in (b"", b"nonsense", AUTHORITY.issue("a").key_pem(), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="no certificate in PEM form could be read"):
            describe(pem)
