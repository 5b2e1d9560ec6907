"""Filters that control planes put everywhere and that are not here: they are told, when a request takes the same way without them.

They are known by the type in their `typed_config`. Istio's only carry metadata between peers and into metrics.
"""

from __future__ import annotations

from typing import Any

from meshproxy.config.envoy.messages import name_in
from meshproxy.config.envoy.translation import Translation
from meshproxy.config.problems import Path

_HTTP = "envoy.extensions.filters.http."
_FAULT = _HTTP + "fault.v3.HTTPFault"
_WASM = (_HTTP + "wasm.v3.Wasm", "envoy.extensions.filters.network.wasm.v3.Wasm")
_ISTIO = frozenset((
    "envoy.tcp.metadataexchange.config.MetadataExchange",
    "io.istio.http.peer_metadata.Config",
    "io.istio.network.metadata_exchange.Config",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    "stats.PluginConfig",
))
_ALWAYS = _ISTIO | {
    _HTTP + "cors.v3.Cors",
    _HTTP + "compressor.v3.Compressor",
    _HTTP + "decompressor.v3.Decompressor",
    _HTTP + "buffer.v3.Buffer",
    _HTTP + "tap.v3.Tap",
    _HTTP + "header_to_metadata.v3.Config",
}
_FAULTS = ("delay", "abort", "response_rate_limit")
_BUILT_IN = frozenset(("envoy.wasm.metadata_exchange", "envoy.wasm.stats"))
"""What Istio's proxies have compiled in and call by Wasm's null runtime."""
PEER_EXCHANGE = "istio-peer-exchange"
"""The protocol by which two proxies agree to send metadata before the stream: never offered, because nobody here would take it off."""


def is_told(packed: Any, path: Path, translation: Translation) -> bool:
    """Whether the filter in this Any may be left out; then it was told. Only of what a control plane sent."""
    if not translation.dynamic:
        return False
    packed = translation.resolved(packed, path)
    kind = name_in(packed.type_url)
    if kind not in _ALWAYS and not _is_idle_fault(kind, packed, translation) and not _is_built_in(kind, packed, translation):
        return False
    translation.later(path, f"filter {kind}")
    return True


def _is_idle_fault(kind: str, packed: Any, translation: Translation) -> bool:
    """A fault filter without a fault of its own: routes may have some, and are refused then."""
    inner = _parsed(packed, translation) if kind == _FAULT else None
    return inner is not None and not any(inner.HasField(field) for field in _FAULTS)


def _is_built_in(kind: str, packed: Any, translation: Translation) -> bool:
    inner = _parsed(packed, translation) if kind in _WASM else None
    if inner is None:
        return False
    machine = inner.config.vm_config
    code = machine.code.local
    return machine.runtime == "envoy.wasm.runtime.null" and (code.inline_string or code.inline_bytes.decode(errors="replace")) in _BUILT_IN


def _parsed(packed: Any, translation: Translation) -> Any:
    found = translation.types.find(name_in(packed.type_url))
    inner = found() if found is not None else None
    return inner if inner is not None and packed.Unpack(inner) else None
