"""Resources as control planes send them, to the model: one at a time, each taken or refused by itself.

A control plane sends every proxy the same, whatever that proxy has. So fields that are not known are skipped, and fields that decide
neither who may pass nor where a request goes are told as not in force; all others that are not here refuse the resource.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from meshproxy.config import control_planes
from meshproxy.config import document as documents
from meshproxy.config.envoy import bootstrap, cluster, listener, route, secrets
from meshproxy.config.envoy.messages import TYPE_URL_PREFIX, MessageTypes, name_in
from meshproxy.config.envoy.reader import Reader
from meshproxy.config.envoy.told_filters import PEER_EXCHANGE
from meshproxy.config.envoy.translation import Translation
from meshproxy.config.problems import Path, Problems
from meshproxy.errors import ConfigError, Problem
from meshproxy.model import (
    Certificate,
    Cluster,
    ConfigSource,
    Dynamic,
    Endpoint,
    Listener,
    Node,
    PeerValidation,
    RouteTable,
    Secret,
    TicketKeys,
    TrustedCa,
)
from meshproxy.model.snapshot import signed

CLUSTER = "envoy.config.cluster.v3.Cluster"
LISTENER = "envoy.config.listener.v3.Listener"
ROUTES = "envoy.config.route.v3.RouteConfiguration"
ENDPOINTS = "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
TYPE_URLS = {name: TYPE_URL_PREFIX + name for name in (CLUSTER, LISTENER, ROUTES, ENDPOINTS, SECRET)}
"""By message name, what a control plane is asked for."""
_WORDS = {CLUSTER: "cluster", LISTENER: "listener", ROUTES: "route table", ENDPOINTS: "endpoints of", SECRET: "secret"}
_RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"
_ADD_CLUSTER = "Add it to static_resources.clusters: control planes are reached by clusters of the file that need none themselves."

MOST_GOOD_SECRETS = 10_000
"""Remembered as good: a certificate is the same in all clusters of a sidecar, and checking one takes a millisecond."""

Packed = Any
"""An Any, or its bytes."""
T = TypeVar("T")


class Translated(NamedTuple):
    """A resource that was taken, and what came inside it. `notes`: what of it is not in force, for operators."""

    name: str
    resource: Any
    secrets: tuple[Secret, ...] = ()
    tables: tuple[RouteTable, ...] = ()
    notes: tuple[str, ...] = ()


class Response(NamedTuple):
    """A DiscoveryResponse that is a file or the body of an HTTP answer."""

    version: str
    type_url: str
    resources: list[Any]
    """Any messages."""


class _Resource:
    """The root of a path: what the resource is called."""

    def __init__(self, file: str) -> None:
        self.file = file

    def line_of(self, keys: list[str | int]) -> int:
        return 0


class DynamicTranslator:
    """Kept for as long as the agent lives: what it learns of message types is learned once.

    `static_secrets` are the file's, which dynamic resources may name; `static_clusters` the names of the file's clusters without EDS, by
    which control planes are reached. Every method raises ConfigError for what is refused, with the resource's name and the field's path.
    """

    def __init__(
        self, node: Node, dynamic: Dynamic, static_secrets: Iterable[Secret] = (), static_clusters: Container[str] = ()
    ) -> None:
        self._node = node
        self._dynamic = dynamic
        self._clusters = static_clusters
        self._types = MessageTypes()
        self._translation = Translation(Problems(), bootstrap.TABLE, self._types)
        self._translation.secrets = {secret.name: made for secret in static_secrets if (made := _named(secret)) is not None}
        self._messages: dict[str, type[Message]] = {}
        self._good_secrets: set[str] = set()
        self._asked: dict[str, str] = {}
        """The kind of secret that an SDS name is used as."""

    def name_of(self, type_url: str, packed: Packed) -> str:
        """The resource's own name; "" when its bytes are no such message or it has none."""
        name = name_in(type_url)
        found = self._types.find(name)
        message = found() if found is not None else None
        try:
            if message is not None:
                message.ParseFromString(_bytes(packed))
        except DecodeError:
            return ""
        return str(getattr(message, "cluster_name" if name == ENDPOINTS else "name", ""))

    def cluster(self, packed: Packed, source: ConfigSource | None = None) -> Translated:
        """A Cluster with the secrets that are in it. `source` is what `self` stands for in it."""

        def read(message: Any, path: Path) -> Cluster:
            made = cluster.cluster(message, path, self._translation)
            if made.tls is not None and PEER_EXCHANGE in made.tls.alpn:
                made = msgspec.structs.replace(made, tls=self._without_exchange(made.tls))
            return made

        return self._translated(CLUSTER, packed, source, read)

    def listener(self, packed: Packed, source: ConfigSource | None = None, clusters: Container[str] | None = None) -> Translated:
        """A Listener, with the secrets and the routes that are in it. Routes in it may name only `clusters`, where those are given and
        `validate_clusters` is not false, as with Envoy."""
        tables: list[RouteTable] = []

        def read(message: Any, path: Path) -> Listener | None:
            if message.HasField("api_listener"):
                remedy = "It is for gRPC's own clients; send one with an address."
                self._translation.refuse((path, "api_listener"), '"api_listener"', remedy)
                return None
            entrance = listener.listener(message, path, self._translation)
            if entrance is None:
                return None
            whole, made = _own_tables(entrance)
            tables.extend(made)
            return signed(self._without_exchange_in(whole), self._node)

        return self._translated(LISTENER, packed, source, read, clusters)._replace(tables=tuple(tables))

    def route_table(self, packed: Packed, clusters: Container[str] | None = None) -> Translated:
        """A RouteConfiguration; it may name clusters that are not there, unless `validate_clusters` is true."""
        return self._translated(
            ROUTES, packed, None, lambda message, path: route.route_table(message, path, self._translation, static=False), clusters
        )

    def endpoints(self, packed: Packed) -> Translated:
        """A ClusterLoadAssignment: the service's name, and its endpoints as the resource."""

        def read(message: Any, path: Path) -> tuple[Endpoint, ...]:
            return cluster.endpoints(message, path, self._translation, "found")

        return self._translated(ENDPOINTS, packed, None, read)

    def secret(self, packed: Packed, source: ConfigSource) -> Translated:
        """A Secret that was asked for, under the name that contexts know it by."""

        def read(message: Any, path: Path) -> Secret | None:
            named = secrets.secret(message, path, self._translation, secrets.Origin(self._secret_name(message.name, source, path)))
            if named is None:
                return None
            if named.field == "validation_context" and (not named.name or named.validation != PeerValidation(trusted_ca=named.name)):
                wrong = "a validation context that is asked for may have trusted_ca and crl alone."
                self._translation.error((path, "validation_context"), f"{wrong} Put the rest in default_validation_context.")
                return None
            kind = self._asked.get(named.name, named.field)
            if kind != named.field:
                self._translation.error(path, f"it has a {named.field}, and a {kind} was asked for. Send that.")
                return None
            made = self._translation.problems.secrets.get(named.name)
            if made is None:
                return None  # told already
            return msgspec.structs.replace(made, source=source, sds_name=message.name)

        return self._translated(SECRET, packed, source, read)._replace(secrets=())

    def _secret_name(self, name: str, source: ConfigSource, path: Path) -> str:
        return Problems().secrets.awaited(name, source, path)

    def _translated(
        self, kind: str, packed: Packed, source: ConfigSource | None, read: Callable[[Any, Path], Any],
        clusters: Container[str] | None = None,
    ) -> Translated:
        message = self._message(kind)
        try:
            message.ParseFromString(_bytes(packed))
        except DecodeError:
            wrong = f"a resource of type {kind} has bytes that are no such message. Send a message of that type."
            raise ConfigError([Problem(wrong)]) from None
        name = str(getattr(message, "cluster_name" if kind == ENDPOINTS else "name"))
        place = _Resource(f'{_WORDS[kind]} "{name}"')
        translation, problems = self._translation, Problems()
        translation.problems, translation.owner, translation.notes = problems, source, {}
        if len(self._good_secrets) > MOST_GOOD_SECRETS:
            self._good_secrets.clear()
        problems.secrets.sent_good = self._good_secrets if kind != SECRET else set()
        try:
            made = read(message, place)
        except Exception as error:
            # Bytes from outside: what a translator trips over is refused like all else, and the next resource goes on.
            if not problems.refused:
                problems.error(place, f"it cannot be read ({type(error).__name__}: {error}). Report this as a mistake of meshproxy's.")
            raise ConfigError(problems.errors()) from error
        problems.unresolved(control_planes.CLUSTER, self._clusters, _ADD_CLUSTER)
        control_planes.check_stream(problems, self._dynamic, "Add dynamic_resources.ads_config.")
        if clusters is not None:
            problems.unresolved("cluster", clusters, "Send it first, or set validate_clusters to false.")
        if problems.refused or made is None:
            raise ConfigError(problems.errors() or [Problem("it is of no use.", file=place.file)])
        self._asked.update(translation.asked)
        told = [*translation.notes, *(f"{problem.path}: {problem.message}" for problem in problems.warnings())]
        return Translated(name, made, problems.secrets.all(), (), tuple(told))

    def _message(self, kind: str) -> Message:
        made = self._messages.get(kind)
        if made is None:
            found = self._types.find(kind)
            assert found is not None, f"xds-protos has no {kind}"
            made = self._messages[kind] = found
        return made()

    def _without_exchange(self, tls: T) -> T:
        notes = self._translation.notes
        assert notes is not None
        notes[f"alpn_protocols: {PEER_EXCHANGE} is not offered"] = None
        alpn = tuple(name for name in tls.alpn if name != PEER_EXCHANGE)  # type: ignore[attr-defined]
        return msgspec.structs.replace(tls, alpn=alpn)  # type: ignore[type-var]

    def _without_exchange_in(self, whole: Listener) -> Listener:
        chains = [
            msgspec.structs.replace(chain, tls=self._without_exchange(chain.tls))
            if chain.tls is not None and PEER_EXCHANGE in chain.tls.alpn else chain
            for chain in whole.all_chains
        ]
        default = chains.pop() if whole.default_chain is not None else None
        return msgspec.structs.replace(whole, chains=tuple(chains), default_chain=default)


