"""Envoy's Http2ProtocolOptions, of both sides."""

from __future__ import annotations

from typing import Any

import msgspec

from meshproxy.config.envoy.constraints import seconds
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import Http2Settings, KeepAlive

_CORE = "envoy.config.core.v3."
NUMBERS = {
    "hpack_table_size": "hpack_table_bytes",
    "max_concurrent_streams": "max_concurrent_streams",
    "initial_stream_window_size": "initial_stream_window_bytes",
    "initial_connection_window_size": "initial_connection_window_bytes",
    "max_outbound_frames": "max_outbound_frames",
    "max_outbound_control_frames": "max_outbound_control_frames",
    "max_consecutive_inbound_frames_with_empty_payload": "max_consecutive_empty_frames",
    "max_inbound_priority_frames_per_stream": "max_priority_frames_per_stream",
    "max_inbound_window_update_frames_per_data_frame_sent": "max_window_updates_per_data_frame",
}
"""Envoy's field -> the model's."""

TAKES: Table = {
    _CORE + "Http2ProtocolOptions": takes(
        " ".join(NUMBERS) + " allow_connect stream_error_on_invalid_http_messaging override_stream_error_on_invalid_http_message "
        "connection_keepalive",
        only={"allow_metadata": (False,)},
        use_oghttp2_codec="chooses among Envoy's own codecs",
        max_metadata_size="concerns metadata frames, which are refused where they would be turned on",
        later="custom_settings_parameters allow_metadata",
    ),
    _CORE + "KeepaliveSettings": takes("interval timeout interval_jitter connection_idle_interval"),
}


def http2_settings(message: Any, path: Path, translation: Translation, default: Http2Settings) -> Http2Settings:
    """The default with what the message says."""
    given = translation.fields(message, path)
    settings: dict[str, Any] = {ours: given[theirs].value for theirs, ours in NUMBERS.items() if theirs in given}
    settings["allow_connect"] = given.get("allow_connect", False)
    settings["stream_error_on_invalid_message"] = given.get("stream_error_on_invalid_http_messaging", False)
    if "override_stream_error_on_invalid_http_message" in given:
        settings["stream_error_on_invalid_message"] = given["override_stream_error_on_invalid_http_message"].value
    if "connection_keepalive" in given:
        settings["keep_alive"] = _keep_alive(given["connection_keepalive"], (path, "connection_keepalive"), translation)
    return msgspec.structs.replace(default, **settings)


def _keep_alive(message: Any, path: Path, translation: Translation) -> KeepAlive | None:
    given = translation.fields(message, path)
    if "timeout" not in given:
        return None  # told already
    made: dict[str, float] = {}
    for theirs, ours in (("timeout", "timeout_s"), ("interval", "interval_s"), ("connection_idle_interval", "idle_interval_s")):
        if theirs in given:
            made[ours] = seconds(given[theirs])
    if "interval_jitter" in given:
        made["interval_jitter_percent"] = translation.fields(given["interval_jitter"], (path, "interval_jitter")).get("value", 0.0)
    return KeepAlive(**made)
