"""The Grafana dashboard for statsd and Graphite, made from rows of panels.

After a change run `python -m meshproxy.telemetry.dashboard`; a test refuses a stale file and every metric that is not counted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parents[2] / "conf" / "dashboards" / "meshproxy-statsd.json"
_WIDTH, _HEIGHT, _PER_ROW = 8, 8, 3
_SOURCE = {"type": "graphite", "uid": "${source}"}


class Panel(NamedTuple):
    """`targets` are Graphite expressions; `{rate}`, `{timer}` and `{gauge}` stand for where statsd puts counters, timers and gauges."""

    title: str
    unit: str
    targets: tuple[str, ...]
    help: str = ""


def _per_class(what: str) -> tuple[str, ...]:
    return tuple(f"alias(sumSeries({{rate}}.{what}_{digit}xx), '{digit}xx')" for digit in range(1, 6))


_TIMES = ("median", "upper_90", "upper_99", "upper")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Requests": (
        Panel("Requests", "reqps", ("aliasByNode({rate}.http.$http.downstream_rq_total, -2)",), "By connection manager."),
        Panel("Responses by class", "reqps", _per_class("http.$http.downstream_rq")),
        Panel(
            "Errors", "percent",
            ("alias(asPercent(sumSeries({rate}.http.$http.downstream_rq_5xx), sumSeries({rate}.http.$http.downstream_rq_total)), '5xx')",),
            "Share of responses with a 5xx status.",
        ),
        Panel(
            "Latency", "ms", tuple(f"alias(maxSeries({{timer}}.http.$http.downstream_rq_time.{time}), '{time}')" for time in _TIMES),
            "From a request's first byte to its response's last. Set percentThreshold: [90, 99] in statsd for the percentiles.",
        ),
        Panel("Active requests", "short", ("aliasByNode({gauge}.http.$http.downstream_rq_active, -2)",)),
        Panel(
            "Connections", "short",
            (
                "aliasByNode({gauge}.http.$http.downstream_cx_active, -2)",
                "alias(sumSeries({rate}.http.$http.downstream_cx_total), 'new per second')",
            ),
        ),
    ),
    "Clusters": (
        Panel("Requests by cluster", "reqps", ("aliasByNode({rate}.cluster.$cluster.upstream_rq_total, -2)",)),
        Panel("5xx by cluster", "reqps", ("aliasByNode({rate}.cluster.$cluster.upstream_rq_5xx, -2)",)),
        Panel("Latency by cluster (90th percentile)", "ms", ("aliasByNode({timer}.cluster.$cluster.upstream_rq_time.upper_90, -3)",)),
        Panel(
            "Failures", "reqps",
            (
                "alias(sumSeries({rate}.cluster.$cluster.upstream_cx_connect_fail), 'connect failed')",
                "alias(sumSeries({rate}.cluster.$cluster.upstream_cx_connect_timeout), 'connect timed out')",
                "alias(sumSeries({rate}.cluster.$cluster.upstream_rq_timeout), 'request timed out')",
                "alias(sumSeries({rate}.cluster.$cluster.upstream_rq_rx_reset), 'reset by endpoint')",
                "alias(sumSeries({rate}.cluster.$cluster.upstream_cx_none_healthy), 'none healthy')",
            ),
        ),
        Panel(
            "Retries", "reqps",
            (
                "alias(sumSeries({rate}.cluster.$cluster.upstream_rq_retry), 'retries')",
                "alias(sumSeries({rate}.cluster.$cluster.upstream_rq_retry_success), 'succeeded')",
                "alias(sumSeries({rate}.cluster.$cluster.upstream_rq_retry_limit_exceeded), 'none left')",
            ),
        ),
        Panel("Endpoints not healthy", "short", (
            "aliasByNode(diffSeries({gauge}.cluster.$cluster.membership_total, {gauge}.cluster.$cluster.membership_healthy), -2)",
        )),
    ),
    "Circuit breakers": (
        Panel(
            "Open breakers", "short",
            tuple(
                f"aliasByNode({{gauge}}.cluster.$cluster.circuit_breakers.default.{share}_open, -4, -1)"
                for share in ("cx", "rq_pending", "rq", "rq_retry")
            ),
            "1: as much is in flight as the limit allows.",
        ),
        Panel(
            "Held against the limits", "short",
            tuple(
                f"aliasByNode({{gauge}}.cluster.$cluster.circuit_breakers.default.{share}_held, -4, -1)"
                for share in ("cx", "rq_pending", "rq", "rq_retry")
            ),
        ),
        Panel(
            "Refused by breakers", "reqps",
            (
                "aliasByNode({rate}.cluster.$cluster.upstream_cx_overflow, -2, -1)",
                "aliasByNode({rate}.cluster.$cluster.upstream_rq_pending_overflow, -2, -1)",
                "aliasByNode({rate}.cluster.$cluster.upstream_rq_retry_overflow, -2, -1)",
            ),
        ),
    ),
    "Workers": (
        Panel("Requests by worker", "reqps", ("aliasByNode({rate}.server.worker_*.downstream_rq_total, -2)",)),
        Panel("Connections by worker", "short", ("aliasByNode({gauge}.server.worker_*.total_connections, -2)",)),
        Panel(
            "Turn of the loop", "µs", tuple(f"alias({{timer}}.server.loop_turn_us.{time}, '{time}')" for time in _TIMES),
            "How long a worker's other connections wait at most.",
        ),
    ),
    "Overload": (
        Panel(
            "Refused", "reqps",
            (
                "alias({rate}.server.overload_rejected_cx, 'connections')",
                "alias({rate}.server.overload_rejected_rq, 'requests')",
                "alias({rate}.server.overload_paused_reading, 'times reading paused')",
                "alias({rate}.server.fd_limit_reached, 'limit of open files')",
            ),
        ),
        Panel("Buffered by worker", "bytes", ("aliasByNode({gauge}.server.worker_*.buffered_bytes, -2)",)),
        Panel(
            "Lost and broken", "short",
            (
                "alias({rate}.server.records_dropped, 'log lines that found the ring full')",
                "alias({rate}.server.exceptions, 'exceptions')",
                "alias({rate}.server.python_filter_errors, 'errors of Python filters')",
            ),
        ),
    ),
}
"""Paths are statsd's defaults (`legacyNamespace: true`): counters are rates per second."""

