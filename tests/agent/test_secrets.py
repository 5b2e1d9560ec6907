"""Secrets follow their files: what changed is published, what is bad is told once and what was before stays."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshproxy.agent.secrets import SecretFiles
from meshproxy.config.load import load_text
from meshproxy.model import Secret
from tests.support.certificates import Authority, Issued

SERVER = "listeners: [{{address: '127.0.0.1:1', respond: 200, tls: {{cert: {folder}/a.pem, key: {folder}/a.key}}}}]"
SDS = """
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: server
  tls_certificate:
    certificate_chain: {{filename: {folder}/a.pem}}
    private_key: {{filename: {folder}/{key}.key}}
"""


@dataclass
class Journal:
    lines: list[str] = field(default_factory=list)

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(f"info {event} {fields}")

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(f"warning {event} {fields}")

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(f"error {event} {fields}")


class Scene:
    """A folder with `a.pem` and `a.key`, and who follows them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.published: list[Secret] = []
        self.journal = Journal()
        self.put(self.authority.issue("a.example"))
        self.files = SecretFiles(self.published.append, self.journal, lambda function: function())  # type: ignore[arg-type]

    def load(self, text: str = SERVER) -> list[Secret]:
        secrets = list(load_text(text.format(folder=self.folder), {}).snapshot.secrets)
        self.files.watch(secrets)
        return secrets

    def put(self, issued: Issued, *, cert: bool = True, key: bool = True) -> None:
        """Each file at once: written beside and moved over."""
        for there, name, content in ((cert, "a.pem", issued.pem), (key, "a.key", issued.key_pem())):
            if there:
                self.put_file(name, content)

    def put_file(self, name: str, content: bytes) -> None:
        (self.folder / "new").write_bytes(content)
        os.replace(self.folder / "new", self.folder / name)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.files.look()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_nothing_is_published_while_nothing_changes(scene: Scene) -> None:
    scene.load()
    scene.look(3)

    assert scene.published == []
    assert scene.journal.lines == []


def test_a_change_is_published_under_the_same_name(scene: Scene) -> None:
    before, = scene.load()
    scene.look()
    renewed = scene.authority.issue("a.example")
    scene.put(renewed)
    scene.look(2)

    assert [(each.name, each.value.chain_pem, each.value.key_pem) for each in scene.published] == [
        (before.name, renewed.pem, renewed.key_pem())
    ]
    assert scene.files.counters() == {"server.secret_updates": 1, "server.secret_updates_rejected": 0}


def test_a_change_between_loading_and_watching_is_seen(scene: Scene) -> None:
    text = SERVER.format(folder=scene.folder)
    loaded = load_text(text, {}).snapshot.secrets
    renewed = scene.authority.issue("a.example")
    scene.put(renewed)
    scene.files.watch(loaded)
    scene.look()

    assert [each.value.chain_pem for each in scene.published] == [renewed.pem]


def test_files_that_change_one_after_the_other_are_not_told(scene: Scene) -> None:
    scene.load()
    scene.look()
    renewed = scene.authority.issue("a.example")
    scene.put(renewed, key=False)
    scene.look()
    scene.put(renewed, cert=False)
    scene.look()

    assert [each.value.chain_pem for each in scene.published] == [renewed.pem]
    assert scene.files.rejections == 0


def test_a_bad_pair_is_told_once_and_the_old_stays(scene: Scene) -> None:
    scene.load()
    scene.look()
    scene.put(scene.authority.issue("a.example"), key=False)
    scene.look(4)

    assert scene.published == []
    assert scene.files.counters() == {"server.secret_updates": 0, "server.secret_updates_rejected": 1}
    line, = scene.journal.lines
    assert line.startswith("error secret is not taken")
    assert f"{scene.folder}/a.key" in line
    assert "is not that of the certificate" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "it has no certificate"), (None, "No such file"), (b"-----BEGIN CERTIFICATE-----\nx", "no certificate can be read")],
)
def test_files_that_are_no_certificates(scene: Scene, content: bytes | None, words: str) -> None:
    scene.load()
    scene.look()
    if content is None:
        (scene.folder / "a.pem").unlink()
    else:
        scene.put_file("a.pem", content)
    scene.look(3)

    assert scene.published == []
    assert scene.files.rejections == 1
    assert words in scene.journal.lines[0]


@pytest.mark.parametrize("name", ["ca.pem", "crl.pem"])
def test_a_file_that_was_emptied_turns_no_check_off(scene: Scene, name: str) -> None:
    scene.put_file("ca.pem", scene.authority.pem)
    scene.put_file("crl.pem", scene.authority.crl())
    scene.load("clusters: {{c: {{endpoints: 'c:1', tls: {{ca: {folder}/ca.pem, crl: {folder}/crl.pem}}}}}}")
    scene.look()
    scene.put_file(name, b"")
    scene.look(2)

    assert scene.published == []
    assert "the file is empty" in scene.journal.lines[0]


def test_an_expired_certificate_does_not_take_the_place_of_a_good_one(scene: Scene) -> None:
    scene.load()
    scene.look()
    scene.put(scene.authority.issue("a.example", valid_from_days=-10, valid_days=-1))
    scene.look(2)

    assert scene.published == []
    assert "has expired" in scene.journal.lines[0]


