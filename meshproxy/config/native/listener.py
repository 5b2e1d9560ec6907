"""Listeners in native YAML."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshproxy.config import rules
from meshproxy.config.native.actions import DIRECT, Targets
from meshproxy.config.native.address import Place
from meshproxy.config.native.kinds import Duration, Flag, Free, ListOf, Size, Text, Whole, Word
from meshproxy.config.native.route import ROUTE, VIRTUAL_HOST, check_hosts, hosts_of
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.telemetry import ACCESS_LOGS
from meshproxy.config.problems import Path, Problems
from meshproxy.model import (
    FilterChain,
    ForwardAction,
    HttpConnectionManager,
    Listener,
    PathMatch,
    PythonFilter,
    Route,
    RouteTable,
    VirtualHost,
)

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


def _target(text: str) -> str:
    return "" if _TARGET.match(text) else f'"{text}" is no Python class. Write "package.module:Class".'


FILTER = Section(
    "filter",
    (
        Row("python", Text("class", _target), "The class, as `package.module:Class`; its constructor gets `settings`.", "target",
            required=True),
        Row("name", Text(), "For logs and metrics.", default=DERIVED, shown_default="the class"),
        Row("settings", Free(), "Keyword arguments of the constructor."),
    ),
    PythonFilter,
    help="A filter in plain Python.",
    make=lambda values, path, problems: PythonFilter(**{"name": values["target"].rpartition(":")[2], **values}),
    split=lambda item: {"target": item.target, "settings": item.settings,
                        **({"name": item.name} if item.name != item.target.rpartition(":")[2] else {})},
)

HTTP = Section(
    "http",
    (
        Row("codec", Word("auto", "http1"), "Which HTTP is spoken."),
        Row("stat_prefix", Text(), "The name in metrics (`http.<name>.`).", default=DERIVED, shown_default="the listener's name"),
        Row("server_name", Text("header value", rules.header_value), "The `server` header."),
        Row("server_header", Word("overwrite", "append_if_absent", "pass_through"), "What is done with the cluster's `server` header."),
        Row("via", Text("header value", rules.header_value), "Added to `via`.", shown_default="nothing"),
        Row("use_remote_address", Flag(), "This is the edge: the client's address is the peer's; x-forwarded headers are not trusted."),
        Row("xff_trusted_hops", Whole(0, 255), "Proxies in front whose x-forwarded-for is trusted."),
        Row("skip_xff_append", Flag(), "Leave x-forwarded-for as it is."),
        Row("generate_request_id", Flag(), "Give each request an x-request-id."),
        Row("preserve_external_request_id", Flag(), "Keep the one that came."),
        Row("always_set_request_id_in_response", Flag(), "Tell the client."),
        Row("suppress_envoy_headers", Flag(), "No x-envoy-upstream-service-time and the like."),
        Row("max_head", Size(1024, 8192 << 10), "431 for a longer request head.", "max_head_bytes"),
        Row("max_headers", Whole(1, 10000), "431 for more headers."),
        Row("max_body", Size(zero="unlimited"), "413 for a larger body.", "max_body_bytes"),
        Row("idle_timeout", Duration(), "A connection without a request is closed.", "idle_timeout_s"),
        Row("request_timeout", Duration(), "408 when the whole request is not there in time.", "request_timeout_s"),
        Row("request_headers_timeout", Duration(), "408 when the head is not there in time.", "request_headers_timeout_s"),
        Row("stream_idle_timeout", Duration(), "A request without a byte in either direction ends.", "stream_idle_timeout_s"),
        Row("max_connection_duration", Duration(), "Then the connection is closed.", "max_connection_duration_s"),
        Row("max_requests_per_connection", Whole(), "Then the connection is closed; 0 = unlimited."),
        Row("max_stream_duration", Duration(), "Then the request ends.", "max_stream_duration_s"),
        Row("drain_timeout", Duration(zero="at once"), "Between telling clients to go and closing.", "drain_timeout_s"),
        Row("delayed_close_timeout", Duration(), "Wait for the client to close after an error.", "delayed_close_timeout_s"),
        Row("accept_http_10", Flag(), "Take HTTP/1.0."),
        Row("default_host_for_http_10", Text("host", rules.header_value), "For HTTP/1.0 requests without Host.", shown_default="none"),
        Row("allow_absolute_url", Flag(), "Take `GET http://host/path`."),
        Row("upgrades", ListOf(Text("protocol", rules.header_name, lower=True)), "Protocols that Upgrade may name, as `websocket`.",
            shown_default="none"),
        Row("proxy_100_continue", Flag(), "Hand Expect: 100-continue on to the cluster."),
        Row("normalize_path", Flag(), "Resolve `..` and unneeded percent codes before routing."),
        Row("merge_slashes", Flag(), "`//` is `/`."),
        Row("strip_port", Word("none", "matching", "any"), "Remove the port from Host: the listener's own, or any."),
        Row("underscores_in_headers", Word("allow", "reject", "drop"), "What is done with names that have `_`."),
        Row("add_user_agent", Flag(), "Add user-agent and x-envoy-downstream-service-cluster."),
    ),
    HttpConnectionManager,
    help="How HTTP is spoken with clients.",
    make=lambda values, path, problems: values,
    split=lambda values: values,
)


class Entrance(NamedTuple):
    """What a listener's settings say: the listener, its routes when they are written with it, and where that is in the file."""

    listener: Listener
    table: RouteTable | None
    path: Path
    own_access_log: bool