def _bytes(packed: Packed) -> bytes:
    return packed if isinstance(packed, bytes) else packed.value


def _named(secret: Secret) -> secrets.Named | None:
    """A secret of the file as contexts know it. One that has rules beside it is not handed out without them."""
    if secret.has_rules or secret.source is not None or secret.files.sds:
        return None
    if isinstance(secret.value, Certificate):
        return secrets.Named("tls_certificate", secret.name)
    if isinstance(secret.value, TicketKeys):
        return secrets.Named("session_ticket_keys", secret.name)
    if isinstance(secret.value, TrustedCa):
        return secrets.Named("validation_context", secret.name, PeerValidation(trusted_ca=secret.name))
    return None


def _own_tables(entrance: listener.Entrance) -> tuple[Listener, list[RouteTable]]:
    """Routes in a listener get its name before theirs: other listeners, and control planes, may have the same."""
    whole, tables, chains = entrance.listener, dict[str, RouteTable](), []
    for chain, table in zip(whole.all_chains, entrance.tables, strict=True):
        if table is not None:
            table = msgspec.structs.replace(table, name=f"{whole.name}/{table.name}")
            if tables.get(table.name, table) != table:
                table = msgspec.structs.replace(table, name=bootstrap.free_name(table.name, tables))
            tables[table.name] = table
            chain = msgspec.structs.replace(chain, terminal=msgspec.structs.replace(chain.terminal, route_table=table.name))
        chains.append(chain)
    default = chains.pop() if whole.default_chain is not None else None
    return msgspec.structs.replace(whole, chains=tuple(chains), default_chain=default), list(tables.values())


