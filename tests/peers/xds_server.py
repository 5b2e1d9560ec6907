"""A scripted control plane over real gRPC: requests are recorded as compact lines, answers are sent as the test says.

A request's line: `CDS v=1 n=2 node` (state of the world: names in brackets, version, nonce) or `CDS +[a b] -[c] n=2` (delta), with
`error="..."` when it refuses. `v=` and `n=` are left out when empty, `node` says that it carried the node.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)
from google.protobuf import any_pb2
from google.protobuf.message import Message

from tests.peers.process import peer_environment

PROGRAM = Path(__file__).with_name("xds_relay.py")
PATIENCE_S = 30.0
PREFIX = "type.googleapis.com/"
TYPES = {
    "CDS": PREFIX + "envoy.config.cluster.v3.Cluster",
    "EDS": PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "LDS": PREFIX + "envoy.config.listener.v3.Listener",
    "RDS": PREFIX + "envoy.config.route.v3.RouteConfiguration",
    "VHDS": PREFIX + "envoy.config.route.v3.VirtualHost",
    "SRDS": PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration",
    "SDS": PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret",
    "RTDS": PREFIX + "envoy.service.runtime.v3.Runtime",
    "ECDS": PREFIX + "envoy.config.core.v3.TypedExtensionConfig",
}
SHORT = {url: short for short, url in TYPES.items()}


class Said(NamedTuple):
    """What a client said. `request` is None for the opening (`open`) and the end (`end`) of a stream."""

    stream: int
    line: str
    request: Message | None = None
    method: str = ""
    metadata: dict[str, str] = {}


def line_of(request: DiscoveryRequest | DeltaDiscoveryRequest) -> str:
    """The compact line."""
    parts = [SHORT.get(request.type_url, request.type_url)]
    if isinstance(request, DiscoveryRequest):
        parts.append(f"[{' '.join(sorted(request.resource_names))}]")
        parts += [f"v={request.version_info}"] if request.version_info else []
    else:
        for sign, names in (("+", request.resource_names_subscribe), ("-", request.resource_names_unsubscribe)):
            parts += [f"{sign}[{' '.join(sorted(names))}]"] if names else []
        known = " ".join(f"{name}={version}" for name, version in sorted(request.initial_resource_versions.items()))
        parts += [f"known[{known}]"] if known else []
    parts += [f"n={request.response_nonce}"] if request.response_nonce else []
    parts += ["node"] if request.HasField("node") else []
    parts += [f"error={json.dumps(request.error_detail.message)}"] if request.HasField("error_detail") else []
    return " ".join(parts)


def packed(message: Message) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(message)
    return made


class XdsServer:
    """The control plane. Runs while its block does; the test's thread reads what clients said by `wait` or `next`."""

    def __init__(self, directory: Path, *, tls: dict[str, str] | None = None, path: str = "") -> None:
        self.port = 0
        self._settings = {"address": f"unix:{path}" if path else "127.0.0.1:0", "tls": tls}
        self._errors = directory / "xds_server.err"
        self._changed = threading.Condition()
        self.said: list[Said] = []
        self.refusals = 0
        self._listening: bool | None = None
        self._delta: dict[int, bool] = {}
        self._taken = self._old = 0
        self.answer: Callable[[Said], None] | None = None
        """Called for each thing said, in the reader's thread: a control plane that answers by itself."""

    def __enter__(self) -> Self:
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(self._settings)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=peer_environment(), text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._until(lambda: self._listening is True, "the server did not start")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    # ---- what clients say ----

    def lines(self, stream: int | None = None) -> list[str]:
        with self._changed:
            return [each.line for each in self.said if stream in (None, each.stream)]

    def next(self, seconds: float = PATIENCE_S) -> Said:
        """What was said next, in order."""
        self._until(lambda: len(self.said) > self._taken, "nothing was said", seconds)
        self._taken += 1
        return self.said[self._taken - 1]

    def next_is(self, seconds: float = PATIENCE_S) -> bool:
        """Whether something is said within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.said) > self._taken, seconds)

    def forget(self) -> None:
        """What was said until now belongs to somebody else."""
        with self._changed:
            self.said.clear()
            self._taken, self._old = 0, max(self._delta, default=0)

    def recent(self) -> list[str]:
        """All lines since then."""
        with self._changed:
            return [each.line for each in self.said]

    def nothing_within(self, seconds: float) -> None:
        """Time passes, and nothing is said meanwhile."""
        assert not self.next_is(seconds), self.said[self._taken].line

    def wait(self, accept: Callable[[Said], bool], seconds: float = PATIENCE_S) -> Said:
        """The first thing said, since the last that was taken, that is accepted."""
        while True:
            said = self.next(seconds)
            if accept(said):
                return said

    def wait_line(self, line: str) -> Said:
        return self.wait(lambda said: said.line == line)

    def _until(self, holds: Callable[[], bool], failure: str, seconds: float = PATIENCE_S) -> None:
        with self._changed:
            if not self._changed.wait_for(holds, seconds):
                raise AssertionError(f"{failure}; so far: {[each.line for each in self.said]} {self._errors.read_text()[-2000:]}")

    def _read(self) -> None:
        for text in self._process.stdout:
            told: dict[str, Any] = json.loads(text)
            said = self._said(told)
            with self._changed:
                if said is not None and said.stream > self._old:
                    self.said.append(said)
                self.port = told.get("port", self.port)
                self._listening = told.get("listening", self._listening)
                self.refusals += "refused" in told
                self._changed.notify_all()
            if said is not None and self.answer is not None:
                self.answer(said)

    def _said(self, told: dict[str, Any]) -> Said | None:
        number = told.get("stream")
        if "open" in told:
            method = told["open"].rpartition("/")[2]
            self._delta[number] = method.startswith("Delta")
            return Said(number, f"open {method}", method=method, metadata=told["metadata"])
        if "request" in told:
            request = (DeltaDiscoveryRequest if self._delta[number] else DiscoveryRequest).FromString(base64.b64decode(told["request"]))
            return Said(number, line_of(request), request)
        return Said(number, "end") if "end" in told else None

    # ---- what the server does ----

    def send(self, stream: int, response: Message | bytes) -> None:
        """On a stream, by its number."""
        raw = response if isinstance(response, bytes) else response.SerializeToString()
        self._order(stream=stream, send=base64.b64encode(raw).decode())

    def close(self, stream: int, status: str = "UNAVAILABLE") -> None:
        """End a stream; OK, UNAVAILABLE, ..."""
        self._order(stream=stream, close=status)

    def refuse(self, status: str) -> None:
        """New streams end with that; "" = they are taken again."""
        self._order(refuse=status)

    def stop(self) -> None:
        """The port refuses."""
        self._order(stop=True)
        self._until(lambda: self._listening is False, "the server did not stop")

    def listen(self) -> None:
        """After `stop`."""
        self._order(listen=True)
        self._until(lambda: self._listening is True, "the server did not listen again")

    def _order(self, **order: Any) -> None:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()


def response(kind: str, version: str, nonce: str, *resources: Message | any_pb2.Any, **more: Any) -> DiscoveryResponse:
    """State of the world."""
    listed = [each if isinstance(each, any_pb2.Any) else packed(each) for each in resources]
    return DiscoveryResponse(type_url=TYPES.get(kind, kind), version_info=version, nonce=nonce, resources=listed, **more)


def delta(
    kind: str, nonce: str, resources: dict[str, tuple[str, Message | None]], removed: Sequence[str] = (), **more: Any
) -> DeltaDiscoveryResponse:
    """`resources`: name -> (version, message); a message of None is a heartbeat."""
    listed = [
        Resource(name=name, version=version, resource=packed(message) if message is not None else None)
        for name, (version, message) in resources.items()
    ]
    return DeltaDiscoveryResponse(type_url=TYPES.get(kind, kind), nonce=nonce, resources=listed, removed_resources=removed, **more)
