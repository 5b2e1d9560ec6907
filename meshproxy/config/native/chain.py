"""Filter chains in native YAML: what is done with a connection."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from meshproxy.config import tls_rules
from meshproxy.config.native.actions import DIRECT, Targets
from meshproxy.config.native.catalog import CATALOG
from meshproxy.config.native.control_plane import RDS, Asked
from meshproxy.config.native.http import FILTER, HTTP
from meshproxy.config.native.kinds import Definitions, Duration, Flag, ListOf, Text, Whole, Word
from meshproxy.config.native.route import ROUTE, VIRTUAL_HOST, check_hosts, hosts_of
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.native.secrets import Content, Secured
from meshproxy.config.native.tcp import CONNECTION_FILTER, TCP
from meshproxy.config.native.telemetry import ACCESS_LOGS
from meshproxy.config.native.tls import CIDRS, DOWNSTREAM_TLS, Draft
from meshproxy.config.problems import Path, Problems
from meshproxy.config.secrets import Part
from meshproxy.model import (
    ChainMatch,
    Echo,
    FilterChain,
    ForwardAction,
    HttpConnectionManager,
    NetworkDirectResponse,
    PathMatch,
    Route,
    RouteTable,
    SniCluster,
    TcpProxy,
    VirtualHost,
)

# Each handshake that has begun holds some 40 KiB, so that half-open ones must end; a slow client on a bad line is through well before.
HANDSHAKE_LIMIT_S = 15.0
_ALPN = {"auto": ("h2", "http/1.1"), "http1": ("http/1.1",), "http2": ("h2",)}
"""What a client of TLS is offered, by codec."""
_ROUTES = ("routes", "virtual_hosts", "to", "respond")
_OTHERS = ("tcp", "echo", "send")
_OF_HTTP = {
    "http": "http", "http_filters": "filters", "route_table": "route_table", "catalog": "catalog", "rds": "rds",
}

class Body:
    """Bytes: a text, or `{base64: ...}`."""

    label = "text, or base64 below"
    _base64 = Content()

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str:
            return value.encode()
        made = self._base64.read(value, path, problems)
        return made if made is WRONG else made.content

    def write(self, value: bytes) -> Any:
        written = self._base64.write(Part(value, "", None))
        return written.get("inline", written)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return self._base64.schema(definitions)


MATCH = Section(
    "match",
    (
        Row("destination_port", Whole(1, 65535), "The local port.", shown_default="any"),
        Row("prefix_ranges", CIDRS, "Ranges of the local address.", shown_default="any"),
        Row("server_names", ListOf(Text("server name", tls_rules.server_name, lower=True)),
            "The name that the client asks for by TLS: exact, or `*.suffix`.", shown_default="any"),
        Row("transport_protocol", Word("tls", "raw_buffer"), "TLS or none.", shown_default="any"),
        Row("application_protocols", ListOf(Text("protocol", tls_rules.alpn)), "What the client offers by ALPN, or speaks.",
            shown_default="any"),
        Row("direct_source_prefix_ranges", CIDRS, "Ranges of the address of who is connected.", shown_default="any"),
        Row("source_type", Word("any", "same_ip_or_loopback", "external"), "Where the client is."),
        Row("source_prefix_ranges", CIDRS, "Ranges of the client's address.", shown_default="any"),
        Row("source_ports", ListOf(Whole(1, 65535)), "The client's port.", shown_default="any"),
    ),
    ChainMatch,
    help="Which connections a chain is for: server names, or a mapping. The most specific match wins, in the order of these settings.",
    short=lambda value: {"server_names": value} if isinstance(value, (str, list)) else None,
    shorten=lambda written: written["server_names"] if written.keys() == {"server_names"} else written,
    short_schemas=({"type": "string"}, {"type": "array", "items": {"type": "string"}}),
    short_label="server names",
)

CHAIN_ROWS = (
    Row("to", Targets(), "Short for one route: every request goes to this cluster."),
    Row("respond", DIRECT, "Short for one route: every request is answered from here."),
    Row("routes", ListOf(ROUTE, single=False), "Routes for all host names, tried in order."),
    Row("virtual_hosts", ListOf(VIRTUAL_HOST, single=False), "Routes by host name."),
    Row("route_table", Text(), "The route table of this name; with routes written here it is their name."),
    Row("rds", RDS, "Instead: the route table of this name that a control plane sends.", default=None, shown_default="none"),
    Row("catalog", CATALOG, "Routes to every service of Consul's catalogue, behind those given here.", shown_default="none"),
    Row("tcp", TCP, "Instead of HTTP: relay the bytes to a cluster."),
    Row("echo", Flag(), "Instead of HTTP: send back what comes.", default=False),
    Row("send", Body(), "Instead of HTTP: send this and close."),
    Row("tls", DOWNSTREAM_TLS, "TLS with clients.", shown_default="none"),
    Row("http", HTTP, "How HTTP is spoken with clients."),
    Row("filters", ListOf(FILTER), "What requests go through, in order.", "http_filters", default=(), shown_default="none"),
    Row("connection_filters", ListOf(CONNECTION_FILTER), "What connections go through first, in order.", default=(), shown_default="none"),
    Row("access_log", ACCESS_LOGS, "Logs of requests, or of TCP connections.", "access_logs", default=(),
        shown_default="the node's access_log"),
    Row("handshake_timeout", Duration(), "Until a TLS connection is set up.", "connect_timeout_s", default=HANDSHAKE_LIMIT_S),
)


Terminal = HttpConnectionManager | TcpProxy | Echo | NetworkDirectResponse


class ChainDraft(NamedTuple):
    """A chain's settings until its listener is known."""

    values: Values
    path: Path


