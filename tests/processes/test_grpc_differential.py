"""gRPC beside a real Envoy, both on one configuration: endpoints must see the same call, clients the same answer, logs say the same.

Allowed differences are those of `test_differential` and the ones named at `without_quirks`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import queue
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.envoy import PromptEnvoy
from tests.peers.process import PeerMissingError, free_ports
from tests.processes.http2_mesh import http2
from tests.processes.test_differential import Headers, normal
from tests.support.http2_wire import CANCEL, DATA, RST_STREAM, Http2Client, Http2Server, Message, ResetError, frame, http2_origin
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, ClosedError

TYPES = "type.googleapis.com/envoy.extensions.filters.http"
LOG = (
    "%REQ(X-CASE)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_SENT% %GRPC_STATUS% "
    "%GRPC_STATUS(CAMEL_STRING)% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%\n"
)
FILTERS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "web": [{"@type": f"{TYPES}.grpc_web.v3.GrpcWeb"}],
    "bridge": [{"@type": f"{TYPES}.grpc_http1_bridge.v3.Config"}],
    "upgrading": [{"@type": f"{TYPES}.grpc_http1_bridge.v3.Config", "upgrade_protobuf_to_grpc": True}],
    "all": [
        {"@type": f"{TYPES}.grpc_stats.v3.FilterConfig", "stats_for_all_methods": True, "enable_upstream_stats": True},
        {"@type": f"{TYPES}.grpc_web.v3.GrpcWeb"}, {"@type": f"{TYPES}.grpc_http1_bridge.v3.Config"},
    ],
}
GRPC_WORDS = "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable"
BACK_OFF = {"base_interval": "0.001s", "max_interval": "0.001s"}


def retrying(words: str) -> dict[str, Any]:
    return {"cluster": "origin", "retry_policy": {"retry_on": words, "num_retries": 2, "retry_back_off": BACK_OFF}}


ROUTES = [
    bootstrap.route("/echo.", "origin"),
    bootstrap.route("/timeout.", {"cluster": "origin", "timeout": "0.2s"}),
    bootstrap.route("/life.", {"cluster": "origin", "timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.2s"}}),
    bootstrap.route("/deadline.", {"cluster": "origin", "timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "1s"}}),
    bootstrap.route("/any.", {"cluster": "origin", "timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}),
    bootstrap.route("/dead.", "dead"),
    bootstrap.route("/nobody.", "nobody"),
    bootstrap.route("/typo.", "typo"),
    bootstrap.route("/full.", "full"),
    {"match": {"prefix": "/direct."}, "direct_response": {"status": 403, "body": {"inline_string": "not today: 100% \u00fc"}}},
    {"match": {"prefix": "/bare."}, "direct_response": {"status": 200}},
    {"match": {"prefix": "/move."}, "redirect": {"host_redirect": "new.test"}},
    *[bootstrap.route(f"/retry-{word}.", retrying(word)) for word in [*GRPC_WORDS.split(","), "5xx", "refused-stream", "reset"]],
    bootstrap.route("/idle.", {"cluster": "origin", "timeout": "0s", "idle_timeout": "0.2s"}),
]  # fmt: skip

GRPC = ("content-type", "application/grpc")
TE = ("te", "trailers")


def framed(text: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(text).to_bytes(4, "big") + text


@dataclasses.dataclass(frozen=True)
class Call:
    """A request; the endpoint does what the method's name says."""

    path: str
    headers: tuple[tuple[str, str], ...] = (GRPC, TE)
    body: bytes = framed(b"hello")
    method: str = "POST"


TEXT = base64.b64encode(framed(b"hello"))


