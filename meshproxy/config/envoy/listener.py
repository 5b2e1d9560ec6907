"""Envoy's Listener."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from meshproxy.config.chains import check_chains, needs_tls_inspector, with_original_dst
from meshproxy.config.envoy.access_log import access_logs
from meshproxy.config.envoy.address import address
from meshproxy.config.envoy.chain import Made, filter_chain
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.listener_filters import listener_filters
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import Address, HttpConnectionManager, Listener, RouteTable

_LISTENER = "envoy.config.listener.v3."

TAKES: Table = {
    _LISTENER + "Listener": takes(
        "name address additional_addresses stat_prefix filter_chains default_filter_chain per_connection_buffer_limit_bytes freebind "
        "tcp_backlog_size listener_filters listener_filters_timeout continue_on_listener_filters_timeout use_original_dst transparent "
        "bind_to_port access_log traffic_direction",
        only={"drain_type": ("DEFAULT",)},
        metadata="is read by nothing that is supported",
        reuse_port="is what is done anyway",
        enable_reuse_port="is what is done anyway: each worker has a socket of its own",
        max_connections_to_accept_per_socket_event="has a bound of its own",
        later="socket_options tcp_fast_open_queue_length connection_balance_config enable_mptcp ignore_global_conn_limit "
        "bypass_overload_manager drain_type",
    ),
    _LISTENER + "AdditionalAddress": takes(
        "address",
        later="socket_options",
    ),
}


class Entrance(NamedTuple):
    """A listener, where it stands, and the routes of each of its chains (`Listener.all_chains`)."""

    listener: Listener
    path: Path
    tables: tuple[RouteTable | None, ...]


def listener(message: Any, path: Path, translation: Translation) -> Entrance | None:
    """A TCP or UNIX listener; None when it is of no use after what was refused."""
    given = translation.fields(message, path)
    addresses = _addresses(given, path, translation)
    name = given.get("name") or (str(addresses[0]) if addresses else "")
    found = _chains(given, path, translation, name)
    filters = listener_filters(given.get("listener_filters", ()), (path, "listener_filters"), translation)
    logs = access_logs(given.get("access_log", ()), (path, "access_log"), translation)
    if not addresses or found is None:
        return None
    chains, default, places = found
    if enum_name(message, "traffic_direction") == "OUTBOUND":
        chains, default = [_outbound(each) for each in chains], _outbound(default) if default is not None else None
    made: dict[str, Any] = {}
    if "per_connection_buffer_limit_bytes" in given:
        made["buffer_limit_bytes"] = given["per_connection_buffer_limit_bytes"].value
    if "tcp_backlog_size" in given:
        made["backlog"] = given["tcp_backlog_size"].value
    for field in ("freebind", "use_original_dst", "transparent", "bind_to_port"):
        if field in given:
            made[field] = given[field].value
    if "listener_filters_timeout" in given:
        made["filters_timeout_s"] = seconds(given["listener_filters_timeout"])
    matched = tuple(each.chain for each in chains)
    whole = Listener(
        name=name,
        addresses=tuple(addresses),
        chains=matched,
        default_chain=default.chain if default is not None else None,
        filters=with_original_dst(filters, made.get("use_original_dst", False)),
        continue_on_filters_timeout=given.get("continue_on_listener_filters_timeout", False),
        ipv6_only=_ipv6_only(message),
        stat_prefix=given.get("stat_prefix", ""),
        access_logs=logs,
        **made,
    )
    if needs_tls_inspector(filters, matched):
        wrong = "a filter chain asks for TLS, its server name or protocol, and nothing finds it out"
        translation.problems.warning((path, "filter_chains"), f"{wrong}. Add the tls_inspector to listener_filters.")
    check_chains(whole, places, translation.problems)
    every = [*chains, *([default] if default is not None else [])]
    return Entrance(whole, path, tuple(each.table for each in every))


def _outbound(made: Made) -> Made:
    """Spans of what a service sends are a client's."""
    terminal = made.chain.terminal
    if not isinstance(terminal, HttpConnectionManager) or terminal.tracing is None:
        return made
    terminal = msgspec.structs.replace(terminal, tracing=msgspec.structs.replace(terminal.tracing, egress=True))
    return made._replace(chain=msgspec.structs.replace(made.chain, terminal=terminal))


def _addresses(given: dict[str, Any], path: Path, translation: Translation) -> list[Address]:
    if "address" not in given:
        translation.error(path, 'listener: "address" is missing. Add it.')
        return []
    made = [address(given["address"], (path, "address"), translation)]
    for index, item in enumerate(given.get("additional_addresses", ())):
        place = ((path, "additional_addresses"), index)
        inner = translation.fields(item, place)
        if "address" in inner:
            made.append(address(inner["address"], (place, "address"), translation))
    return [place for place in made if place is not None]


def _ipv6_only(message: Any) -> bool:
    """False when an IPv6 wildcard is asked to take IPv4 too; it holds for all addresses of the listener."""
    all_addresses = [message.address, *(item.address for item in message.additional_addresses)]
    return not any(item.socket_address.ipv4_compat for item in all_addresses)


def _chains(given: dict[str, Any], path: Path, translation: Translation, name: str) -> tuple[list[Made], Made | None, list[Path]] | None:
    """All chains and the places of those with a match; None when one is of no use."""
    messages, last = given.get("filter_chains", ()), given.get("default_filter_chain")
    if not len(messages) and last is None:
        translation.error(path, f'listener "{name}" has no filter chain. Add one with an HttpConnectionManager or a TcpProxy.')
        return None
    places: list[Path] = [((path, "filter_chains"), index) for index in range(len(messages))]
    made = [filter_chain(message, place, translation, name) for message, place in zip(messages, places, strict=True)]
    default = filter_chain(last, (path, "default_filter_chain"), translation, name, default=True) if last is not None else None
    whole = [each for each in made if each is not None]
    return (whole, default, places) if len(whole) == len(made) and (last is None or default is not None) else None
