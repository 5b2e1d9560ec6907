"""The ClientHello codec beside a real Envoy's TLS inspector: found or not, server name and both fingerprints."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from meshproxy.codecs.tlshello import parse_hello_bytes
from tests.corpus import hellos
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports

pytestmark = pytest.mark.process

FILTERS = f"{bootstrap.TYPES}.extensions.filters"
LOG_LINE = "%DOWNSTREAM_REMOTE_PORT% %REQUESTED_SERVER_NAME% %TLS_JA3_FINGERPRINT% %TLS_JA4_FINGERPRINT%\n"
# Envoy waits for more of these until its time limit.
WAITED_FOR = {"a record that is too long", "SSL 2"}
# Envoy leaves GREASE in JA3's list of groups, and only there: such a client has another fingerprint with each connection. Ours has one.
GREASE_IN_GROUPS = {"of a browser", "in two records", "cut within the message's head", "in many records"}


def listener(port: int, log: Path) -> dict[str, Any]:
    inspector = {
        "@type": f"{FILTERS}.listener.tls_inspector.v3.TlsInspector", "enable_ja3_fingerprinting": True, "enable_ja4_fingerprinting": True,
    }
    answer = {"@type": f"{FILTERS}.network.direct_response.v3.Config", "response": {"inline_string": "x"}}
    return {
        "name": "inspected", "address": bootstrap.address(port),
        "listener_filters": [{"name": "tls", "typed_config": inspector}],
        "access_log": [bootstrap.file_log(str(log), LOG_LINE)],
        "filter_chains": [
            {"filters": [{"name": "answer", "typed_config": answer}], "filter_chain_match": {"transport_protocol": protocol}}
            for protocol in ("tls", "raw_buffer")
        ],
    }  # fmt: skip


def send(port: int, data: bytes) -> int:
    """Send and read to the end; our port."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(data)
        own = client.getsockname()[1]
        try:
            while client.recv(100):
                pass
        except ConnectionResetError:
            pass                                 # Envoy closed over bytes that it had not read
        return own


def ours(data: bytes) -> str:
    said = parse_hello_bytes(data)
    if isinstance(said, int):
        return "- - -"
    return f"{(said['sni'] or b'-').decode()} {said['ja3']} {said['ja4']}"


def test_what_envoy_says(tmp_path: Path) -> None:
    cases = {**hellos.GOOD, **hellos.BAD, "of OpenSSL": hellos.of_openssl("b.test", "h2")}
    try:
        port, admin = free_ports(2)
        log = tmp_path / "log"
        peer = Envoy(tmp_path, bootstrap.bootstrap([listener(port, log)], [], admin), [port, admin])
    except PeerMissingError as error:
        pytest.skip(str(error))
    with peer:
        sent = {send(port, data): name for name, data in cases.items() if name not in WAITED_FOR}
    # Envoy writes its log out when it ends.
    said = {sent[int(line.split()[0])]: line.split(" ", 1)[1] for line in log.read_text().splitlines() if int(line.split()[0]) in sent}

    assert said.keys() == set(sent.values())
    # Envoy notes the name of an SSL 3 client too, before it says that this is no TLS.
    assert {name for name in said if ours(cases[name]) != said[name]} == {*GREASE_IN_GROUPS, "SSL 3"}
    for name in GREASE_IN_GROUPS:
        mine, theirs = ours(cases[name]).split(), said[name].split()
        assert [mine[0], mine[2]] == [theirs[0], theirs[2]]