def calls() -> dict[str, Call]:
    """By name."""
    found: dict[str, Call] = {}
    kinds = "Unary Empty Only5 Only0 Late14 NoStatus Odd Words Plain503 Plain404 Status503 Reset Refuse Cut Trail"
    for kind in kinds.split():
        found[f"echo {kind}"] = Call(f"/echo.S/{kind}")
    for route in ("timeout", "life", "idle", "dead", "nobody", "typo", "full", "direct", "bare", "move", "nowhere"):
        found[route] = Call(f"/{route}.S/Never")
    for deadline in ("100m", "1S", "100000u", "9000000H", "0m", "x"):
        kind = "Never" if deadline in ("100m", "1S", "100000u") else "Unary"
        found[f"deadline {deadline}"] = Call(f"/deadline.S/{kind}", (GRPC, TE, ("grpc-timeout", deadline)))
    found["deadline any"] = Call("/any.S/Never", (GRPC, TE, ("grpc-timeout", "100m")))
    for code, word in ((1, "cancelled"), (4, "deadline-exceeded"), (13, "internal"), (8, "resource-exhausted"), (14, "unavailable")):
        found[f"retry {word}"] = Call(f"/retry-{word}.S/Only{code}")
        found[f"retry {word} of another"] = Call(f"/retry-{word}.S/Only5")
        found[f"retry {word} too late"] = Call(f"/retry-{word}.S/Late{code}")
        found[f"retry {word} by header"] = Call(f"/echo.S/Only{code}", (GRPC, TE, ("x-envoy-retry-grpc-on", word)))
    unavailable = (GRPC, TE, ("x-envoy-retry-grpc-on", "unavailable"))
    found["retry by header, often"] = Call("/echo.S/Only14", (*unavailable, ("x-envoy-max-retries", "3")))
    found["retry by both headers"] = Call("/echo.S/Reset", (*unavailable, ("x-envoy-retry-on", "reset")))
    found["retry 5xx"] = Call("/retry-5xx.S/Only14")
    found["retry 5xx by status"] = Call("/retry-5xx.S/Status503")
    found["retry refused"] = Call("/retry-refused-stream.S/Refuse")
    found["retry reset"] = Call("/retry-reset.S/Reset")
    for content_type in ("application/grpc+proto", "application/grpc;x", "application/grpcx", "application/grpc-web", "Application/grpc"):
        found[f"as {content_type}"] = Call("/nowhere", (("content-type", content_type),))
    found["get"] = Call("/nowhere", (GRPC,), b"", "GET")
    web, text = ("content-type", "application/grpc-web"), ("content-type", "application/grpc-web-text")
    for kind in ("Unary", "Empty", "Only5", "Late14", "Plain503", "Status503", "NoStatus", "Words", "Trail", "Cut"):
        found[f"web {kind}"] = Call(f"/echo.S/{kind}", (web,))
        found[f"web text {kind}"] = Call(f"/echo.S/{kind}", (text, ("accept", "application/grpc-web-text")), TEXT)
    found["web proto"] = Call("/echo.S/Unary", (("content-type", "application/grpc-web+proto"), ("accept", "application/grpc-web+proto")))
    text_proto = "application/grpc-web-text+proto"
    found["web text proto"] = Call("/echo.S/Unary", (("content-type", text_proto), ("accept", text_proto)), TEXT)
    found["web text in only"] = Call("/echo.S/Unary", (text,), TEXT)
    found["web text out only"] = Call("/echo.S/Unary", (web, ("accept", "application/grpc-web-text")))
    found["web encodings"] = Call("/echo.S/Unary", (web, ("grpc-accept-encoding", "identity")))
    found["web bad base64"] = Call("/echo.S/Unary", (text,), b"!!!!")
    found["web short base64"] = Call("/echo.S/Unary", (text,), b"AAA")
    for route in ("direct", "nowhere", "dead", "timeout"):
        found[f"web {route}"] = Call(f"/{route}.S/Never", (web,))
        found[f"web text {route}"] = Call(f"/{route}.S/Never", (text, ("accept", "application/grpc-web-text")), TEXT)
    protobuf = ("content-type", "application/x-protobuf")
    for kind in ("Unary", "Empty", "Only5", "Late14", "Plain503", "Words"):
        found[f"protobuf {kind}"] = Call(f"/echo.S/{kind}", (protobuf,), b"hello")
    found["protobuf direct"] = Call("/direct.S/Never", (protobuf,), b"hello")
    return found


CALLS = calls()
SOME = {name: call for name, call in CALLS.items() if not name.startswith(("retry", "deadline", "as", "timeout", "life", "idle"))}


def script(peer: Http2Server, seen: queue.Queue[Message]) -> None:
    """Does what the method's name says."""
    peer.accept()
    with contextlib.suppress(ClosedError):
        while True:
            try:
                message = peer.message()
            except ResetError:
                continue
            seen.put(message)
            answer(peer, message.stream, (message.header(":path") or "").rsplit("/", 1)[-1].split("?")[0])


