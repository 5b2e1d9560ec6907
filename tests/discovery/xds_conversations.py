"""Conversations between a control plane and a client, as text: what is the script of the server is also what the client must say.

    a refused cluster keeps the version        the title; `; delta` and more options may follow it
    > CDS [] node                               the client's next line, as `peers.xds_server.line_of` has it
    < CDS v=1 n=1 c1 c2!                        the server's answer: two clusters, the second one is bad
    > EDS [c1] node
    > CDS [] n=1 node error="c2"

What only Envoy or only meshproxy says begins with E or M instead of >; each is explained in `docs/howto/control-planes.md`.

A server's line is sent once everything above it was said. Its resources are `name`, `name@version` (delta, or a TTL's), `name>other` (a
listener's route table, a route table's cluster, a secret's listener), `name!` (a bad one), `name~SECONDS` (a TTL), `name~SECONDS^` (a
heartbeat: a TTL without a body), `-name` (removed). Names say what a thing is: `c` clusters by EDS and `s` static ones, `e` an assignment
with no endpoints, a `q` in it one whose children may be waited for 0.4 s. Other server's lines: `close STATUS`, `garbage`, `wait SECONDS`,
`mixed CDS` (a resource of another type than the response).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 (an Any's type)
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse, Resource
from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message

from tests.peers import bootstrap
from tests.peers.xds_server import TYPES, XdsServer, packed

FOLDER = Path(__file__).with_name("xds_conversations")
ADS = {"ads": {}, "resource_api_version": "V3"}
_TOKEN = re.compile(r"(-?)([\w.*/:-]+?)(?:@(\w+))?(?:>([\w.]+))?(!?)(?:~([\d.]+))?(\^?)$")


class Token(NamedTuple):
    """A resource as the text has it."""

    name: str
    removed: bool = False
    version: str = ""
    other: str = ""
    bad: bool = False
    ttl_s: float = 0.0
    bodyless: bool = False


class Step(NamedTuple):
    """`who` is "<" (the server), ">" (any client), "E" (Envoy alone) or "M" (meshproxy alone)."""

    who: str
    text: str


class Conversation(NamedTuple):
    title: str
    options: frozenset[str]
    steps: tuple[Step, ...]

    @property
    def delta(self) -> bool:
        return "delta" in self.options


def read(path: Path) -> list[Conversation]:
    """All of a file: they are parted by blank lines, and lines beginning with # are remarks."""
    found = []
    for block in re.split(r"\n\s*\n", path.read_text()):
        lines = [line for line in block.strip().splitlines() if not line.startswith("#")]
        if lines:
            title, *options = [part.strip() for part in lines[0].split(";")]
            steps = tuple(Step(line[0], line[1:].strip()) for line in lines[1:])
            found.append(Conversation(title, frozenset(options), steps))
    return found


def everything() -> list[Conversation]:
    return [each for path in sorted(FOLDER.glob("*.txt")) for each in read(path)]


def token_of(text: str) -> Token:
    found = _TOKEN.match(text)
    assert found, text
    removed, name, version, other, bad, ttl, bodyless = found.groups()
    return Token(name, bool(removed), version or "", other or "", bool(bad), float(ttl or 0), bool(bodyless))


def _ads(token: Token) -> dict[str, Any]:
    return {**ADS, "initial_fetch_timeout": "0.4s"} if "q" in token.name else ADS


