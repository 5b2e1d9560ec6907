"""The same conversations over real gRPC: had with Envoy, which says that they are right, and with our client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.discovery.xds_conversations import Conversation, Runner, client_bootstrap, everything, mixed, normal
from tests.peers.envoy import Envoy, binary
from tests.peers.process import PeerMissingError, free_ports, peer_environment
from tests.peers.xds_server import XdsServer

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[2]


class Meshproxy:
    """One process for all conversations: our client with a little node on it, anew for each."""

    def __init__(self, directory: Path) -> None:
        self._errors = directory / "client.err"

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.peers.xds_client"], stdin=subprocess.PIPE, stderr=errors, text=True,
                env={**peer_environment(), "PYTHONPATH": str(ROOT)},
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def output(self) -> str:
        return self._errors.read_text()

    def begin(self, port: int, conversation: Conversation) -> None:
        seconds = [float(option.split()[-1]) for option in conversation.options if option.startswith("fetch timeout")]
        told = {
            "port": port, "delta": conversation.delta, "node_once": "node once" in conversation.options,
            "per_type": "per type" in conversation.options, "fetch_timeout_s": seconds[0] if seconds else 15.0,
        }
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XdsServer]:
    with XdsServer(tmp_path_factory.mktemp("control_plane")) as started:
        yield started


@pytest.fixture(scope="module")
def meshproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meshproxy]:
    with Meshproxy(tmp_path_factory.mktemp("client")) as started:
        yield started


ids = pytest.mark.parametrize("conversation", everything(), ids=lambda each: each.title)


@ids
def test_our_client_says_what_is_written(server: XdsServer, meshproxy: Meshproxy, conversation: Conversation) -> None:
    server.forget()
    meshproxy.begin(server.port, conversation)
    try:
        hold(server, conversation, "M")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{meshproxy.output()[-3000:]}") from error


@ids
def test_envoy_says_what_is_written(tmp_path: Path, server: XdsServer, conversation: Conversation) -> None:
    try:
        binary()
    except PeerMissingError as error:
        pytest.skip(str(error))
    server.forget()
    with Envoy(tmp_path, client_bootstrap(server.port, free_ports(1)[0], conversation.options), []):
        hold(server, conversation, "E")


def hold(server: XdsServer, conversation: Conversation, who: str) -> None:
    """Have the conversation; whatever the client does not say as it is written fails."""
    runner = Runner(server, conversation)
    if "per type" in conversation.options:
        # Streams of their own have no order between them.
        for step in (step for step in conversation.steps if step.who == "<"):
            while (said := server.next()).line != "CDS [] node" and said.line != "CDS node":
                pass
            runner.took(said.stream)
            runner.say(step.text)
        expected = sorted(step.text for step in conversation.steps if step.who in (">", who))
        while len(server.recent()) < len(expected):
            server.next()
        assert sorted(server.recent()) == expected
        return
    for step in conversation.steps:
        if step.who == "<":
            runner.say(step.text)
        elif step.who in (">", who):
            said = server.next()
            runner.took(said.stream)
            assert normal(said.line) == step.text
    if answers(conversation):
        # An answer to what cannot be taken shows that nothing else was said before it.
        server.send(runner.stream, mixed("CDS", conversation.delta, "end"))
        assert normal(server.next().line).endswith('error="another type"')


def answers(conversation: Conversation) -> bool:
    """Whether the client, at the end, answers to clusters at once: not while some of them warm."""
    about_clusters = [step for step in conversation.steps if step.text.startswith("CDS") and step.who != "E"]
    return about_clusters[-1].who == ">"
