"""Secrets that are files stay files in both written forms, and none of their content is in what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshproxy.config.envoy import write as envoy
from meshproxy.config.load import load_text, load_with_warnings
from meshproxy.config.native import write as native
from meshproxy.model import Snapshot
from tests.support.certificates import Authority

NATIVE = """
secrets:
  server: {cert: a.pem, key: a.key, passphrase_file: phrase, ocsp_staple: a.ocsp, watched_directory: /var/run}
  roots: {ca: ca.pem, crl: crl.pem}
listeners:
- address: 127.0.0.1:1
  respond: 200
  tls: {cert: a.pem, key: a.key, passphrase_file: phrase, client_ca: ca.pem, crl: crl.pem, ticket_keys: [t.key, t.key]}
- address: 127.0.0.1:2
  tcp: c
  tls: {certificates: [server, {cert: b.pem, key: b.key}], client_ca: {secret: roots}}
clusters:
  c: {endpoints: "c:1", tls: {ca: ca.pem, cert: b.pem, key: b.key}}
  d: {endpoints: "d:1", tls: {ca: {secret: roots}, certificate: server}}
"""
SDS = """
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: server
  tls_certificate: {{certificate_chain: {{filename: {folder}/b.pem}}, private_key: {{filename: {folder}/b.key}}}}
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: peers
  validation_context:
    trusted_ca: {{filename: {folder}/ca.pem}}
    match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: b.example}}}}]
"""
BOOTSTRAP = """
static_resources:
  clusters:
  - name: c
    type: STRICT_DNS
    load_assignment: {{cluster_name: c}}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificate_sds_secret_configs: [{{name: server, sds_config: {{path_config_source: {{path: {folder}/sds.yaml}}}}}}]
          validation_context_sds_secret_config: {{name: {name}, sds_config: {{path_config_source: {{path: {folder}/sds.yaml}}}}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = Authority()
    issued, other = authority.issue("a.example"), authority.issue("b.example")
    issued.write(tmp_path, "a", b"secret")
    other.write(tmp_path, "b")
    for name, content in (
        ("ca.pem", authority.pem), ("crl.pem", authority.crl()), ("a.ocsp", authority.ocsp(issued)), ("phrase", b"secret\n"),
        ("t.key", b"k" * 80),
        ("sds.yaml", SDS.format(folder=tmp_path).encode()), ("f.yaml", NATIVE.encode()),
    ):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def written(snapshot: Snapshot) -> tuple[str, str]:
    data, lost = envoy.to_data(snapshot)
    assert lost == []
    return native.to_yaml(snapshot), json.dumps(data)


def test_files_stay_files(folder: Path) -> None:
    snapshot = load_with_warnings(str(folder / "f.yaml"), {}).snapshot

    assert len(snapshot.secrets) == 7
    for text in written(snapshot):
        assert "-----BEGIN" not in text
        again = load_text(text, {}).snapshot
        assert again.secrets == snapshot.secrets
        assert [item.chains[0].tls for item in again.listeners] == [item.chains[0].tls for item in snapshot.listeners]
        assert [item.tls for item in again.clusters] == [item.tls for item in snapshot.clusters]


def test_a_secret_in_a_file_of_envoys_form(folder: Path) -> None:
    snapshot = load_text(BOOTSTRAP.format(folder=folder, name="peers"), {}).snapshot
    tls = snapshot.clusters[0].tls

    assert [secret.name for secret in snapshot.secrets] == [f"peers of {folder}/sds.yaml", f"server of {folder}/sds.yaml"]
    assert (tls.certificate, tls.validation.trusted_ca) == (f"server of {folder}/sds.yaml", f"peers of {folder}/sds.yaml")
    assert [san.value.value for san in tls.validation.sans] == ["b.example"]
    _, text = written(snapshot)
    assert load_text(text, {}).snapshot == snapshot


@pytest.mark.parametrize(
    ("name", "words"),
    [("nobody", 'has no secret "nobody"'), ("server", "is of the kind certificate, and a validation context is needed")],
)
def test_a_secret_that_the_file_does_not_have(folder: Path, name: str, words: str) -> None:
    from meshproxy.errors import ConfigError

    with pytest.raises(ConfigError) as refused:
        load_text(BOOTSTRAP.format(folder=folder, name=name), {})

    assert [words in problem.message for problem in refused.value.problems] == [True]
