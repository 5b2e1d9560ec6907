"""Listeners in native YAML."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from meshproxy.config.chains import check_chains, with_needed_filters
from meshproxy.config.native.address import Place
from meshproxy.config.native.chain import CHAIN, CHAIN_ROWS, Made, Written, make_chain, split_chain
from meshproxy.config.native.kinds import Duration, Flag, ListOf, Size, Text, Whole
from meshproxy.config.native.listener_filter import LISTENER_FILTER, PROXY_PROTOCOL
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.secrets import Secured
from meshproxy.config.native.telemetry import ACCESS_LOGS
from meshproxy.config.problems import Path, Problems
from meshproxy.model import ChainMatch, FilterChain, Listener, ProxyProtocol, RouteTable

_TLS, _PLAIN = ChainMatch(transport_protocol="tls"), ChainMatch(transport_protocol="raw_buffer")
_CONNECTION_LOG = "connection_log"
"""The listener's `access_logs`; a chain's are called so too."""
_CHAIN_FIELDS = tuple(row.field for row in CHAIN_ROWS)


class Entrance(NamedTuple):
    """What a listener's settings say: the listener and, for each of its chains (`Listener.all_chains`), the routes that are written with
    it and whether its access logs are its own."""

    listener: Listener
    tables: tuple[RouteTable | None, ...]
    path: Path
    own_logs: tuple[bool, ...]


def _make_listener(values: Values, path: Path, problems: Problems) -> Any:
    addresses = values.pop("addresses")
    name = values.pop("name", str(addresses[0]) if addresses else "")
    made = _chains(values, path, problems, name)
    if made is None:
        return WRONG
    chains, default = made
    matched = tuple(each.chain for each in chains)
    values["filters"] = _filters(values, matched, path, problems, name)
    values["access_logs"] = values.pop(_CONNECTION_LOG, ())
    listener = Listener(name=name, addresses=addresses, chains=matched, default_chain=default and default.chain, **values)
    check_chains(listener, [each.path for each in chains], problems)
    every = [*chains, *([default] if default else [])]
    return Entrance(listener, tuple(each.table for each in every), path, tuple(each.own_log for each in every))


def _chains(values: Values, path: Path, problems: Problems, name: str) -> tuple[list[Made], Made | None] | None:
    """All chains, out of `values`."""
    listed, default = values.pop("chains", None), values.pop("default_chain", None)
    if listed is None and default is None:
        own = {field: values.pop(field) for field in _CHAIN_FIELDS if field in values}
        one = make_chain({"name": values.pop("chain_name", ""), **own}, path, problems, name, name)
        return None if one is None else (_permissive(one) if one.permissive else [one], None)
    for row in CHAIN_ROWS:
        if values.pop(row.field, None) is not None:
            problems.error((path, row.name), f'listener "{name}": "{row.name}" is given beside chains. Move it into a chain.')
    values.pop("chain_name", None)
    made = []
    for index, draft in enumerate(listed or ()):
        table_name = f"{name}/{draft.values.get('name') or index}"
        made.append(make_chain(draft.values, draft.path, problems, name, table_name))
    last = make_chain(default.values, default.path, problems, name, f"{name}/default") if default is not None else None
    if None in made or (default is not None and last is None):
        return None
    for one in [*made, *([last] if last else [])]:
        if one.permissive:
            problems.error((one.path, "tls"), 'mode: permissive makes two chains, and this is one of several. Write a chain without TLS.')
    return made, last


def _permissive(one: Made) -> list[Made]:
    """TLS and plaintext on one port: the chain with TLS, and again without."""
    chain = msgspec.structs.replace(one.chain, match=_TLS)
    return [one._replace(chain=chain), one._replace(chain=msgspec.structs.replace(chain, match=_PLAIN, tls=None), table=None)]


def _filters(values: Values, chains: tuple[FilterChain, ...], path: Path, problems: Problems, name: str) -> tuple:
    proxy = values.pop("proxy_protocol", None)
    listed = values.pop("filters", None)
    if proxy is not None and listed is not None:
        wrong = '"proxy_protocol" and "listener_filters" are both given. Move it into the list.'
        problems.error((path, "proxy_protocol"), f'listener "{name}": {wrong}')
    if listed is not None:
        return listed
    return with_needed_filters((proxy,) if proxy is not None else (), chains, values.get("use_original_dst", False))


_OWN = ("default_chain", "chains", "name", "filters", "access_logs")


def _split_listener(written: tuple[Entrance, Secured]) -> Values:
    entrance, secured = written
    listener = entrance.listener
    values = {field: getattr(listener, field) for field in listener.__struct_fields__ if field not in _OWN}
    values[_CONNECTION_LOG] = listener.access_logs
    if listener.name != str(listener.addresses[0]):
        values["name"] = listener.name
    first = listener.chains[0] if listener.chains else None
    permissive = is_permissive(listener)
    alone = len(listener.chains) == 1 and listener.default_chain is None and listener.chains[0].match == ChainMatch()
    if first is not None and (alone or permissive):
        values.update(split_chain(first, entrance.tables[0], listener.name, listener.name, secured, permissive), chain_name=first.name)
    else:
        values["chains"] = tuple(
            Written(chain, table, listener.name, f"{listener.name}/{chain.name or index}", secured)
            for index, (chain, table) in enumerate(zip(listener.chains, entrance.tables, strict=False))
        )
        if listener.default_chain is not None:
            table_name = f"{listener.name}/default"
            values["default_chain"] = Written(listener.default_chain, entrance.tables[-1], listener.name, table_name, secured)
    return values | _split_filters(listener)


def is_permissive(listener: Listener) -> bool:
    """Whether it is what `tls: {mode: permissive}` makes."""
    if len(listener.chains) != 2 or listener.default_chain is not None:
        return False
    one, other = listener.chains
    same = msgspec.structs.replace(one, match=_PLAIN, tls=None) == other
    return one.tls is not None and one.match == _TLS and same


def _split_filters(listener: Listener) -> Values:
    for proxy in ((), listener.filters[:1]):
        derived = with_needed_filters(proxy, listener.chains, listener.use_original_dst)
        if derived == listener.filters and all(isinstance(each, ProxyProtocol) for each in proxy):
            return {"proxy_protocol": proxy[0]} if proxy else {}
    return {"filters": listener.filters}


LISTENER = Section(
    "listener",
    (
        Row("name", Text(), "For metrics, logs and `status`.", default=DERIVED, shown_default="the first address"),
        Row("address", ListOf(Place(), least=1), "Where it listens: one address or several.", "addresses", required=True),
        *CHAIN_ROWS,
        Row("chains", ListOf(CHAIN), "Instead of the settings above: several ways to go on, by what the connection is.",
            default=DERIVED, shown_default="one, of the settings above"),
        Row("default_chain", CHAIN, "For connections that no chain is for.", default=None, shown_default="they are closed"),
        Row("proxy_protocol", PROXY_PROTOCOL, "Connections begin with a PROXY header.", default=DERIVED, shown_default="false"),
        Row("listener_filters", ListOf(LISTENER_FILTER, single=False), "What looks at connections before a chain is chosen, in order.",
            "filters", default=DERIVED, shown_default="what the chains need"),
        Row("listener_filters_timeout", Duration(), "How long they may wait for bytes.", "filters_timeout_s"),
        Row("continue_on_listener_filters_timeout", Flag(), "Then go on with what is known.", "continue_on_filters_timeout"),
        Row("use_original_dst", Flag(), "Hand connections to the listener bound to the address that the client meant."),
        Row("bind_to_port", Flag(), "false: it only gets connections that another listener hands on."),
        Row("transparent", Flag(), "Take connections for any address (TPROXY)."),
        Row("connection_log", ACCESS_LOGS, "Logs of connections, whatever they carried.", default=(),
            shown_default="none"),
        Row("buffer_limit", Size(1024, 1 << 30), "Held for one client connection before reading pauses.", "buffer_limit_bytes"),
        Row("backlog", Whole(1, 65535), "Connections that may wait for accept."),
        Row("max_connections", Whole(), "Connections of the node on this listener; 0 = unlimited."),
        Row("ipv6_only", Flag(), "false: `[::]` takes IPv4 too."),
        Row("freebind", Flag(), "Bind an address that the machine does not have yet."),
        Row("stat_prefix", Text(), "The name in metrics (`listener.<name>.`).", shown_default="the first address"),
        Row("filter_chain", Text(), "A name for the filter chain.", "chain_name", default=""),
    ),
    Listener,
    help="Sockets to accept on and what is done with connections.",
    make=_make_listener,
    split=_split_listener,
)
LISTENERS = ListOf(LISTENER, single=False)