def message_of(kind: str, token: Token) -> Message:
    """The resource. Its content goes by the version, so that another version is a change."""
    number = int(token.version) if token.version.isdigit() else 1
    made: dict[str, Any]
    if kind == "CDS":
        made = {"name": token.name, "connect_timeout": f"{number}s"}
        if token.name.startswith("c"):
            made |= {"type": "EDS", "eds_cluster_config": {"eds_config": _ads(token)}}
            made["eds_cluster_config"] |= {"service_name": token.other} if token.other else {}
        else:
            made |= bootstrap.cluster(token.name, 9, connect_timeout=f"{number}s")
        if token.bad:
            unknown = {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}
            made["transport_socket"] = {"name": "nope", "typed_config": unknown}
        return json_format.ParseDict(made, Cluster())
    if kind == "EDS":
        endpoints = [] if token.name.startswith("e") else [{"endpoint": {"address": bootstrap.address(9000 + number)}}]
        made = {"cluster_name": token.name, "endpoints": [{"lb_endpoints": endpoints}]}
        if token.bad:
            made["endpoints"] = [{"priority": 129, "lb_endpoints": endpoints}]
        return json_format.ParseDict(made, ClusterLoadAssignment())
    if kind == "LDS":
        made = bootstrap.http_listener(token.name, 0, [bootstrap.virtual_host([bootstrap.route("/", f"s{number}")])])
        if token.other:
            config = made["filter_chains"][0]["filters"][0]["typed_config"]
            del config["route_config"]
            config["rds"] = {"route_config_name": token.other, "config_source": _ads(token)}
        elif not token.bad:
            made["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["validate_clusters"] = False
        if token.bad:
            unknown = {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}
            made["filter_chains"][0]["filters"][0] = {"name": "nope", "typed_config": unknown}
        return json_format.ParseDict(made, Listener())
    if kind == "RDS":
        host = bootstrap.virtual_host([bootstrap.route(f"/{number}", token.other or "s1")])
        if token.bad:
            host = bootstrap.virtual_host([{"match": {"safe_regex": {"regex": "("}}, "route": {"cluster": "s1"}}])
        return json_format.ParseDict({"name": token.name, "virtual_hosts": [host]}, RouteConfiguration())
    if kind == "SDS":
        return Secret(name=token.name)
    raise AssertionError(kind)


def response_of(text: str, delta: bool) -> DiscoveryResponse | DeltaDiscoveryResponse:
    """A server's line `CDS v=1 n=2 c1 ...`."""
    kind, *rest = text.split()
    fields = dict(part.split("=", 1) for part in rest if re.match(r"[vn]=", part))
    tokens = [token_of(part) for part in rest if not re.match(r"[vn]=", part)]
    url = TYPES.get(kind, kind)
    if delta:
        made = DeltaDiscoveryResponse(type_url=url, nonce=fields.get("n", ""), system_version_info=fields.get("v", ""))
        for token in tokens:
            if token.removed:
                made.removed_resources.append(token.name)
            else:
                made.resources.append(_wrapped(kind, token))
        return made
    answer = DiscoveryResponse(type_url=url, nonce=fields.get("n", ""), version_info=fields.get("v", ""))
    for token in tokens:
        answer.resources.append(packed(_wrapped(kind, token)) if token.ttl_s or token.bodyless else packed(message_of(kind, token)))
    return answer


def _wrapped(kind: str, token: Token) -> Resource:
    made = Resource(name=token.name, version=token.version or "1")
    if token.ttl_s:
        made.ttl.FromNanoseconds(int(token.ttl_s * 1e9))
    if not token.bodyless:
        made.resource.CopyFrom(packed(message_of(kind, token)))
    return made


def mixed(kind: str, delta: bool, nonce: str = "mixed") -> DiscoveryResponse | DeltaDiscoveryResponse:
    """A response with a resource of another type: refused as a whole, and nothing else happens."""
    other = any_pb2.Any(type_url=TYPES["RDS" if kind != "RDS" else "EDS"])
    if delta:
        return DeltaDiscoveryResponse(type_url=TYPES[kind], nonce=nonce, resources=[Resource(name="mixed", version="1", resource=other)])
    return DiscoveryResponse(type_url=TYPES[kind], nonce=nonce, version_info="mixed", resources=[other])


def normal(line: str) -> str:
    """A line as it is compared. Of an error only counts who is refused, or which rule of the protocol: the words are each node's own."""
    head, found, text = line.partition(" error=")
    if not found:
        return line
    text = json.loads(text)
    named = re.match(r"Error adding/updating (?:cluster|listener)\(s\) (.*)", text, re.DOTALL)
    if named:
        text = " ".join(re.findall(r"(?:^|\n|, )([\w.]+): ", named.group(1)))
    elif "message-wide type URL" in text:
        text = "another type"
    elif text.startswith("duplicate name"):
        text = " ".join(text.split()[:3])
    else:
        text = "..."
    return f'{head} error="{text}"'


class Runner:
    """Plays the server's part. `say` sends one of its lines."""

    def __init__(self, server: XdsServer, conversation: Conversation) -> None:
        self._server = server
        self._conversation = conversation
        self.stream = 0

    def took(self, stream: int) -> None:
        self.stream = max(self.stream, stream)

    def say(self, text: str) -> None:
        verb, _, rest = text.partition(" ")
        if verb == "close":
            self._server.close(self.stream, rest or "UNAVAILABLE")
        elif verb == "wait":
            self._server.nothing_within(float(rest))
        elif verb == "garbage":
            self._server.send(self.stream, b"\xff\xff\xff")
        elif verb == "mixed":
            self._server.send(self.stream, mixed(rest, self._conversation.delta))
        else:
            self._server.send(self.stream, response_of(text, self._conversation.delta))


def client_bootstrap(port: int, admin_port: int, options: frozenset[str]) -> dict[str, Any]:
    """A node that is driven by ADS on that port."""
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{bootstrap.TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    ads: dict[str, Any] = {
        "api_type": "DELTA_GRPC" if "delta" in options else "GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "control_plane"}}],
        "set_node_on_first_message_only": "node once" in options,
    }
    source = dict(ADS)
    for option in options:
        if option.startswith("fetch timeout"):
            source["initial_fetch_timeout"] = f"{option.split()[-1]}s"
    dynamic: dict[str, Any] = {"ads_config": ads, "cds_config": source, "lds_config": source}
    if "per type" in options:
        own = {"api_config_source": ads, "resource_api_version": "V3"}
        dynamic = {"cds_config": own, "lds_config": own}
    return bootstrap.bootstrap(
        [], [bootstrap.cluster("control_plane", port, typed_extension_protocol_options=http2)], admin_port,
        node={"id": "n1", "cluster": "c"},
        dynamic_resources=dynamic,
    )