class Made(NamedTuple):
    """A chain, its routes when they are written with it, and whether it has access logs of its own or cannot have any."""

    chain: FilterChain
    table: RouteTable | None
    own_log: bool
    permissive: bool
    path: Path


CHAIN = Section(
    "chain",
    (
        Row("name", Text(), "For logs and metrics.", default=""),
        Row("match", MATCH, "Which connections it is for.", default=ChainMatch(), shown_default="all"),
        *CHAIN_ROWS,
    ),
    help="What is done with the connections that match.",
    make=lambda values, path, problems: ChainDraft(values, path),
    split=lambda written: split_chain(*written) | {"name": written.chain.name, "match": written.chain.match},
    title="filter chain",
)


def make_chain(values: Values, path: Path, problems: Problems, listener: str, table_name: str) -> Made | None:
    """The chain of a listener's name; `table_name` is that of routes that have none of their own."""
    given = [word for word in (*_ROUTES, *_OTHERS) if values.get(word, False) is not False]
    if len(given) > 1:
        problems.error((path, given[1]), f'listener "{listener}": "{given[0]}" and "{given[1]}" are both given. Keep one.')
        return None
    draft = values.get("tls")
    connect_timeout_s = values.get("connect_timeout_s", 0.0 if draft is None else HANDSHAKE_LIMIT_S)
    logs = values.get("access_logs")
    filters = tuple(_with_prefix(each, "", listener) for each in values.get("connection_filters", ()))
    if given and given[0] in _OTHERS:
        for field, word in _OF_HTTP.items():
            if field in values:
                problems.error((path, word), f'listener "{listener}": "{word}" is for HTTP and "{given[0]}" is given. Remove one.')
        terminal: Terminal = _other(given[0], values, listener)
        table = None
    else:
        if any(isinstance(each, SniCluster) for each in filters):
            problems.error((path, "connection_filters"), f'listener "{listener}": sni_cluster picks the cluster of "tcp". Add that.')
        made = _http(values, path, problems, listener, table_name)
        if made is None:
            return None
        terminal, table = made
    tls = None
    if draft is not None:
        codec = terminal.codec if isinstance(terminal, HttpConnectionManager) else ""
        tls = draft.tls if draft.alpn_given else msgspec.structs.replace(draft.tls, alpn=_ALPN.get(codec, ()))
    chain = FilterChain(
        terminal=terminal, name=values.get("name", ""), match=values.get("match", ChainMatch()), tls=tls, filters=filters,
        connect_timeout_s=connect_timeout_s,
    )
    no_log = isinstance(terminal, (Echo, NetworkDirectResponse))
    if no_log and logs:
        problems.error((path, "access_log"), f'listener "{listener}": "{given[0]}" writes no access log. Remove it.')
    return Made(chain, table, logs is not None or no_log, draft is not None and draft.permissive, path)


def _other(word: str, values: Values, listener: str) -> Terminal:
    if word == "tcp":
        return TcpProxy(**{"stat_prefix": listener, "access_logs": values.get("access_logs", ()), **values["tcp"]})
    return Echo() if word == "echo" else NetworkDirectResponse(body=values["send"])


