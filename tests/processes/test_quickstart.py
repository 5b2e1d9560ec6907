"""conf/quickstart.yaml does what scripts/quickstart promises."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.processes import Node
from tests.support.wire import ask, get

CONFIG = Path(__file__).resolve().parents[2] / "conf" / "quickstart.yaml"
PORTS = (8080, 9901, 9001, 9002)


def test_the_quickstart_answers(tmp_path: Path) -> None:
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"something listens on 127.0.0.1:{port}, which the quickstart wants")
    with Node(tmp_path / "node", CONFIG.read_text(), workers=None) as node:
        answers = {ask(8080, get("/")).body for _ in range(8)}
        admin = ask(9901, get("/", "127.0.0.1:9901", "Connection: close"))
        ready = ask(9901, get("/ready", "127.0.0.1:9901", "Connection: close"))

        assert len(answers) == 2, "two upstreams answer in turn"
        assert (admin.status, ready.status) == (200, 200)
        assert b"<html" in admin.body.lower()
        assert node.wreckage() == []
