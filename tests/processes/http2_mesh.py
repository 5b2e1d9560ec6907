"""A node whose clusters speak HTTP/2, each with an origin that is scripted frame by frame."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.peers import bootstrap
from tests.support.http2_wire import Http2Server, http2_origin
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Answer, ClosedError, ask

LIMIT_S = 20.0
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
EXPLICIT = {"explicit_http_config": {"http2_protocol_options": {}}}
LOG = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"

Script = Callable[[Http2Server], None]


def options(how: dict[str, Any]) -> dict[str, Any]:
    """A cluster's field."""
    return {"typed_extension_protocol_options": {OPTIONS: {"@type": f"type.googleapis.com/{OPTIONS}", **how}}}


def http2(**settings: Any) -> dict[str, Any]:
    return options({"explicit_http_config": {"http2_protocol_options": settings}})


WINDOWS = ("initial_stream_window_size", "initial_connection_window_size")
Kinds = dict[str, tuple[int, dict[str, Any]]]
"""How many clusters of a kind, and their settings."""

# Each test takes a cluster of its own, so that no connection of another is in its pool.
KINDS: Kinds = {
    "plain": (64, http2()),
    "few": (4, http2(max_concurrent_streams=2)),
    "lone": (2, http2() | {"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 1, "max_requests": 3}]}}),
    "alive": (2, http2(connection_keepalive={"interval": "0.1s", "timeout": "0.1s"})),
    "once": (1, http2() | {"max_requests_per_connection": 2}),
    "idle": (1, options(EXPLICIT | {"common_http_protocol_options": {"idle_timeout": "0.1s"}})),
    "brief": (1, options(EXPLICIT | {"common_http_protocol_options": {"max_connection_duration": "0.2s"}})),
    "lenient": (2, http2(override_stream_error_on_invalid_http_message=True)),
    "narrow": (1, http2(**dict.fromkeys(WINDOWS, 65535)) | {"per_connection_buffer_limit_bytes": 32768}),
    "retried": (3, http2()),
    "slow": (1, http2()),
}


@dataclasses.dataclass
class Place:
    """A cluster of the node with its origin."""

    port: int
    name: str
    origin: Origin
    log: Path

    def runs(self, script: Script) -> None:
        self.origin.raw = lambda connection: script(Http2Server(connection))

    def request(self, path: str = "", *lines: str, method: str = "GET", body: bytes | None = None) -> bytes:
        more = [f"Content-Length: {len(body)}"] if body is not None else []
        head = "\r\n".join([f"{method} /{self.name}/{path} HTTP/1.1", "Host: mesh.test", *lines, *more, "", ""])
        return head.encode("latin-1") + (body or b"")

    def ask(self, path: str = "", *lines: str, method: str = "GET", body: bytes | None = None) -> Answer:
        return ask(self.port, self.request(path, *lines, method=method, body=body))

    def logged(self, path: str = "") -> list[str]:
        """What the log has of the one request for that path: status, flags and details."""
        start = f"/{self.name}/{path} "

        def found() -> list[str] | None:
            if not self.log.exists():            # the first line makes it
                return None
            lines = [line for line in self.log.read_text().splitlines() if line.startswith(start)]
            return lines[0].split(" ")[1:] if lines else None

        return wait_until(found, LIMIT_S)


@dataclasses.dataclass
class Mesh:
    """A node and what no test has taken yet."""

    node: Node
    places: dict[str, list[Place]]

    def take(self, kind: str = "plain") -> Place:
        return self.places[kind].pop()


@contextlib.contextmanager
def running(directory: Path, kinds: Kinds = KINDS, log_format: str = LOG) -> Iterator[Mesh]:
    """A node with all places. At its end the scripts must have had nothing to complain of."""
    log = directory / "log"
    with contextlib.ExitStack() as stack:
        origins = {f"{kind}-{n}": stack.enter_context(http2_origin(echo)) for kind, (count, _) in kinds.items() for n in range(count)}
        clusters = [bootstrap.cluster(name, origin.port, **kinds[name.split("-")[0]][1]) for name, origin in origins.items()]
        routes = [bootstrap.route(f"/{name}/", _action(name)) for name in origins]
        manager = {
            "access_log": [bootstrap.file_log(str(log), log_format)],
            "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
            "http2_protocol_options": {"allow_connect": True},
        }
        listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host(routes)], **manager)
        node = Node(directory, bootstrap.bootstrap([listener], clusters)).start()
        try:
            port = node.port_of("ingress")
            places: dict[str, list[Place]] = {}
            for name, origin in origins.items():
                places.setdefault(name.split("-")[0], []).append(Place(port, name, origin, log))
            yield Mesh(node, places)
            assert [failure for origin in origins.values() for failure in origin.failures] == []
        finally:
            node.stop()
        assert node.wreckage() == []


def _action(name: str) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": name, "timeout": "0.5s" if name.startswith("slow") else "0s"}
    if name.startswith("retried"):
        action["retry_policy"] = {"retry_on": "refused-stream", "num_retries": 2}
    return action


def echo(peer: Http2Server) -> None:
    """The origin that answers with what it was asked for."""
    peer.accept()
    with contextlib.suppress(ClosedError):
        while True:
            message = peer.message()
            body = b"" if message.header(":method") == "HEAD" else message.body or b"ok"
            peer.respond(message.stream, body)


class Seen:
    """What an origin got, for the test that owns it."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()

    def put(self, thing: Any) -> None:
        self.queue.put(thing)

    def get(self) -> Any:
        return self.queue.get(timeout=LIMIT_S)


def answering(seen: Seen, **response: Any) -> Script:
    """A script that keeps each request and answers all alike."""
    def script(peer: Http2Server) -> None:
        peer.accept()
        while True:
            message = peer.message()
            seen.put(message)
            peer.respond(message.stream, **response)

    return script


def echo_on(peer: Http2Server) -> None:
    while True:
        message = peer.message()
        peer.respond(message.stream, message.body or b"ok")


def together(things: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once; what they return. The first that fails is raised."""
    results: list[Any] = [None] * len(things)
    failures: list[BaseException] = []

    def run(place: int) -> None:
        try:
            results[place] = things[place]()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(things))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    if failures:
        raise failures[0]
    return results
