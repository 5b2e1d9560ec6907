"""The protocol alone: the conversations that Envoy has, had without a network and without a clock."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.base_pb2 import Node

from meshproxy.discovery.xds.delta import DeltaStream
from meshproxy.discovery.xds.sotw import SotwStream
from meshproxy.discovery.xds.stream import XdsStream
from meshproxy.discovery.xds.watch import Watch
from tests.discovery.xds_conversations import Conversation, everything, mixed, normal, response_of
from tests.discovery.xds_node import ModelNode
from tests.peers.xds_server import line_of


class Subscribed:
    def __init__(self, stream: XdsStream, type_url: str, watch: Watch) -> None:
        self.stream, self.type_url, self.watch = stream, type_url, watch

    def __setattr__(self, name: str, value: object) -> None:
        if name == "on_missing":
            self.watch.on_missing = value
        else:
            super().__setattr__(name, value)

    def set_names(self, names: set[str]) -> None:
        self.stream.set_names(self.type_url, self.watch, names, 0.0)

    def cancel(self) -> None:
        self.stream.cancel(self.type_url, self.watch)

    def pause(self) -> None:
        self.stream.pause(self.type_url)

    def resume(self) -> None:
        self.stream.resume(self.type_url)


class Client:
    """A node on one stream, whose time stands still until it is waited for."""

    def __init__(self, conversation: Conversation) -> None:
        self.delta = conversation.delta
        self.stream = (DeltaStream if self.delta else SotwStream)(Node(id="n1"), "node once" in conversation.options)
        self.now_s = 1000.0
        seconds = [float(option.split()[-1]) for option in conversation.options if option.startswith("fetch timeout")]
        self.node = ModelNode(self._subscribe, *seconds)
        self.lines: list[str] = []
        self._opens = True
        """The transport's: the stream is to be opened (again) when there is nothing else to do."""

    def _subscribe(self, type_url: str, names: set[str] | None, handler: object, seconds: float) -> Subscribed:
        watch = Watch(names, handler, seconds)
        self.stream.watch(type_url, watch, self.now_s)
        return Subscribed(self.stream, type_url, watch)

    def hear(self, text: str) -> None:
        verb, _, rest = text.partition(" ")
        if verb == "wait":
            self.now_s += float(rest)
            self.stream.tick(self.now_s, 0.0)
            self._took()
        elif verb in ("close", "garbage"):
            self.stream.closed("closed")
            self.lines.append("end")
            self._opens = True
        else:
            response = mixed(rest, self.delta) if verb == "mixed" else response_of(text, self.delta)
            self.stream.received(response, self.now_s, 0.0)
            self._took()

    def next_line(self) -> str:
        if not self.lines and self._opens:
            self._opens = False
            self.lines.append(f"open {'Delta' if self.delta else 'Stream'}AggregatedResources")
            self.stream.opened()
            self._took()
        while not self.lines and (due_s := self.stream.due_s()) < float("inf"):
            self.now_s = max(due_s, self.now_s)
            self.stream.tick(self.now_s, 0.0)
            self._took()
        return self.lines.pop(0) if self.lines else ""

    def _took(self) -> None:
        self.lines += [normal(line_of(request)) for request in self.stream.take()]


@pytest.mark.parametrize("conversation", [each for each in everything() if "per type" not in each.options], ids=lambda each: each.title)
def test_the_client_says_what_envoy_says(conversation: Conversation) -> None:
    client = Client(conversation)
    for step in conversation.steps:
        if step.who == "<":
            assert client.lines == [], "more was said than Envoy says"
            client.hear(step.text)
        elif step.who in (">", "M"):
            assert client.next_line() == step.text

    assert client.lines == []
