"""What a launcher made for Envoy says on the command line beside the file. It travels to each process that reads the file by the
environment, so that a reload and an upgrade read what the start did. Knows nothing of protobuf: the command line imports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

VARIABLE = "MESHPROXY_ENVOY_OPTIONS"
LOADER = "meshproxy.config.envoy.launch:load"
"""The entry that reads a file with them."""


class LaunchOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Those that the configuration itself is made from."""

    config_yaml: str = ""
    """Merged over the file; the whole when there is no file."""
    node_id: str = ""
    cluster: str = ""
    zone: str = ""
    drain_s: float = -1.0
    """Below 0 = not given."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stats_tags: tuple[tuple[str, str], ...] = ()
    """Of all metrics: names and values."""
    allow_unknown_fields: bool = False


def with_options(env: Mapping[str, str], options: LaunchOptions) -> dict[str, str]:
    """The environment for a node that is started with these."""
    return {**env, VARIABLE: msgspec.json.encode(options).decode()}


def options_in(env: Mapping[str, str]) -> LaunchOptions:
    return msgspec.json.decode(env.get(VARIABLE, "{}"), type=LaunchOptions)
