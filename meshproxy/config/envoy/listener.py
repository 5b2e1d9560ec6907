"""Envoy's Listener."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshproxy.config.envoy.address import address
from meshproxy.config.envoy.cluster import plain_transport
from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.http_connection_manager import HCM, Managed, connection_manager
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import Address, FilterChain, Listener, RouteTable

_LISTENER = "envoy.config.listener.v3."

TAKES: Table = {
    _LISTENER + "Listener": takes(
        "name address additional_addresses stat_prefix filter_chains per_connection_buffer_limit_bytes freebind tcp_backlog_size",
        only={"bind_to_port": (True,), "drain_type": ("DEFAULT",), "use_original_dst": (False,), "transparent": (False,)},
        metadata="is read by nothing that is supported",
        listener_filters_timeout="concerns listener filters, which are refused where they are listed",
        continue_on_listener_filters_timeout="concerns listener filters, which are refused where they are listed",
        traffic_direction="is a label for tracing and metrics only",
        reuse_port="is what is done anyway",
        enable_reuse_port="is what is done anyway: each worker has a socket of its own",
        max_connections_to_accept_per_socket_event="has a bound of its own",
    ),
    _LISTENER + "AdditionalAddress": takes("address"),
    _LISTENER + "FilterChain": takes(
        "filters filter_chain_match name transport_socket transport_socket_connect_timeout",
        only={"use_proxy_proto": (False,)},
        metadata="is read by nothing that is supported",
    ),
    _LISTENER + "FilterChainMatch": takes(),
    _LISTENER + "Filter": takes("typed_config", name="is a label only"),
}


class Entrance(NamedTuple):
    """A listener, its routes, and where both stand."""

    listener: Listener
    path: Path
    table: RouteTable
    table_path: Path


def listener(message: Any, path: Path, translation: Translation) -> Entrance | None:
    """A TCP or UNIX listener with one filter chain for HTTP; None when it is of no use after what was refused."""
    given = translation.fields(message, path)
    addresses = _addresses(given, path, translation)
    name = given.get("name") or (str(addresses[0]) if addresses else "")
    chain = _chain(given.get("filter_chains", ()), path, translation, name)
    if not addresses or chain is None:
        return None
    managed, settings = chain
    made: dict[str, Any] = {}
    if "per_connection_buffer_limit_bytes" in given:
        made["buffer_limit_bytes"] = given["per_connection_buffer_limit_bytes"].value
    if "tcp_backlog_size" in given:
        made["backlog"] = given["tcp_backlog_size"].value
    if "freebind" in given:
        made["freebind"] = given["freebind"].value
    whole = Listener(
        name=name,
        addresses=tuple(addresses),
        chains=(FilterChain(terminal=managed.manager, **settings),),
        ipv6_only=_ipv6_only(message),
        stat_prefix=given.get("stat_prefix", ""),
        **made,
    )
    return Entrance(whole, path, managed.table, managed.table_path)


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


def _chain(chains: Any, path: Path, translation: Translation, name: str) -> tuple[Managed, dict[str, Any]] | None:
    if not len(chains):
        translation.error(path, f'listener "{name}" has no filter chain. Add one with an HttpConnectionManager.')
        return None
    for index in range(1, len(chains)):
        translation.refuse(((path, "filter_chains"), index), "more than one filter chain")
    place = ((path, "filter_chains"), 0)
    given = translation.fields(chains[0], place)
    if "filter_chain_match" in given:
        translation.fields(given["filter_chain_match"], (place, "filter_chain_match"))
    if "transport_socket" in given:
        plain_transport(given["transport_socket"], (place, "transport_socket"), translation)
    settings: dict[str, Any] = {"name": given.get("name", "")}
    if "transport_socket_connect_timeout" in given:
        settings["connect_timeout_s"] = seconds(given["transport_socket_connect_timeout"])
    managed = _filters(given.get("filters", ()), (place, "filters"), translation, name)
    return (managed, settings) if managed is not None else None


def _filters(filters: Any, path: Path, translation: Translation, name: str) -> Managed | None:
    """One network filter, which has to be the connection manager."""
    if not len(filters):
        translation.error(path[0], f'listener "{name}": "filters" has no filter. Add an HttpConnectionManager.')
    managed = None
    for index, message in enumerate(filters):
        place = (path, index)
        given = translation.fields(message, place)
        if "typed_config" not in given:
            translation.error(place, f'filter "{message.name}": "typed_config" is missing. Add it.')
            continue
        manager = translation.unpack(given["typed_config"], (place, "typed_config"), (HCM,), "network filter")
        if manager is None:
            continue
        if index + 1 != len(filters):
            translation.error(place, f'filter "{message.name}" ends the chain and is not the last. Move it to the end.')
        managed = connection_manager(manager, (place, "typed_config"), translation, name)
    return managed
