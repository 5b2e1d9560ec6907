"""Settings of one side of HTTP/2 connections. Defaults are Envoy 1.40's."""

from __future__ import annotations

import msgspec


class KeepAlive(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """PING frames that find a dead peer: each `interval_s` (0 = never by interval), and before the first stream on a connection that rested
    for `idle_interval_s` (0 = never). No answer within `timeout_s` closes the connection."""

    timeout_s: float
    interval_s: float = 0.0
    interval_jitter_percent: float = 15.0
    idle_interval_s: float = 0.0


class Http2Settings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What we announce, and how much of each kind of frame a peer may cost us."""

    max_concurrent_streams: int = 1024
    initial_stream_window_bytes: int = 16 << 20
    initial_connection_window_bytes: int = 24 << 20
    hpack_table_bytes: int = 4096
    max_frame_bytes: int = 16384
    allow_connect: bool = False
    """Extended CONNECT (RFC 8441)."""
    max_outbound_frames: int = 10000
    max_outbound_control_frames: int = 1000
    max_consecutive_empty_frames: int = 1
    """DATA and HEADERS frames without a payload and without an end of stream."""
    max_priority_frames_per_stream: int = 100
    max_window_updates_per_data_frame: int = 10
    max_resets_per_minute: int = 1000
    """Streams that a peer opened and reset before they were answered (rapid reset); more close the connection. 0 = no limit."""
    stream_error_on_invalid_message: bool = False
    """A malformed message ends its stream, not its connection."""
    keep_alive: KeepAlive | None = None
