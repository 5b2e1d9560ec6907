"""What is wrong with certificates, keys, CAs, revocation lists and ticket keys: each is named with its file, its line and a remedy."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519

from meshproxy.clock import unix_s
from meshproxy.config.certificates import findings
from meshproxy.config.load import Loaded, load_with_warnings
from meshproxy.errors import ConfigError, Problem
from meshproxy.model import Certificate, SecretFiles, TrustedCa
from tests.support.certificates import Authority, Issued, ecdsa_key, rsa_key

AUTHORITY = Authority()
GOOD = AUTHORITY.issue("a.example")
OTHER = AUTHORITY.issue("a.example")
TLS = "listeners:\n- address: 127.0.0.1:1\n  respond: 200\n  tls:\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a good `a.pem`, `a.key`, `ca.pem`, `crl.pem`, `a.ocsp` and `t.key`."""
    GOOD.write(tmp_path, "a")
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.crl(OTHER))
    (tmp_path / "a.ocsp").write_bytes(AUTHORITY.ocsp(GOOD))
    (tmp_path / "t.key").write_bytes(b"k" * 80)
    return tmp_path


def load(folder: Path, **settings: str) -> Loaded:
    """A listener with these TLS settings, `cert` and `key` being there."""
    lines = "".join(f"    {name}: {value}\n" for name, value in {"cert": "a.pem", "key": "a.key", **settings}.items())
    (folder / "f.yaml").write_text(TLS + lines)
    return load_with_warnings(str(folder / "f.yaml"), {})


def problem(folder: Path, **settings: str) -> Problem:
    with pytest.raises(ConfigError) as refused:
        load(folder, **settings)
    assert len(refused.value.problems) == 1, [str(each) for each in refused.value.problems]
    return refused.value.problems[0]


def test_everything_good(folder: Path) -> None:
    loaded = load(folder, client_ca="ca.pem", crl="crl.pem", ocsp_staple="a.ocsp", ticket_keys="t.key")

    assert loaded.warnings == []
    assert [type(secret.value).__name__ for secret in loaded.snapshot.secrets] == ["TrustedCa", "Certificate", "TicketKeys"]


def test_files_are_relative_to_the_file_that_names_them(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "main.yaml").write_text("include: sub/*.yaml")
    (folder / "sub" / "f.yaml").write_text(TLS + "    {cert: ../a.pem, key: ../a.key}\n")

    secret, = load_with_warnings(str(folder / "main.yaml"), {}).snapshot.secrets
    assert (secret.files.chain, secret.files.key) == (f"{folder}/a.pem", f"{folder}/a.key")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.pem", "cannot read \"{folder}/missing.pem\": No such file or directory. Check the path."),
        (".", "cannot read \"{folder}\": Is a directory. Name a regular file."),
        ("empty.pem", "it has no certificate. Give the chain in PEM form"),
        ("a.key", "it has no certificate"),
        ("torn.pem", "no certificate can be read from it"),
    ],
)
def test_a_chain_that_is_none(folder: Path, name: str, words: str) -> None:
    (folder / "empty.pem").write_bytes(b"")
    (folder / "torn.pem").write_bytes(GOOD.pem[:300])
    found = problem(folder, cert=name)

    assert words.format(folder=folder) in found.message
    assert (found.path, found.line) == ("listeners[0].tls.cert", 5)


def test_a_file_that_may_not_be_read(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "a.key").chmod(0)

    assert "Permission denied. Let the user that runs meshproxy read it." in problem(folder).message


@pytest.mark.parametrize(
    ("issued", "words"),
    [
        (AUTHORITY.issue("a", valid_from_days=-90, valid_days=-1), "has expired on"),
        (AUTHORITY.issue("a", valid_from_days=2), "is not valid before"),
        (AUTHORITY.issue("a", key=rsa_key(1024)), "its RSA key has 1024 bits. Use 2048 bits or more"),
        (AUTHORITY.issue("a", key=ecdsa_key(ec.SECP256K1())), "on the curve secp256k1. Use one of P-256, P-384, P-521."),
        (AUTHORITY.issue("a", key=dsa.generate_private_key(1024)), "its key is of the kind DSA"),
    ],
)
def test_a_certificate_that_no_client_would_take(folder: Path, issued: Issued, words: str) -> None:
    issued.write(folder, "a")
    found = problem(folder)

    assert found.message.startswith(f'"{folder}/a.pem": ')
    assert words in found.message
    assert found.path == "listeners[0].tls.cert"


@pytest.mark.parametrize("key", [ecdsa_key(ec.SECP521R1()), rsa_key(), ed25519.Ed25519PrivateKey.generate()])
def test_keys_that_are_taken(folder: Path, key: object) -> None:
    AUTHORITY.issue("a", key=key).write(folder, "a")

    assert load(folder).warnings == []


def test_a_certificate_that_expires_soon(folder: Path) -> None:
    AUTHORITY.issue("a", valid_days=20.5).write(folder, "a")
    warning, = load(folder).warnings

    assert "in 20 days. Renew it." in warning.message
    assert (warning.path, warning.line) == ("listeners[0].tls.cert", 5)


def test_a_key_of_another_certificate(folder: Path) -> None:
    (folder / "a.key").write_bytes(OTHER.key_pem())
    found = problem(folder)

    assert found.message == (
        f'"{folder}/a.key": the private key is not that of the certificate. Give the key that the certificate was made for.'
    )
    assert (found.path, found.line) == ("listeners[0].tls.key", 6)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "it has no private key"), (GOOD.pem, "no private key can be read"), (b"-----BEGIN", "no private")]
)
def test_a_key_that_is_none(folder: Path, content: bytes, words: str) -> None:
    (folder / "a.key").write_bytes(content)

    assert words in problem(folder).message