_CONTENT = ("routes", "virtual_hosts", "to", "respond")


def _make_listener(values: Values, path: Path, problems: Problems) -> Any:
    addresses = values.pop("addresses")
    name = values.pop("name", str(addresses[0]) if addresses else "")
    content = [word for word in _CONTENT if word in values]
    if len(content) > 1:
        problems.error((path, content[1]), f'listener "{name}": "{content[0]}" and "{content[1]}" are both given. Keep one.')
        return WRONG
    table_name = values.pop("route_table", None)
    if not content and table_name is None:
        problems.error(path, f'listener "{name}" has no routes. Add "routes", "virtual_hosts", "to", "respond" or "route_table".')
        return WRONG
    table = RouteTable(name=table_name or name, virtual_hosts=_hosts(values, path, problems)) if content else None
    if table is None:
        problems.refer("route table", table_name, (path, "route_table"))
    logs = values.pop("access_logs", None)
    http = values.pop("http", {})
    manager = HttpConnectionManager(
        route_table=table_name or name,
        filters=values.pop("filters", ()),
        access_logs=logs or (),
        **{"stat_prefix": name, **http},
    )
    chain = FilterChain(terminal=manager, name=values.pop("chain_name", ""), connect_timeout_s=values.pop("connect_timeout_s", 0.0))
    return Entrance(Listener(name=name, addresses=addresses, chains=(chain,), **values), table, path, logs is not None)


def _hosts(values: Values, path: Path, problems: Problems) -> tuple[VirtualHost, ...]:
    target, direct = values.pop("to", None), values.pop("respond", None)
    if target is not None:
        values["routes"] = (Route(path=PathMatch("prefix", "/"), action=ForwardAction(clusters=target)),)
    elif direct is not None:
        values["routes"] = (Route(path=PathMatch("prefix", "/"), action=direct),)
    hosts = hosts_of(values, path, problems)
    check_hosts(hosts, path, problems)
    return hosts


def _split_listener(entrance: Entrance) -> Values:
    listener = entrance.listener
    values = {field: getattr(listener, field) for field in listener.__struct_fields__ if field not in ("chains", "name")}
    if listener.name != str(listener.addresses[0]):
        values["name"] = listener.name
    chain = listener.chains[0]
    manager = chain.terminal
    http = {row.field: getattr(manager, row.field) for row in HTTP.rows if getattr(manager, row.field) != row.default}
    if manager.stat_prefix == listener.name:
        del http["stat_prefix"]
    if http:
        values["http"] = http
    values.update(chain_name=chain.name, connect_timeout_s=chain.connect_timeout_s)
    values.update(filters=manager.filters, access_logs=manager.access_logs)
    if entrance.table is None or manager.route_table != listener.name:
        values["route_table"] = manager.route_table
    if entrance.table is not None:
        values.update(_split_hosts(entrance.table.virtual_hosts))
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


LISTENER = Section(
    "listener",
    (
        Row("name", Text(), "For metrics, logs and `status`.", default=DERIVED, shown_default="the first address"),
        Row("address", ListOf(Place(), least=1), "Where it listens: one address or several.", "addresses", required=True),
        Row("to", Targets(), "Short for one route: every request goes to this cluster."),
        Row("respond", DIRECT, "Short for one route: every request is answered from here."),
        Row("routes", ListOf(ROUTE, single=False), "Routes for all host names, tried in order."),
        Row("virtual_hosts", ListOf(VIRTUAL_HOST, single=False), "Routes by host name."),
        Row("route_table", Text(), "The route table of this name; with routes written here it is their name."),
        Row("http", HTTP, "How HTTP is spoken with clients."),
        Row("filters", ListOf(FILTER), "What requests go through, in order.", default=(), shown_default="none"),
        Row("access_log", ACCESS_LOGS, "Logs of this listener's requests.", "access_logs", default=(),
            shown_default="the node's access_log"),
        Row("buffer_limit", Size(1024, 1 << 30), "Held for one client connection before reading pauses.", "buffer_limit_bytes"),
        Row("backlog", Whole(1, 65535), "Connections that may wait for accept."),
        Row("max_connections", Whole(), "Connections of the node on this listener; 0 = unlimited."),
        Row("ipv6_only", Flag(), "false: `[::]` takes IPv4 too."),
        Row("freebind", Flag(), "Bind an address that the machine does not have yet."),
        Row("stat_prefix", Text(), "The name in metrics (`listener.<name>.`).", shown_default="the first address"),
        Row("filter_chain", Text(), "A name for the filter chain.", "chain_name", default=""),
        Row("handshake_timeout", Duration(), "Until a connection is set up.", "connect_timeout_s", default=0.0),
    ),
    Listener,
    help="Sockets to accept on and what is done with requests.",
    make=_make_listener,
    split=_split_listener,
)
LISTENERS = ListOf(LISTENER, single=False)
