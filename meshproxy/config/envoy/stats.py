"""Envoy's stats sinks."""

from __future__ import annotations

from typing import Any

from meshproxy.config.envoy.address import address
from meshproxy.config.envoy.translation import Table, Translation, takes
from meshproxy.config.problems import Path
from meshproxy.model import PipeAddress, StatsSink

_METRICS = "envoy.config.metrics.v3."
_STATSD = _METRICS + "StatsdSink"
_DOGSTATSD = _METRICS + "DogStatsdSink"

TAKES: Table = {
    _METRICS + "StatsSink": takes("typed_config", name="is a label only"),
    _STATSD: takes("address tcp_cluster_name prefix"),
    _DOGSTATSD: takes("address prefix max_bytes_per_datagram"),
    _METRICS + "StatsConfig": takes(only={"use_all_default_tags": (True,)}),
}
_PREFIX = "envoy"
"""Envoy's default prefix of names."""


def stats_sink(message: Any, path: Path, translation: Translation) -> StatsSink | None:
    """A StatsdSink or DogStatsdSink; None after another was refused."""
    given = translation.fields(message, path)
    if "typed_config" not in given:
        translation.error(path, 'stats sink: "typed_config" is missing. Add it.')
        return None
    place = (path, "typed_config")
    sink = translation.unpack(given["typed_config"], place, (_STATSD, _DOGSTATSD), "stats sink")
    if sink is None:
        return None
    settings = translation.fields(sink, place)
    made: dict[str, Any] = {
        "dialect": "dogstatsd" if sink.DESCRIPTOR.full_name == _DOGSTATSD else "statsd",
        "prefix": settings.get("prefix") or _PREFIX,
    }
    if "max_bytes_per_datagram" in settings:
        made["max_datagram_bytes"] = settings["max_bytes_per_datagram"].value
    if "tcp_cluster_name" in settings:
        translation.problems.refer("cluster", settings["tcp_cluster_name"], (place, "tcp_cluster_name"))
        return StatsSink(transport="tcp", tcp_cluster=settings["tcp_cluster_name"], **made)
    if "address" not in settings:
        return None
    target = address(settings["address"], (place, "address"), translation, udp=True)
    if isinstance(target, PipeAddress):
        translation.refuse(((place, "address"), "pipe"), "a UNIX socket of a statsd server", "Use UDP.")
        return None
    return StatsSink(address=target, **made) if target is not None else None
