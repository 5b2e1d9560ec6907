"""Sources of endpoints in native YAML: `discovery: {consul: web}`, `{dns_srv: _web._tcp.example}`, `{files: /etc/endpoints/*.yaml}`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from meshproxy.config.native.address import Place
from meshproxy.config.native.control_plane import EDS
from meshproxy.config.native.kinds import Definitions, Duration, ListOf, Text, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, did_you_mean, told
from meshproxy.model import Cluster, ConsulServer, ConsulService, DnsSrv, EdsSource, EndpointFiles, Source

_ABSOLUTE = Text("path", lambda text: "" if text.startswith("/") else f'"{text}" is not absolute. Write the whole path.')
_SRV_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")


def _wrong_token(text: str) -> str:
    return "" if text.isprintable() and text.isascii() else "the token has other characters than ASCII."


def make_server(values: Values, path: Path, problems: Problems) -> Any:
    """A ConsulServer; `values` has nothing but its fields."""
    if "token" in values and "token_file" in values:
        problems.error((path, "token_file"), '"token" and "token_file" are both given. Keep one.')
    if "key_file" in values and "cert_file" not in values:
        problems.error((path, "key_file"), '"key_file" has no meaning without "cert_file". Add it.')
    tls = [name for name in ("ca_file", "cert_file", "key_file", "server_name") if name in values]
    if tls and values.setdefault("scheme", "https") == "http":
        problems.error((path, tls[0]), f'"{tls[0]}" has no meaning with http. Write scheme: https.')
    return ConsulServer(**values)


CONSUL_SERVER = Section(
    "consul_server",
    (
        Row("address", Place(names=True, zero_port=False), "Where its HTTP API is: address, name or UNIX socket."),
        Row("scheme", Word("http", "https"), "https needs a certificate of the server that a CA signed.",
            shown_default="https with one of the files below, else http"),
        Row("token", Text("token", _wrong_token),
            "The ACL token; rather a variable, `${NAME}`, than the text itself.", shown_default="none"),
        Row("token_file", _ABSOLUTE, "A file with it, read for each question.", shown_default="none"),
        Row("ca_file", _ABSOLUTE, "CA certificates, PEM.", shown_default="the system's"),
        Row("cert_file", _ABSOLUTE, "The client's certificate chain, PEM.", shown_default="none"),
        Row("key_file", _ABSOLUTE, "Its private key, PEM.", shown_default="in the file of `cert_file`"),
        Row("server_name", Text(), "The name in its certificate.", shown_default="the address's"),
    ),
    ConsulServer,
    help="A Consul agent or server: an address, or a mapping.",
    make=make_server,
    short=lambda value: {"address": value} if isinstance(value, str) else None,
    shorten=lambda written: written["address"] if written.keys() == {"address"} and isinstance(written["address"], str) else written,
    short_schemas=({"type": "string", "pattern": ":"},),
    short_label="an address",
)


def _make_service(values: Values, path: Path, problems: Problems) -> Any:
    if ("service" in values) == ("prepared_query" in values):
        problems.error(path, 'consul: exactly one of "service" and "prepared_query" is needed.')
        return WRONG
    if "prepared_query" in values and "tags" in values:
        problems.error((path, "tag"), "tag: a prepared query has its own. Remove it here.")
        return WRONG
    if "service" in values and "poll_s" in values:
        problems.error((path, "poll"), "poll: a service is watched, not polled. Remove it.")
        return WRONG
    return ConsulService(**values)


CONSUL_SERVICE = Section(
    "consul",
    (
        Row("service", Text(), "The service's name.", shown_default="none"),
        Row("prepared_query", Text(), "Instead: name or ID of a prepared query, executed again and again.", shown_default="none"),
        Row("tag", ListOf(Text()), "Tags that an instance must have, all of them.", "tags", shown_default="none"),
        Row("datacenter", Text(), "The datacenter to ask.", shown_default="the server's own"),
        Row("near", Text(), "Instances nearest to this node first; `_agent` = the asked agent's node.", shown_default="none"),
        Row("checks", Word("passing", "warning", "any"),
            "What an instance's checks may be: all passing, warnings too, or any; then a critical one is an endpoint that is not healthy."),
        Row("consistency", Word("default", "stale", "consistent"), "Consul's consistency mode."),
        Row("poll", Duration(zero="", least_s=0.1), "Between executions of a prepared query.", "poll_s"),
        Row("server", CONSUL_SERVER, "Another Consul than the node's.", shown_default="`consul` of the node"),
    ),
    ConsulService,
    help="Instances of a service in Consul's catalogue: the service's name, or a mapping.",
    make=_make_service,
    short=lambda value: {"service": value} if isinstance(value, str) else None,
    shorten=lambda written: written["service"] if written.keys() == {"service"} else written,
    short_schemas=({"type": "string", "minLength": 1},),
    short_label="a service's name",
    title="consul",
)

DNS_SRV = Section(
    "dns_srv",
    (
        Row("name", Text("SRV name", lambda text: "" if _SRV_NAME.fullmatch(text) else f'"{text}" is no DNS name. Correct it.'),
            "Like `_web._tcp.example.com`.", required=True),
        Row("refresh", Duration(zero=""), "When to ask again after a failure, and after an answer without a TTL.", "refresh_s"),
        Row("lookup_family", Word("auto", "v4_only", "v6_only", "v4_preferred", "all"), "Which addresses of the targets are asked for."),
    ),
    DnsSrv,
    help="The targets of an SRV name that have the lowest priority: the name, or a mapping.",
    short=lambda value: {"name": value} if isinstance(value, str) else None,
    shorten=lambda written: written["name"] if written.keys() == {"name"} else written,
    short_schemas=({"type": "string", "minLength": 1},),
    short_label="a name",
    title="dns_srv",
)


class _Files:
    """Glob patterns as a source."""

    def __init__(self) -> None:
        self._globs = ListOf(_ABSOLUTE, least=1)
        self.label = self._globs.label

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        globs = self._globs.read(value, path, problems)
        return WRONG if globs is WRONG or not globs else EndpointFiles(globs=globs)

    def write(self, value: EndpointFiles) -> Any:
        return self._globs.write(value.globs)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return self._globs.schema(definitions)


_ROWS = (
    Row("consul", CONSUL_SERVICE, "Consul's catalogue."),
    Row("dns_srv", DNS_SRV, "An SRV name."),
    Row("eds", EDS, "A control plane."),
    Row("files", _Files(), "Files with lists of endpoints, YAML or JSON, as absolute glob patterns; changes are followed."),
)
_NAMES = {ConsulService: "consul", DnsSrv: "dns_srv", EndpointFiles: "files", EdsSource: "eds"}


def _make_source(values: Values, path: Path, problems: Problems) -> Any:
    if len(values) != 1:
        problems.error(path, "a source is one of consul, dns_srv, eds and files. Write several as a list.")
        return WRONG
    return next(iter(values.values()))


SOURCE = Section(
    "source",
    _ROWS,
    help="One place that endpoints are found at.",
    make=_make_source,
    split=lambda source: {_NAMES[type(source)]: source},
)


class Discovery:
    """`static`, `strict_dns`, a source, or a list of sources: a word or a tuple in the model."""

    _word = Word("static", "strict_dns")
    _several = ListOf(SOURCE, least=1)
    label = f"static, strict_dns, or list of {SOURCE.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if isinstance(value, str):
            if value in ("static", "strict_dns"):
                return value
            near = did_you_mean(value, ["static", "strict_dns"])
            remedy = "Use static or strict_dns, or a source below, like consul: web."
            problems.error(path, f"{told(value)} is none of: static, strict_dns{near}. {remedy}")
            return WRONG
        sources = self._several.read(value, path, problems)
        if sources is WRONG or not sources:
            return WRONG
        twice = [at for at, source in enumerate(sources) if source in sources[:at]]
        if twice:
            problems.error((path, twice[0]), "this source is given twice. Keep one.")
            return WRONG
        return sources

    def write(self, value: Any) -> Any:
        return value if isinstance(value, str) else self._several.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [self._word.schema(definitions), *self._several.schema(definitions)["anyOf"]]}


def with_server(cluster: Cluster, server: ConsulServer | None) -> Cluster:
    """The cluster with the node's Consul where its sources name none."""
    if server is None or not cluster.sources:
        return cluster
    return msgspec.structs.replace(cluster, sources=tuple(_served(source, server) for source in cluster.sources))


def _served(source: Source, server: ConsulServer) -> Source:
    if isinstance(source, ConsulService) and source.server is None:
        return msgspec.structs.replace(source, server=server)
    return source
