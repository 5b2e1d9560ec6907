"""Certificates for tests, made when they are asked for: an authority, and what it signs. ECDSA P-256 unless another key is given."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp as ocsp_
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def ecdsa_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key. `chain` has those above it, without the root."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (self.certificate, *self.chain))

    def key_pem(self, passphrase: bytes = b"") -> bytes:
        locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)

    def write(self, folder: Path, name: str, passphrase: bytes = b"") -> tuple[Path, Path]:
        """`name.pem` and `name.key` in a folder."""
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(self.pem)
        key.write_bytes(self.key_pem(passphrase))
        return chain, key


class Authority:
    """Signs certificates. `of`: an intermediate of another authority."""

    def __init__(self, name: str = "test CA", of: Authority | None = None, key: Key | None = None) -> None:
        self.key = key or ecdsa_key()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._above: tuple[x509.Certificate, ...] = ()
        if of is not None:
            self._above = of._links()
        self._root = of is None
        issuer, signer = (of.name, of.key) if of is not None else (self.name, self.key)
        # Half a day more than whole ones: whoever counts the days that are left gets the same, a second sooner or later.
        builder = _builder(self.name, issuer, self.key, 1, 3650.5)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        self.certificate = builder.sign(signer, _digest(signer))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, *sans: str | x509.GeneralName, subject: str = "", key: Key | None = None, valid_from_days: float = -1,
        valid_days: float = 365, usage: x509.KeyUsage | None = None,
    ) -> Issued:
        """A certificate for DNS names, IP addresses, `spiffe://` (or other) URIs and `user@host`; days count from now."""
        key = key or ecdsa_key()
        names = [san for san in sans[:1] if isinstance(san, str) and "/" not in san]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or (names or ["test"])[0])])
        builder = _builder(name, self.name, key, -valid_from_days, valid_days)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(san) for san in sans]), critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        return Issued(builder.sign(self.key, _digest(self.key)), key, self._links())

    def crl(self, *revoked: Issued, valid_days: float = 30) -> bytes:
        """A revocation list, PEM."""
        now = _now()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(now - datetime.timedelta(days=60)).next_update(now + datetime.timedelta(days=valid_days))
        for one in revoked:
            gone = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number).revocation_date(now).build()
            builder = builder.add_revoked_certificate(gone)
        return builder.sign(self.key, _digest(self.key)).public_bytes(serialization.Encoding.PEM)

    def ocsp(self, issued: Issued, valid_days: float = 7) -> bytes:
        """A response that says that the certificate is good, DER."""
        now = _now()
        builder = ocsp_.OCSPResponseBuilder().add_response(
            issued.certificate, self.certificate, hashes.SHA1(), ocsp_.OCSPCertStatus.GOOD, now - datetime.timedelta(days=8),
            now + datetime.timedelta(days=valid_days), None, None,
        )
        builder = builder.responder_id(ocsp_.OCSPResponderEncoding.HASH, self.certificate)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def _links(self) -> tuple[x509.Certificate, ...]:
        """What a server sends with a certificate of this authority: not the root."""
        return () if self._root else (self.certificate, *self._above)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _builder(name: x509.Name, issuer: x509.Name, key: Key, since_days: float, valid_days: float) -> x509.CertificateBuilder:
    now = _now()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=since_days))
    return builder.not_valid_after(now + datetime.timedelta(days=valid_days))


def _general(san: str | x509.GeneralName) -> x509.GeneralName:
    if isinstance(san, x509.GeneralName):
        return san
    if "://" in san:
        return x509.UniformResourceIdentifier(san)
    if "@" in san:
        return x509.RFC822Name(san)
    try:
        return x509.IPAddress(ipaddress.ip_address(san))
    except ValueError:
        return x509.DNSName(san)


def _digest(key: Key) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