def answer(peer: Http2Server, stream: int, kind: str) -> None:
    head, ok = [GRPC, ("x-from", "origin")], [("grpc-status", "0")]
    digits = re.sub(r"\D", "", kind)
    if kind in ("Unary", "Odd"):
        status = "0" if kind == "Unary" else "99"
        peer.respond(stream, framed(b"answer"), headers=head, trailers=[("grpc-status", status), ("grpc-message", ""), ("x-more", "1")])
    elif kind == "Empty":
        peer.respond(stream, headers=head, trailers=ok)
    elif kind == "Words":
        words = [("grpc-status", "9"), ("grpc-message", "so %25 it is"), ("grpc-status-details-bin", "AAA")]
        peer.respond(stream, framed(b"answer") * 3, headers=head, trailers=words)
    elif kind == "Trail":
        peer.respond(stream, framed(b"answer", 1), headers=head, trailers=[("x-only", "this")])
    elif kind.startswith("Only"):
        peer.respond(stream, headers=[*head, ("grpc-status", digits), ("grpc-message", "words")])
    elif kind.startswith("Late"):
        peer.respond(stream, framed(b"answer"), headers=head, trailers=[("grpc-status", digits), ("grpc-message", "words")])
    elif kind == "NoStatus":
        peer.respond(stream, framed(b"answer"), headers=head)
    elif kind.startswith("Plain"):
        peer.respond(stream, b"some text", status=digits, headers=[("content-type", "text/plain")])
    elif kind.startswith("Status"):
        peer.respond(stream, status=digits, headers=[*head, ("grpc-status", "14")])
    elif kind == "Cut":
        peer.send(peer.headers(stream, [(":status", "200"), *head]) + frame(DATA, 0, stream, framed(b"part")))
        peer.send(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))
    elif kind in ("Reset", "Refuse"):
        peer.send(frame(RST_STREAM, 0, stream, (2 if kind == "Reset" else 7).to_bytes(4, "big")))


@dataclasses.dataclass
class Seen:
    """What became of a call, without what differs by nature."""

    tries: list[tuple[Headers, bytes]]
    answer: Headers | str
    body: bytes = b""
    trailers: Headers = dataclasses.field(default_factory=dict)
    log: str = ""


@dataclasses.dataclass
class Proxy:
    ports: dict[str, int]
    admin: int
    log: Path
    origin: Origin
    seen: queue.Queue[Message]

    def call(self, listener: str, version: str, name: str) -> Seen:
        call = CALLS[name]
        while not self.seen.empty():
            self.seen.get_nowait()
        case = f"{listener}-{version}-{name.replace(' ', '-')}"
        headers = [*call.headers, ("x-case", case), ("user-agent", "test")]
        found = (self.by_http2 if version == "h2" else self.by_http1)(self.ports[listener], call, headers)
        while not self.seen.empty():
            message = self.seen.get_nowait()
            found.tries.append((normal(message.headers), message.body))
        found.log = wait_until(lambda: next((line for line in self.log.read_text().splitlines() if line.startswith(case + " ")), None), 20)
        return found

    def by_http2(self, port: int, call: Call, headers: list[tuple[str, str]]) -> Seen:
        with Http2Client(port) as client:
            client.request(1, headers, call.body, method=call.method, path=call.path)
            try:
                said = client.message(1)
            except ResetError as error:
                return Seen([], f"reset {error.code}")
        return Seen([], normal(said.headers), said.body, normal(said.trailers))

    def by_http1(self, port: int, call: Call, headers: list[tuple[str, str]]) -> Seen:
        with Client(port) as client:
            fields = [f"{name}: {value}" for name, value in headers]
            lines = [f"{call.method} {call.path} HTTP/1.1", "host: test", f"content-length: {len(call.body)}", *fields]
            client.send("\r\n".join([*lines, "", ""]).encode() + call.body)
            try:
                said = client.answer()
            except ClosedError:
                return Seen([], "closed")        # Envoy sends no trailers here unless told to, we do: they are not compared
        head = [(":status", str(said.status)), *[(name, value) for name, value in said.headers if name.lower() != "connection"]]
        return Seen([], normal(head), said.body)


@contextlib.contextmanager
def standing(directory: Path, on_envoy: bool) -> Iterator[Proxy]:
    """One of the two with an endpoint of its own."""
    directory.mkdir()
    seen: queue.Queue[Message] = queue.Queue()
    log = directory / "log"
    with http2_origin(lambda peer: script(peer, seen)) as origin:
        dead, admin, *ports = free_ports(2 + len(FILTERS))
        listeners = []
        for (name, filters), port in zip(FILTERS.items(), ports, strict=True):
            chain = [{"name": f"f{place}", "typed_config": config} for place, config in enumerate(filters)]
            chain.append({"name": "envoy.filters.http.router", "typed_config": {"@type": bootstrap.ROUTER}})
            manager = {"http_filters": chain, "access_log": [bootstrap.file_log(str(log), LOG)]}
            listener = bootstrap.http_listener(name, port, [bootstrap.virtual_host(ROUTES)], **manager)
            listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["validate_clusters"] = False
            listeners.append(listener)
        clusters = [
            bootstrap.cluster("origin", origin.port, **http2()), bootstrap.cluster("dead", dead, **http2()),
            bootstrap.cluster("nobody", **http2()),
            bootstrap.cluster("full", origin.port, **http2(), circuit_breakers={"thresholds": [{"max_requests": 0}]}),
        ]  # fmt: skip
        config = bootstrap.bootstrap(listeners, clusters, admin)
        peer = PromptEnvoy(directory, config, [*ports, admin]) if on_envoy else Node(directory, config)
        log.touch()
        with peer:
            yield Proxy(dict(zip(FILTERS, ports, strict=True)), admin, log, origin, seen)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, on_envoy: bool) -> Iterator[tuple[Proxy, Proxy]]:
    """Envoy's and ours."""
    directory = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        try:
            theirs = stack.enter_context(standing(directory / "envoy", True))
        except PeerMissingError as error:
            pytest.skip(str(error))
        yield theirs, theirs if on_envoy else stack.enter_context(standing(directory / "node", False))