_PLACES = {"{rate}": "stats.$prefix", "{timer}": "stats.timers.$prefix", "{gauge}": "stats.gauges.$prefix"}


def dashboard() -> dict:
    """What Grafana imports."""
    panels: list[dict] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}, "panels": []})
        for at, panel in enumerate(row):
            place = {"h": _HEIGHT, "w": _WIDTH, "x": at % _PER_ROW * _WIDTH, "y": top + 1 + at // _PER_ROW * _HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, place))
        top += 1 + -(-len(row) // _PER_ROW) * _HEIGHT
    return {
        "title": "meshproxy", "uid": "meshproxy-statsd", "tags": ["meshproxy"], "editable": True, "schemaVersion": 39, "version": 1,
        "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "graphTooltip": 1, "annotations": {"list": []},
        "templating": {"list": _variables()}, "panels": panels,
    }  # fmt: skip


def _panel(number: int, panel: Panel, place: dict) -> dict:
    return {
        "id": number, "type": "timeseries", "title": panel.title, "description": panel.help, "datasource": _SOURCE, "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(ord("A") + at), "target": _placed(target)} for at, target in enumerate(panel.targets)],
    }  # fmt: skip


def _placed(target: str) -> str:
    for word, place in _PLACES.items():
        target = target.replace(word, place)
    return target


def _variables() -> list[dict]:
    source = {"name": "source", "label": "Data source", "type": "datasource", "query": "graphite"}
    current = {"text": "meshproxy", "value": "meshproxy"}
    prefix = {"name": "prefix", "label": "Prefix", "type": "textbox", "query": "meshproxy", "current": current}
    return [source, prefix, _choice("http", "Connection manager"), _choice("cluster", "Cluster")]


def _choice(name: str, label: str) -> dict:
    return {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "query": f"stats.$prefix.{name}.*", "refresh": 2, "sort": 1,
        "includeAll": True, "allValue": "*", "multi": True, "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text())