def test_passphrases(folder: Path) -> None:
    GOOD.write(folder, "a", b"secret")
    (folder / "phrase").write_bytes(b"secret\r\n")

    assert "the private key is encrypted and there is no passphrase" in problem(folder).message
    wrong = problem(folder, passphrase="wrong")
    assert wrong.path == "listeners[0].tls.passphrase"
    assert "cannot be decrypted with this passphrase" in wrong.message
    assert "wrong" not in wrong.message
    assert load(folder, passphrase="secret").warnings == []
    assert load(folder, passphrase_file="phrase").warnings == []
    assert '"passphrase" and "passphrase_file" are both given' in problem(folder, passphrase="secret", passphrase_file="phrase").message


def test_an_old_kind_of_encrypted_key() -> None:
    """`Proc-Type: 4,ENCRYPTED`, as openssl wrote it for long."""
    pem = GOOD.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.BestAvailableEncryption(b"x")
    )

    assert findings(Certificate(chain_pem=GOOD.pem, key_pem=pem, passphrase=b"x"), SecretFiles(), unix_s()) == []
    wrong = findings(Certificate(chain_pem=GOOD.pem, key_pem=pem, passphrase=b"y"), SecretFiles(), unix_s())
    assert [each.part for each in wrong] == ["passphrase"]


def test_the_order_of_a_chain(folder: Path) -> None:
    between = Authority("between", AUTHORITY)
    lower = Authority("lower", between)
    issued = lower.issue("a.example")
    issued.write(folder, "a")
    assert load(folder).warnings == []

    parts = [part + b"-----END CERTIFICATE-----\n" for part in issued.pem.split(b"-----END CERTIFICATE-----\n")[:-1]]
    (folder / "a.pem").write_bytes(parts[0] + parts[2] + parts[1])
    assert "certificate 2 of the chain (CN=between) has issued none of those before it" in problem(folder).message
    (folder / "a.pem").write_bytes(parts[1] + parts[0])
    with pytest.raises(ConfigError) as refused:
        load(folder)
    assert any("the private key is that of certificate 2 of the chain" in each.message for each in refused.value.problems)


def test_a_key_in_the_file_of_its_certificate(folder: Path) -> None:
    (folder / "both.pem").write_bytes(GOOD.pem + GOOD.key_pem())
    (folder / "f.yaml").write_text(TLS + "    cert: both.pem\n")

    secret, = load_with_warnings(str(folder / "f.yaml"), {}).snapshot.secrets
    assert secret.files.key == secret.files.chain == f"{folder}/both.pem"


@pytest.mark.parametrize(
    ("setting", "file", "content", "words"),
    [
        ("client_ca", "ca.pem", b"", "the file is empty"),
        ("client_ca", "ca.pem", GOOD.key_pem(), "it has no certificate. Give CA certificates"),
        ("client_ca", "ca.pem", AUTHORITY.issue("x", valid_from_days=-9, valid_days=-1).pem, "all of its certificates have expired"),
        ("ocsp_staple", "a.ocsp", b"no", "it is no OCSP response"),
        ("ocsp_staple", "a.ocsp", AUTHORITY.ocsp(OTHER), "it is about another certificate"),
        ("ticket_keys", "t.key", b"k" * 79, "a session ticket key has 79 bytes. Make one of 80 bytes: openssl rand 80."),
    ],
)
def test_other_files(folder: Path, setting: str, file: str, content: bytes, words: str) -> None:
    (folder / file).write_bytes(content)
    found = problem(folder, **{setting: file})

    assert words in found.message
    assert found.path.startswith(f"listeners[0].tls.{setting}")


@pytest.mark.parametrize(("content", "words"), [(b"", "the file is empty"), (AUTHORITY.pem, "it has no revocation list")])
def test_a_revocation_list_that_is_none(folder: Path, content: bytes, words: str) -> None:
    (folder / "crl.pem").write_bytes(content)
    found = problem(folder, client_ca="ca.pem", crl="crl.pem")

    assert words in found.message
    assert found.path == "listeners[0].tls.crl"


def test_lists_that_are_too_old_are_told(folder: Path) -> None:
    """They are taken: that nobody passes is what the CA said, and one that is renewed is read again."""
    (folder / "crl.pem").write_bytes(AUTHORITY.crl(valid_days=-1))
    (folder / "a.ocsp").write_bytes(AUTHORITY.ocsp(GOOD, valid_days=-1))
    told = [each.message for each in load(folder, client_ca="ca.pem", crl="crl.pem", ocsp_staple="a.ocsp").warnings]

    assert len(told) == 2
    assert any("no peer passes" in message for message in told)
    assert any("Fetch it again" in message for message in told)


def test_a_certificate_of_no_known_version(folder: Path) -> None:
    der = AUTHORITY.certificate.public_bytes(serialization.Encoding.DER)
    der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x12", 1)
    (folder / "ca.pem").write_text(ssl.DER_cert_to_PEM_cert(der))
    found = findings(TrustedCa(pem=(folder / "ca.pem").read_bytes()), SecretFiles(), unix_s())

    assert "18 is not a valid X509 version" in found[0].text


def test_one_expired_ca_of_several_is_no_reason() -> None:
    expired = AUTHORITY.issue("x", valid_from_days=-9, valid_days=-1)

    assert findings(TrustedCa(pem=expired.pem + AUTHORITY.pem), SecretFiles(), unix_s()) == []
