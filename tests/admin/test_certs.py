"""What is shown of secrets: `/certs` and the secrets of `/config_dump`, beside Envoy's on the same files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from meshproxy.agent.view import NodeView
from meshproxy.config.load import load_text
from meshproxy.ipc.messages import Directory, NodeSettings
from meshproxy.model import Snapshot
from meshproxy.model.snapshot import resources_of
from meshproxy.scoreboard.region import Region
from tests.admin.node import AdminSite, admin_site
from tests.cli.node import node_state
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports
from tests.support.certificates import Authority, rsa_key

PASSPHRASE = b"hunter2-s3cret"
TICKET_KEY = "k" * 80
BOOTSTRAP = """
static_resources:
  secrets:
  - name: server
    tls_certificate:
      certificate_chain: {{filename: {folder}/a.pem}}
      private_key: {{filename: {folder}/a.key}}
      password: {{inline_string: {passphrase}}}
      ocsp_staple: {{filename: {folder}/a.ocsp}}
  - name: tickets
    session_ticket_keys: {{keys: [{{inline_string: {ticket_key}}}]}}
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - {{name: echo, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}}}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          session_ticket_keys_sds_secret_config: {{name: tickets}}
          common_tls_context:
            tls_certificate_sds_secret_configs: [{{name: server}}]
            validation_context: {{trusted_ca: {{filename: {folder}/ca.pem}}}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certs")
    authority = Authority()
    (made / "ca.pem").write_bytes(authority.pem)
    issued = authority.issue("a.example", "10.1.2.3", "spiffe://mesh/a", key=rsa_key(), valid_days=100.5)
    issued.write(made, "a", PASSPHRASE)
    (made / "a.ocsp").write_bytes(authority.ocsp(issued))
    return made


def bootstrap(folder: Path, port: int = 1, admin_port: int = 2) -> str:
    return BOOTSTRAP.format(folder=folder, passphrase=PASSPHRASE.decode(), ticket_key=TICKET_KEY, port=port, admin_port=admin_port)


def site_of(snapshot: Snapshot) -> AdminSite:
    settings = NodeSettings(node=snapshot.node, stats=snapshot.stats, admin=snapshot.admin)
    return admin_site(NodeView(Region.create(1), "1", resources_of(snapshot), settings, Directory([]), node_state()))


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[AdminSite]:
    with site_of(load_text(bootstrap(folder), {}).snapshot) as running:
        yield running


def test_certs(site: AdminSite, folder: Path) -> None:
    entry, = site.ask("/certs").json()["certificates"]
    own, = entry["cert_chain"]
    authority, = entry["ca_cert"]

    assert own["path"] == f"{folder}/a.pem"
    assert own["subject_alt_names"] == [{"dns": "a.example"}, {"uri": "spiffe://mesh/a"}, {"ip_address": "10.1.2.3"}]
    assert own["days_until_expiration"] == "100"
    assert own["ocsp_details"].keys() == {"valid_from", "expiration"}
    assert authority["path"] == f"{folder}/ca.pem"
    assert site.view.days_until_first_expires == 100


def test_a_certificate_that_two_chains_show_is_told_once() -> None:
    issued = Authority().issue("a.example")
    inline = {"cert": {"inline": issued.pem.decode()}, "key": {"inline": issued.key_pem().decode()}}
    listeners = [{"address": f"127.0.0.1:{port}", "respond": 200, "tls": inline} for port in (1, 2)]
    whole = json.dumps({"listeners": listeners, "clusters": {"c": {"endpoints": "c:1", "tls": inline}}})
    with site_of(load_text(whole, {}).snapshot) as site:
        entries = site.ask("/certs").json()["certificates"]
        text = site.ask("/config_dump").text + site.ask("/certs").text

    assert [each["cert_chain"][0]["path"] for each in entries] == ["<inline>"]
    assert issued.key_pem().decode().splitlines()[1] not in text


@pytest.mark.parametrize("path", ["/config_dump", "/config_dump?resource=static_secrets", "/certs"])
def test_nothing_private_is_shown(site: AdminSite, folder: Path, path: str) -> None:
    text = site.ask(path).text

    assert PASSPHRASE.decode() not in text
    assert TICKET_KEY not in text
    assert (folder / "a.key").read_text().splitlines()[1] not in text


def test_secrets_by_name(site: AdminSite) -> None:
    entry, = site.ask("/config_dump?resource=static_secrets&name_regex=^tick").json()["configs"]

    assert entry["name"] == "tickets"
    assert entry["secret"]["session_ticket_keys"] == {"keys": [{"inline_string": "[redacted]"}]}


@pytest.mark.slow
def test_envoys_own_pages(site: AdminSite, folder: Path, tmp_path: Path) -> None:
    """The same entries; Envoy leaves out the names of key files and has more of what secrets are in."""
    ports = free_ports(2)
    try:
        with Envoy(tmp_path, yaml.safe_load(bootstrap(folder, *ports)), ports):
            theirs = {path: _ask(ports[1], path) for path in ("/certs", "/config_dump?resource=static_secrets")}
    except PeerMissingError as missing:
        pytest.skip(str(missing))

    assert site.ask("/certs").json() == theirs["/certs"]
    named = {each["name"]: each["secret"] for each in theirs["/config_dump?resource=static_secrets"]["configs"]}
    ours = {each["name"]: each["secret"] for each in site.ask("/config_dump?resource=static_secrets").json()["configs"]}
    assert ours["tickets"]["session_ticket_keys"] == named["tickets"]["session_ticket_keys"]
    assert ours["server"]["tls_certificate"]["certificate_chain"] == named["server"]["tls_certificate"]["certificate_chain"]
    assert ours["server"]["tls_certificate"]["password"] == named["server"]["tls_certificate"]["password"]


def _ask(port: int, path: str) -> Any:
    return requests.get(f"http://127.0.0.1:{port}{path}", timeout=20).json()