def test_after_a_bad_one_a_good_one_is_taken(scene: Scene) -> None:
    scene.load()
    scene.look()
    scene.put_file("a.pem", b"")
    scene.look(2)
    renewed = scene.authority.issue("a.example")
    scene.put(renewed)
    scene.look()

    assert [each.value.chain_pem for each in scene.published] == [renewed.pem]


def test_a_link_that_is_swapped(tmp_path: Path) -> None:
    """As Kubernetes mounts secrets: a folder of links into a folder that is a link itself."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    authority = Authority()
    authority.issue("a.example").write(tmp_path / "one", "a")
    renewed = authority.issue("a.example")
    renewed.write(tmp_path / "two", "a")
    (tmp_path / "now").symlink_to("one")
    scene = Scene(tmp_path / "one")
    secrets = load_text(SERVER.format(folder=tmp_path / "now"), {}).snapshot.secrets
    scene.files.watch(secrets)
    scene.look()
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "now")
    scene.look()

    assert [each.value.chain_pem for each in scene.published] == [renewed.pem]


def test_a_watched_directory_is_what_counts(scene: Scene) -> None:
    (scene.folder / "moves").mkdir()
    scene.load(
        "secrets: {{s: {{cert: {folder}/a.pem, key: {folder}/a.key, watched_directory: {folder}/moves}}}}\n"
        "listeners: [{{address: '127.0.0.1:1', respond: 200, tls: {{certificates: s}}}}]"
    )
    scene.look()
    renewed = scene.authority.issue("a.example")
    scene.put(renewed)
    scene.look()
    assert scene.published == []

    (scene.folder / "moves" / "x").touch()
    scene.look()
    assert [each.value.chain_pem for each in scene.published] == [renewed.pem]


def test_a_secret_that_is_gone_is_not_followed(scene: Scene) -> None:
    secret, = scene.load()
    scene.look()
    scene.files.forget([secret.name])
    scene.put(scene.authority.issue("a.example"))
    scene.look(2)

    assert scene.published == []


def test_a_file_with_a_secret_in_envoys_form(scene: Scene) -> None:
    """Its content, and the files that it names, are both followed."""
    tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    scene.put_file("sds.yaml", SDS.format(folder=scene.folder, key="a").encode())
    scene.load(f"""
static_resources:
  listeners:
  - address: {{{{socket_address: {{{{address: 127.0.0.1, port_value: 1}}}}}}}}
    filter_chains:
    - filters:
      - name: echo
        typed_config: {{{{"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}}}
      transport_socket:
        name: tls
        typed_config:
          "@type": {tls}
          common_tls_context:
            tls_certificate_sds_secret_configs:
            - {{{{name: server, sds_config: {{{{path_config_source: {{{{path: {{folder}}/sds.yaml}}}}}}}}}}}}
""")
    scene.look()
    assert scene.published == []
    renewed = scene.authority.issue("a.example")
    scene.put(renewed)
    scene.look()
    assert [each.value.chain_pem for each in scene.published] == [renewed.pem]

    again = scene.authority.issue("a.example")
    scene.put_file("b.key", again.key_pem())
    scene.put_file("a.pem", again.pem)
    scene.put_file("sds.yaml", SDS.format(folder=scene.folder, key="b").encode())
    scene.look()
    assert [each.value.key_pem for each in scene.published] == [renewed.key_pem(), again.key_pem()]


CONTEXT = """
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: peers
  validation_context:
    trusted_ca: {{filename: {folder}/a.pem}}
    match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: {name}}}}}]
"""


def demanding(secrets: str, asked: str) -> str:
    """A bootstrap whose cluster demands what the secret `peers` says."""
    return f"""
static_resources:
  secrets: {secrets}
  clusters:
  - name: a
    type: STATIC
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          validation_context_sds_secret_config: {asked}
"""


def test_a_ca_is_not_taken_with_rules_that_it_did_not_come_with(scene: Scene) -> None:
    """The rules of a validation context are in the clusters that name it."""
    scene.put(scene.authority.issue("a.example"))
    scene.put_file("sds.yaml", ("resources:" + CONTEXT).format(folder=scene.folder, name="a.test").encode())
    scene.load(demanding("[]", "{{name: peers, sds_config: {{path_config_source: {{path: {folder}/sds.yaml}}}}}}"))
    scene.look()
    renewed = scene.authority.issue("a.example")
    scene.put(renewed)
    scene.look()
    assert [each.value.pem for each in scene.published] == [renewed.pem]

    scene.put(scene.authority.issue("a.example"))
    scene.put_file("sds.yaml", ("resources:" + CONTEXT).format(folder=scene.folder, name="b.test").encode())
    scene.look(2)
    assert len(scene.published) == 1
    assert "demands other names, pins or checks than before. Reload to have them." in scene.journal.lines[-1]


def test_a_ca_that_changed_is_still_one_with_rules(scene: Scene) -> None:
    rules = "match_typed_subject_alt_names: [{{san_type: DNS, matcher: {{exact: a.test}}}}]"
    secrets = f"[{{{{name: peers, validation_context: {{{{trusted_ca: {{{{filename: {{folder}}/a.pem}}}}, {rules}}}}}}}}}]"
    secret, = scene.load(demanding(secrets, "{{name: peers}}"))
    scene.look()
    scene.put(scene.authority.issue("a.example"))
    scene.look()

    assert secret.has_rules
    assert [each.rules_digest for each in scene.published] == [secret.rules_digest]
