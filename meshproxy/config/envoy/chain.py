"""Envoy's FilterChain."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshproxy.config import tls_rules
from meshproxy.config.envoy import network_filters, tls
from meshproxy.config.envoy.address import cidrs
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.http_connection_manager import HCM, connection_manager
from meshproxy.config.envoy.told_filters import is_told
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import ChainMatch, ConnectionFilter, FilterChain, HttpConnectionManager, RouteTable, SniCluster

_LISTENER = "envoy.config.listener.v3."
_SUPPORTED = {HCM, *network_filters.FILTERS, *network_filters.TERMINALS}

TAKES: Table = {
    _LISTENER + "FilterChain": takes(
        "filters filter_chain_match name transport_socket transport_socket_connect_timeout",
        only={"use_proxy_proto": (False,)},
        metadata="is read by nothing that is supported",
    ),
    _LISTENER + "FilterChainMatch": takes(
        "destination_port prefix_ranges direct_source_prefix_ranges source_type source_prefix_ranges source_ports server_names "
        "transport_protocol application_protocols"
    ),
    _LISTENER + "Filter": takes("typed_config", name="is a label only"),
}
_RANGES = ("prefix_ranges", "direct_source_prefix_ranges", "source_prefix_ranges")


class Made(NamedTuple):
    """A chain, with the routes written in it when it is for HTTP."""

    chain: FilterChain
    table: RouteTable | None


def filter_chain(message: Any, path: Path, translation: Translation, listener: str, default: bool = False) -> Made | None:
    """A FilterChain; None when it is of no use after what was refused. `default`: its match does not count."""
    given = translation.fields(message, path)
    match = ChainMatch()
    if "filter_chain_match" in given and not default:
        match = _match(given["filter_chain_match"], (path, "filter_chain_match"), translation)
    secured = tls.downstream(given["transport_socket"], (path, "transport_socket"), translation) if "transport_socket" in given else None
    found = _filters(given.get("filters", ()), (path, "filters"), translation, listener)
    if found is None:
        return None
    terminal, table, filters = found
    timeout_s = seconds(given["transport_socket_connect_timeout"]) if "transport_socket_connect_timeout" in given else 0.0
    chain = FilterChain(
        terminal=terminal, name=given.get("name", ""), match=match, tls=secured, filters=filters, connect_timeout_s=timeout_s
    )
    return Made(chain, table)


def _match(message: Any, path: Path, translation: Translation) -> ChainMatch:
    given = translation.fields(message, path)
    for index, name in enumerate(given.get("server_names", ())):
        if wrong := tls_rules.server_name(name):
            translation.error(((path, "server_names"), index), wrong)
    transport = given.get("transport_protocol", "")
    if transport not in ("", "tls", "raw_buffer"):
        translation.refuse((path, "transport_protocol"), f'transport_protocol "{transport}"', "Use tls or raw_buffer.")
        transport = ""
    return ChainMatch(
        destination_port=given["destination_port"].value if "destination_port" in given else 0,
        server_names=tuple(name.lower() for name in given.get("server_names", ())),
        transport_protocol=transport,
        application_protocols=tuple(given.get("application_protocols", ())),
        source_type=enum_name(message, "source_type").lower(),
        source_ports=tuple(given.get("source_ports", ())),
        **{field: cidrs(given.get(field, ()), (path, field), translation) for field in _RANGES},
    )


def _filters(
    messages: Any, path: Path, translation: Translation, listener: str
) -> tuple[Any, RouteTable | None, tuple[ConnectionFilter, ...]] | None:
    """The filters that look at connections, and the one that serves them, which has to be the last."""
    if not len(messages):
        translation.error(path[0], f'listener "{listener}": "filters" has no filter. Add an HttpConnectionManager or a TcpProxy.')
    filters: list[ConnectionFilter] = []
    terminal, table = None, None
    for index, message in enumerate(messages):
        place = (path, index)
        given = translation.fields(message, place)
        if "typed_config" not in given:
            if not message.WhichOneof("config_type"):
                translation.error(place, f'filter "{message.name}": "typed_config" is missing. Add it.')
            continue
        inside = (place, "typed_config")
        if index + 1 < len(messages) and is_told(given["typed_config"], inside, translation):
            continue
        inner = translation.unpack(given["typed_config"], inside, _SUPPORTED, "network filter")
        if inner is None:
            continue
        kind, last = inner.DESCRIPTOR.full_name, index + 1 == len(messages)
        if kind in network_filters.FILTERS:
            made = network_filters.FILTERS[kind](inner, inside, translation)
            filters += [made] if made is not None else []
            if last:
                wrong = "does not serve connections and is the last. Add an HttpConnectionManager or a TcpProxy below."
                translation.error(place, f'filter "{message.name}" {wrong}')
            continue
        if not last:
            translation.error(place, f'filter "{message.name}" ends the chain and is not the last. Move it to the end.')
        terminal, table = _terminal(kind, inner, inside, translation, listener, filters)
    if terminal is None:
        return None
    if isinstance(terminal, HttpConnectionManager) and any(isinstance(each, SniCluster) for each in filters):
        translation.problems.warning(path, "sni_cluster has no effect: it picks the cluster of a TcpProxy, and this chain is for HTTP.")
    return terminal, table, tuple(filters)


def _terminal(
    kind: str, inner: Any, path: Path, translation: Translation, listener: str, filters: list[ConnectionFilter]
) -> tuple[Any, RouteTable | None]:
    if kind == HCM:
        managed = connection_manager(inner, path, translation, listener)
        return (managed.manager, managed.table) if managed is not None else (None, None)
    if kind == network_filters.TCP_PROXY:
        return network_filters.tcp_proxy(inner, path, translation, any(isinstance(each, SniCluster) for each in filters)), None
    return network_filters.TERMINALS[kind](inner, path, translation), None
