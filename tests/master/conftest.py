"""Fixtures of the master's tests."""

import pytest

from tests.master.node import Node


@pytest.fixture
def start(tmp_path):
    """Starts nodes that are ended with the test: `start(snapshot, workers=2, options=(), env=None)`."""
    started: list[Node] = []

    def begin(*args, **settings) -> Node:
        directory = tmp_path / f"node{len(started)}"
        directory.mkdir()
        started.append(Node(directory, *args, **settings))
        return started[-1]

    yield begin
    for node in started:
        node.end()