def _http(
    values: Values, path: Path, problems: Problems, listener: str, table_name: str
) -> tuple[HttpConnectionManager, RouteTable | None] | None:
    catalog = values.get("catalog")
    content = catalog is not None or any(word in values for word in _ROUTES)
    named = values.get("route_table")
    asked: Asked | None = values.get("rds")
    if asked is not None:
        beside = "routes" if content else "route_table" if named is not None else ""
        if beside:
            problems.error((path, "rds"), f'listener "{listener}": there are {beside} beside "rds". Keep one of the two.')
            return None
    elif not content and named is None:
        remedy = 'Add "routes", "virtual_hosts", "to", "respond", "catalog", "route_table", "rds" or "tcp".'
        problems.error(path, f'listener "{listener}" has no routes. {remedy}')
        return None
    table = None
    if content:
        # Who calls a service by its name mostly gives a port.
        hosts, ported = _hosts(values, path, problems), catalog is not None
        table = RouteTable(name=named or table_name, virtual_hosts=hosts, catalog=catalog, ignore_port_in_host=ported)
    if named is not None and table is None:
        problems.refer("route table", named, (path, "route_table"))
    manager = HttpConnectionManager(
        route_table=asked.name if asked is not None else named or table_name,
        rds=asked.source if asked is not None else None,
        filters=values.get("http_filters", ()),
        access_logs=values.get("access_logs", ()),
        **{"stat_prefix": listener, **values.get("http", {})},
    )
    return manager, table


def _hosts(values: Values, path: Path, problems: Problems) -> tuple[VirtualHost, ...]:
    values = {word: values[word] for word in _ROUTES if word in values}
    target, direct = values.pop("to", None), values.pop("respond", None)
    if target is not None:
        values["routes"] = (Route(path=PathMatch("prefix", "/"), action=ForwardAction(clusters=target)),)
    elif direct is not None:
        values["routes"] = (Route(path=PathMatch("prefix", "/"), action=direct),)
    hosts = hosts_of(values, path, problems)
    check_hosts(hosts, path, problems)
    return hosts


def _with_prefix(item: Any, prefix: str, other: str) -> Any:
    """A connection filter whose name in metrics is `prefix`, with `other` in its place."""
    return msgspec.structs.replace(item, stat_prefix=other) if getattr(item, "stat_prefix", None) == prefix else item


class Written(NamedTuple):
    """A chain to be written, with what its listener knows."""

    chain: FilterChain
    table: RouteTable | None
    listener: str
    table_name: str
    secured: Secured
    permissive: bool = False


def split_chain(chain: FilterChain, table: RouteTable | None, listener: str, table_name: str, secured: Secured, permissive: bool) -> Values:
    """The values of CHAIN_ROWS."""
    values: Values = {}
    if chain.tls is not None or chain.connect_timeout_s:
        values["connect_timeout_s"] = chain.connect_timeout_s
    values["connection_filters"] = tuple(_with_prefix(each, listener, "") for each in chain.filters)
    terminal, codec = chain.terminal, ""
    if isinstance(terminal, HttpConnectionManager):
        codec = terminal.codec
        values.update(_split_http(terminal, table, listener, table_name))
    elif isinstance(terminal, TcpProxy):
        tcp = {row.field: getattr(terminal, row.field) for row in TCP.rows}
        if terminal.stat_prefix == listener:
            del tcp["stat_prefix"]
        values.update(tcp=tcp, access_logs=terminal.access_logs)
    elif isinstance(terminal, Echo):
        values["echo"] = True
    else:
        values["send"] = terminal.body
    if chain.tls is not None:
        values["tls"] = (Draft(chain.tls, chain.tls.alpn != _ALPN.get(codec, ()), permissive), secured)
    return values


def _split_http(manager: HttpConnectionManager, table: RouteTable | None, listener: str, table_name: str) -> Values:
    values: Values = {"http_filters": manager.filters, "access_logs": manager.access_logs}
    http = {row.field: getattr(manager, row.field) for row in HTTP.rows if getattr(manager, row.field) != row.default}
    if manager.stat_prefix == listener:
        del http["stat_prefix"]
    if http:
        values["http"] = http
    if manager.rds is not None:
        values["rds"] = Asked(manager.route_table, manager.rds)
    elif table is None or manager.route_table != table_name:
        values["route_table"] = manager.route_table
    if table is not None:
        values.update(_split_hosts(table.virtual_hosts) if table.virtual_hosts or table.catalog is None else {})
        if table.catalog is not None:
            values["catalog"] = table.catalog
    return values


def _split_hosts(hosts: tuple[VirtualHost, ...]) -> Values:
    """The shortest of `respond`, `to`, `routes` and `virtual_hosts`."""
    if len(hosts) != 1 or hosts[0] != VirtualHost(name="*", domains=("*",), routes=hosts[0].routes):
        return {"virtual_hosts": hosts}
    routes = hosts[0].routes
    if len(routes) == 1 and routes[0] == Route(path=PathMatch("prefix", "/"), action=routes[0].action):
        action = routes[0].action
        if isinstance(action, ForwardAction) and action == ForwardAction(clusters=action.clusters):
            return {"to": action.clusters}
        if not isinstance(action, ForwardAction) and hasattr(action, "body"):
            return {"respond": action}
    return {"routes": routes}
