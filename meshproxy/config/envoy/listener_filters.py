"""Envoy's listener filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshproxy.config.envoy.tls import pass_through_tlvs
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import HttpInspector, ListenerFilter, OriginalDst, ProxyProtocol, TlsInspector

_FILTERS = "envoy.extensions.filters.listener."
TLS_INSPECTOR = _FILTERS + "tls_inspector.v3.TlsInspector"
HTTP_INSPECTOR = _FILTERS + "http_inspector.v3.HttpInspector"
PROXY_PROTOCOL = _FILTERS + "proxy_protocol.v3.ProxyProtocol"
ORIGINAL_DST = _FILTERS + "original_dst.v3.OriginalDst"

TAKES: Table = {
    "envoy.config.listener.v3.ListenerFilter": takes(
        "typed_config", name="is a label only",
        later="filter_disabled",
    ),
    TLS_INSPECTOR: takes(
        "enable_ja3_fingerprinting enable_ja4_fingerprinting",
        only={"close_connection_on_client_hello_parsing_errors": (False,), "max_client_hello_size": (16384,)},
        later="max_client_hello_size",
        initial_read_buffer_size="!has no effect: all that has come is looked at, in one buffer for all connections",
    ),
    HTTP_INSPECTOR: takes(),
    PROXY_PROTOCOL: takes(
        "allow_requests_without_proxy_protocol pass_through_tlvs disallowed_versions stat_prefix",
        tlv_location="concerns rules, which are refused where they are listed",
    ),
    ORIGINAL_DST: takes(),
}


def listener_filters(messages: Any, path: Path, translation: Translation) -> tuple[ListenerFilter, ...]:
    """Those of a listener, in their order."""
    made = []
    for index, message in enumerate(messages):
        place = (path, index)
        given = translation.fields(message, place)
        if "typed_config" not in given:
            if not message.WhichOneof("config_type"):
                translation.error(place, f'listener filter "{message.name}": "typed_config" is missing. Add it.')
            continue
        inside = (place, "typed_config")
        inner = translation.unpack(given["typed_config"], inside, _MAKERS, "listener filter")
        if inner is not None:
            made.append(_MAKERS[inner.DESCRIPTOR.full_name](translation.fields(inner, inside), inside, translation))
    return tuple(made)


def _tls_inspector(given: dict[str, Any], path: Path, translation: Translation) -> TlsInspector:
    return TlsInspector(
        ja3="enable_ja3_fingerprinting" in given and given["enable_ja3_fingerprinting"].value,
        ja4="enable_ja4_fingerprinting" in given and given["enable_ja4_fingerprinting"].value,
    )


def _proxy_protocol(given: dict[str, Any], path: Path, translation: Translation) -> ProxyProtocol:
    refused = set(given.get("disallowed_versions", ()))
    versions = tuple(version for version in (1, 2) if version - 1 not in refused)
    if not versions:
        translation.error((path, "disallowed_versions"), "no version is left. Allow V1 or V2.")
    tlvs: tuple[int, ...] | None = ()
    if "pass_through_tlvs" in given:
        tlvs = pass_through_tlvs(given["pass_through_tlvs"], (path, "pass_through_tlvs"), translation)
    return ProxyProtocol(
        allow_without_header=given.get("allow_requests_without_proxy_protocol", False), versions=versions, pass_tlvs=tlvs,
        stat_prefix=given.get("stat_prefix", ""),
    )


_MAKERS: dict[str, Callable[[dict[str, Any], Path, Translation], ListenerFilter]] = {
    TLS_INSPECTOR: _tls_inspector,
    HTTP_INSPECTOR: lambda given, path, translation: HttpInspector(),
    PROXY_PROTOCOL: _proxy_protocol,
    ORIGINAL_DST: lambda given, path, translation: OriginalDst(),
}
