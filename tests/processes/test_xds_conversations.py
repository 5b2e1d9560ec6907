"""The conversations that Envoy has, had by a whole node: what it puts into force decides what it asks for, accepts and refuses.

What is said between two words of the server is compared without order: a node of several processes asks for listeners when its clusters
are in force, and that may be after it has acknowledged their endpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.discovery.test_xds_conversations import answers
from tests.discovery.xds_conversations import Conversation, Runner, client_bootstrap, everything, mixed, normal
from tests.peers.xds_server import XdsServer
from tests.support.processes import Node

pytestmark = pytest.mark.process


class Waiting(Node):
    """A node that is talked to before it is ready: it waits for what it is told."""

    def wait_ready(self) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XdsServer]:
    with XdsServer(tmp_path_factory.mktemp("control_plane")) as started:
        yield started


CHOSEN = (
    "clusters, endpoints, listeners, routes", "a refused cluster keeps the version, and the good one goes on", "two bad clusters",
    "the stream is closed and opened again", "clusters come and go, and the names of endpoints with them", "no endpoints come in time",
    "a bad route table, then a good one", "routes to a cluster that is not there", "a good listener turns bad and good again",
    "a refused cluster beside a good one", "a resource of another type", "opened again with the versions that are known",
    "an assignment is not there", "a listener turns bad and good again", "a time to live is over", "added and removed at once",
    "a stream of its own for clusters and one for listeners",
)
"""Those that are about what is put into force. What a whole node says otherwise than Envoy is in `docs/howto/control-planes.md`."""


def chosen() -> list[Conversation]:
    return [each for each in everything() if each.title in CHOSEN]


@pytest.mark.parametrize("conversation", chosen(), ids=lambda each: each.title)
def test_the_node_says_what_envoy_says(tmp_path: Path, server: XdsServer, conversation: Conversation) -> None:
    server.forget()
    with Waiting(tmp_path, client_bootstrap(server.port, 0, conversation.options), workers=1) as node:
        try:
            hold(server, conversation)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{node.output()[-3000:]}") from error


def hold(server: XdsServer, conversation: Conversation) -> None:
    runner = Runner(server, conversation)
    expected: Counter[str] = Counter()
    said: Counter[str] = Counter()

    def hear() -> None:
        while expected - said:
            heard = server.next()
            runner.took(heard.stream)
            said[normal(heard.line)] += 1

    for step in conversation.steps:
        if step.who == "<":
            hear()
            runner.say(step.text)
        elif step.who in (">", "M"):
            expected[step.text] += 1
    hear()
    if answers(conversation) and "per type" not in conversation.options:
        # An answer to what cannot be taken shows that nothing else was said before it.
        server.send(runner.stream, mixed("CDS", conversation.delta, "end"))
        while not (line := normal(server.next().line)).endswith('error="another type"') or "n=mixed" in line:
            said[line] += 1
    assert said == expected