def read_response(path: str) -> Response:
    """A file with a DiscoveryResponse: YAML, JSON, or by its name `.pb` (bytes) or `.pb_text`. Raises ConfigError."""
    ending = os.path.splitext(path)[1]
    if ending not in (".pb", ".pb_text"):
        return _response(documents.read(path))
    message = _empty_response()
    try:
        with open(path, "rb") as opened:
            content = opened.read()
        if ending == ".pb":
            message.ParseFromString(content)
        else:
            text_format.Parse(content, message, allow_unknown_field=True)
    except OSError as error:
        raise ConfigError([Problem(f"cannot read the file: {error.strerror}. Correct the path.", file=path)]) from None
    except (DecodeError, text_format.ParseError, ValueError) as error:
        raise ConfigError([Problem(f"it is no DiscoveryResponse: {error}. Write one, or name it .yaml or .json.", file=path)]) from None
    return Response(message.version_info, message.type_url, list(message.resources))


def parse_response(name: str, text: str) -> Response:
    """The same out of a text, JSON or YAML; `name` stands for a file's in problems."""
    return _response(documents.parse(name, text))


def _empty_response() -> Any:
    found = MessageTypes().find(_RESPONSE)
    assert found is not None, "xds-protos has no DiscoveryResponse"
    return found()


def _response(document: documents.Document) -> Response:
    problems = Problems()
    message = _empty_response()
    Reader(problems, MessageTypes()).reading(problems, tolerant=True).read(message, document.data, document)
    if problems.refused:
        raise ConfigError(problems.errors())
    return Response(message.version_info, message.type_url, list(message.resources))
