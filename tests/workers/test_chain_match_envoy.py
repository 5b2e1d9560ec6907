"""The choice of a filter chain beside a real Envoy: the same matches, connections that differ in all that a match may ask for."""

from __future__ import annotations

import random
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from meshproxy.workers.chain_match import try_choice

from meshproxy.model import ChainMatch
from meshproxy.model.chain_match import overlap
from tests.corpus import hellos
from tests.oracles.chain_match import Connection, Place
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports
from tests.workers.test_chain_match import fields

pytestmark = pytest.mark.process

FILTERS = f"{bootstrap.TYPES}.extensions.filters"
RANGES = [(), (), ("127.0.0.0/8",), ("127.0.0.2/32",), ("127.0.0.3/32", "10.0.0.0/8"), ("10.0.0.0/16",), ("::/0",)]
NAMES = [(), ("a.test",), ("*.test",), ("*.a.test", "b.test")]
PROTOCOLS = [(), ("h2",), ("http/1.1", "x")]
LISTENERS = 5
CHAINS = 9
CONNECTIONS = 60


def matches_of(chance: random.Random, port: int) -> list[ChainMatch]:
    """Overlapping ones are left out. Each differs from the empty match in few criteria, else hardly any connection matches."""
    found: list[ChainMatch] = []
    while len(found) < CHAINS:
        criteria: dict[str, Any] = {
            "destination_port": chance.choice((0, port)), "prefix_ranges": chance.choice(RANGES), "server_names": chance.choice(NAMES),
            "transport_protocol": chance.choice(("", "tls", "raw_buffer")), "application_protocols": chance.choice(PROTOCOLS),
            "direct_source_prefix_ranges": chance.choice(RANGES), "source_type": chance.choice(("same_ip_or_loopback", "external")),
            "source_prefix_ranges": chance.choice(RANGES), "source_ports": chance.choice(((), (5000,))),
        }  # fmt: skip
        kept = chance.sample(list(criteria), chance.choice((1, 1, 2, 3)))
        match = ChainMatch(**{name: criteria[name] for name in kept})
        if overlap([*found, match]) is None:
            found.append(match)
    return found


def as_envoy(match: ChainMatch) -> dict[str, Any]:
    said = msgspec.to_builtins(match)
    for name in [name for name in said if name.endswith("ranges")]:
        parts = [text.split("/") for text in said[name]]
        said[name] = [{"address_prefix": address, "prefix_len": int(length)} for address, length in parts]
    if "source_type" in said:
        said["source_type"] = said["source_type"].upper()
    return said


def listener(port: int, matches: list[ChainMatch]) -> dict[str, Any]:
    def chain(answer: int | str) -> dict[str, Any]:
        config = {"@type": f"{FILTERS}.network.direct_response.v3.Config", "response": {"inline_string": str(answer)}}
        return {"filters": [{"name": "answer", "typed_config": config}]}

    return {
        "name": f"on-{port}", "address": bootstrap.address(port, "0.0.0.0"),
        "listener_filters": [
            {"name": "proxy", "typed_config": {"@type": f"{FILTERS}.listener.proxy_protocol.v3.ProxyProtocol"}},
            {"name": "tls", "typed_config": {"@type": f"{FILTERS}.listener.tls_inspector.v3.TlsInspector"}},
        ],
        "filter_chains": [chain(place) | {"filter_chain_match": as_envoy(match)} for place, match in enumerate(matches)],
        "default_filter_chain": chain("default"),
    }  # fmt: skip


def connection_of(chance: random.Random, port: int) -> tuple[str, Connection]:
    """Where it comes from, and what it says."""
    direct = chance.choice(("127.0.0.1", "127.0.0.2"))
    remote = chance.choice(("127.0.0.1", "127.0.0.2", "127.0.0.3", "10.0.0.1", "10.1.0.1", "192.0.2.1"))
    local = chance.choice(("127.0.0.1", "127.0.0.2", "10.0.0.1", "10.1.0.1"))
    tls = chance.random() < 0.7
    return direct, Connection(
        Place(ip_address(local), chance.choice((port, port + 1))), Place(ip_address(remote), chance.choice((5000, 5001))),
        Place(ip_address(direct), 0), chance.choice((None, "a.test", "x.test", "x.a.test", "b.test", "other")) if tls else None,
        "tls" if tls else None, chance.choice((None, ("h2",), ("x", "h2"), ("y",))) if tls else None,
    )  # fmt: skip


def first_bytes(connection: Connection) -> bytes:
    local, remote = connection.local, connection.remote
    header = f"PROXY TCP4 {remote.ip} {local.ip} {remote.port} {local.port}\r\n".encode()
    if connection.transport_protocol is None:
        return header + b"plain"
    extensions = [] if connection.sni is None else [hellos.server_name(connection.sni.encode())]
    if connection.offered_alpn is not None:
        extensions.append(hellos.alpn(*(name.encode() for name in connection.offered_alpn)))
    return header + hellos.records(hellos.message(extensions))


def answer(port: int, direct: str, data: bytes) -> str:
    """What Envoy answers. It closes over bytes that it did not read, so its end is a reset."""
    with socket.create_connection(("127.0.0.1", port), source_address=(direct, 0)) as client:
        client.sendall(data)
        return client.recv(100).decode()


def test_what_envoy_chooses(tmp_path: Path) -> None:
    chance = random.Random(7)
    *ports, admin = free_ports(LISTENERS + 1)
    matches = {port: matches_of(chance, port) for port in ports}
    config = bootstrap.bootstrap([listener(port, matches[port]) for port in ports], [], admin)
    differing, default = [], 0
    try:
        peer = Envoy(tmp_path, config, [*ports, admin])
    except PeerMissingError as error:
        pytest.skip(str(error))
    with peer:
        for port in ports:
            for _ in range(CONNECTIONS):
                direct, connection = connection_of(chance, port)
                said = answer(port, direct, first_bytes(connection))
                [ours] = try_choice(matches[port], [fields(connection)])
                default += ours is None
                if said != ("default" if ours is None else str(ours)):
                    differing.append((connection, matches[port], said, ours))

    assert not differing
    assert default < LISTENERS * CONNECTIONS / 2, "most connections must find a chain for this to show anything"
