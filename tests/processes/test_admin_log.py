"""Access logs of the admin API, from both forms of configuration, through reloads and rotation, and beside Envoy's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import PeerMissingError, free_ports
from tests.processes import meshes
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

PATIENCE_S = 30.0
FORMAT = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%"


def native(log: Path | None) -> str:
    access_log = f", access_log: [{{path: '{log}', format: '{FORMAT}'}}]" if log else ""
    return f"""
admin: {{address: 127.0.0.1:0{access_log}}}
listeners:
- {{name: ingress, address: 127.0.0.1:0, respond: 200}}
"""


def touch(node: Node, path: str, method: str = "GET") -> None:
    requests.request(method, f"http://{node.status()['admin']}{path}", timeout=PATIENCE_S)


def has(log: Path, *lines: str) -> bool:
    """A client may have its answer a moment before the line is written."""
    return bool(wait_until(lambda: log.exists() and log.read_text().splitlines() == list(lines), PATIENCE_S))


def test_logs_follow_reloads_and_rotation(node_of: Callable[..., Node], tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    node = node_of(native(first), workers=1)
    touch(node, "/ready")
    assert has(first, "GET /ready 200")

    first.rename(tmp_path / "first.log.1")
    touch(node, "/reopen_logs", "POST")
    touch(node, "/nope?a=1")
    assert wait_until(lambda: first.exists() and "GET /nope?a=1 404" in first.read_text().splitlines(), PATIENCE_S)

    node.configure(native(second))
    assert node.reload().returncode == 0
    touch(node, "/listeners")
    assert has(second, "GET /listeners 200")

    node.configure(native(None))
    assert node.reload().returncode == 0
    touch(node, "/listeners")
    node.configure(native(second))
    assert node.reload().returncode == 0
    touch(node, "/memory")
    assert has(second, "GET /listeners 200", "GET /memory 200"), "nothing was written in between"


def test_an_order_that_ends_the_node_is_logged(node_of: Callable[..., Node], tmp_path: Path) -> None:
    log = tmp_path / "admin.log"
    node = node_of(native(log), workers=1)
    node.expected_end = True
    touch(node, "/quitquitquit", "POST")

    assert node.process.wait(PATIENCE_S) == 0
    assert log.read_text() == "POST /quitquitquit 200\n"


COMPARED = " ".join(
    f"%{operator}%"
    for operator in (
        "REQ(:METHOD)", "REQ(:PATH)", "REQ(:SCHEME)", "PROTOCOL", "RESPONSE_CODE", "RESPONSE_FLAGS", "RESPONSE_CODE_DETAILS",
        "BYTES_RECEIVED", "DOWNSTREAM_WIRE_BYTES_RECEIVED", "REQ(USER-AGENT)", "REQ(:AUTHORITY)", "REQ(X-REQUEST-ID)", "UPSTREAM_HOST",
        "UPSTREAM_CLUSTER", "ROUTE_NAME", "RESPONSE_DURATION", "RESPONSE_TX_DURATION", "PATH(NQ)",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT", "CONNECTION_TERMINATION_DETAILS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "RESPONSE_CODE",
    )
)  # fmt: skip
ASKED = [
    get("/ready", "localhost", "User-Agent: probe"),
    get("/ready?x=%41", "localhost", "X-Request-Id: r-1"),
    get("/a%20b", "localhost", method="HEAD"),
    get("/quitquitquit", "localhost"),
    get("/logging?level=error", "localhost", "Content-Length: 3", method="POST") + b"abc",
    b"GET /ready HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n",
]


@pytest.mark.slow
def test_lines_are_envoys(node_of: Callable[..., Node], tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.log", tmp_path / "ours.log"

    def config(log: Path, admin_port: int) -> dict:
        made = meshes.plain(1, admin=True)
        made["admin"] = {"address": bootstrap.address(admin_port), "access_log": [bootstrap.file_log(str(log), COMPARED + "\n")]}
        return made

    ports = free_ports(2)
    envoys = config(theirs, ports[1])
    envoys["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = ports[0]
    try:
        with Envoy(tmp_path / "envoy", envoys, ports[:1]):
            for data in ASKED:
                ask(ports[1], data)
            # Envoy writes its logs every ten seconds, and when it ends.
    except PeerMissingError as error:
        pytest.skip(str(error))
    node = node_of(config(ours, 0), workers=1)
    admin_port = int(node.status()["admin"].rpartition(":")[2])
    for data in ASKED:
        ask(admin_port, data)
    assert wait_until(lambda: ours.exists() and len(ours.read_text().splitlines()) == len(ASKED), PATIENCE_S)

    assert ours.read_text().splitlines() == theirs.read_text().splitlines()