def without_quirks(theirs: Seen) -> Seen:
    """What Envoy does and we do not, on purpose, and what differs by chance.

    An answer before the request's end closes no connection whose request came in time. Flags come in the order of their bits, and a
    refused connection is not told of twice. A later try's time is as long as the first's, less what went by. A call that the endpoint refused
    was not begun (RFC 9113 8.7): we ask once more without a policy too.
    """
    if isinstance(theirs.answer, dict):
        theirs.answer.pop("connection", None)
    theirs.log = theirs.log.replace("|delayed_connect_error:_Connection_refused", "").replace(" URX,UR ", " UR,URX ")
    if "remote_refused_stream_reset" in theirs.log and len(theirs.tries) == 1:
        theirs.tries *= 2
    if "deadline-0m" in theirs.log:
        theirs.tries = []                        # whether a call without any time is begun is chance
    for headers, _ in theirs.tries:
        if headers.get("x-envoy-expected-rq-timeout-ms", [""])[0].startswith("149"):
            headers["x-envoy-expected-rq-timeout-ms"] = ["15000"]
    return theirs


APART = {
    "web Plain503", "web text Plain503",         # Envoy makes a status of an answer that is no gRPC
    *[name for name in CALLS if name.startswith("web") and name.split()[-1] in ("direct", "nowhere", "dead", "timeout", "base64")],
}
"""Our own answers to gRPC-Web are 200 with the status in the head, as for any gRPC client; Envoy's keep HTTP's status."""
BRIDGED_APART = {"echo NoStatus", "echo Cut"}
"""What is held has a length in any case, and its client is cut off where the endpoint cuts us off."""
CASES = [
    *[("plain", "h2", name) for name in CALLS if not name.startswith(("web", "protobuf"))],
    *[("plain", "h1", name) for name in SOME if not name.startswith(("web", "protobuf"))],
    *[("web", version, name) for version in ("h1", "h2") for name in CALLS if name.startswith("web") and name not in APART],
    *[("web", "h2", name) for name in ("echo Unary", "direct")],
    *[("bridge", "h1", name) for name in SOME if not name.startswith(("web", "protobuf")) and name not in BRIDGED_APART],
    *[("bridge", "h2", name) for name in ("echo Late14", "direct")],
    *[("upgrading", "h1", name) for name in CALLS if name.startswith("protobuf") or name == "echo Unary"],
]


@pytest.mark.parametrize(("listener", "version", "name"), CASES, ids=[" ".join(case) for case in CASES])
def test_same_as_envoy(pair: tuple[Proxy, Proxy], listener: str, version: str, name: str) -> None:
    theirs, ours = pair
    expected = without_quirks(theirs.call(listener, version, name))
    actual = ours.call(listener, version, name)

    assert dataclasses.asdict(actual) == dataclasses.asdict(expected)


def counts(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats?filter=grpc") as page:
        lines = page.read().decode().splitlines()
    found = {name: int(value) for name, _, value in (line.partition(": ") for line in lines) if value.isdigit() and value != "0"}
    return {name: count for name, count in found.items() if ".grpc." in name}


def test_same_counts_as_envoy(pair: tuple[Proxy, Proxy]) -> None:
    theirs, ours = pair
    for proxy in pair:
        for kind in ("Unary", "Only5", "Late14", "Words", "NoStatus", "Plain503", "Reset", "Cut"):
            proxy.call("all", "h2", f"echo {kind}")
        for name in ("direct", "dead"):
            proxy.call("all", "h2", name)
        proxy.call("all", "h1", "web Unary")

    expected = counts(theirs.admin)
    assert wait_until(lambda: counts(ours.admin) == expected or None, 20), (counts(ours.admin), expected)
