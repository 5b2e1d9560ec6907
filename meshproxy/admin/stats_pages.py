"""`/stats` and `/stats/prometheus`."""

from __future__ import annotations

from meshproxy.admin.http import Request, Response, text
from meshproxy.admin.node import AdminNode, StatsQuery
from meshproxy.admin.pattern import matcher

KINDS = {"all": "", "counters": "counter", "gauges": "gauge", "histograms": "histogram", "textreadouts": "text"}
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def stats(node: AdminNode, request: Request) -> Response:
    """Text, or what `format` says."""
    shape = request.query.get("format", "text")
    if shape == "prometheus":
        return prometheus(node, request)
    kind = request.query.get("type", "all").lower()
    if kind not in KINDS:
        return text(f"400: {request.query['type']!r} is no type of metric. There are All, Counters, Gauges, Histograms.", 400)
    if shape == "json":
        return Response(node.metrics.json(_query(request, KINDS[kind])), content_type="application/json")
    if shape == "text":
        return text(node.metrics.text(_query(request, KINDS[kind])))
    return text(f"400: {shape!r} is no format of metrics. There are text, json, prometheus.", 400)


def prometheus(node: AdminNode, request: Request) -> Response:
    """For a scraper."""
    return Response(node.metrics.prometheus(_query(request, "")).encode(), content_type=PROMETHEUS)


def _query(request: Request, kind: str) -> StatsQuery:
    pattern = request.query.get("filter", "")
    matcher(pattern)  # a bad one is told before anything is counted
    return StatsQuery(used_only=request.flag("usedonly"), pattern=pattern, invert=request.flag("invert_filter"), kind=kind)
