"""`/stats` and `/stats/prometheus`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshproxy.admin.http import Request, Response, streamed, text
from meshproxy.admin.node import AdminNode, StatsQuery
from meshproxy.admin.pattern import matcher

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def stats(node: AdminNode, request: Request) -> Response:
    """Text, or what `format` says."""
    shape = request.query.get("format", "text")
    if shape == "prometheus":
        return prometheus(node, request)
    if shape == "json":
        return _answer(request, node.metrics.json, "application/json")
    if shape == "text":
        return _answer(request, node.metrics.text, "text/plain; charset=UTF-8")
    return text(f"400: {shape!r} is no format of metrics. There are text, json, prometheus.", 400)


def prometheus(node: AdminNode, request: Request) -> Response:
    """For a scraper."""
    return _answer(request, node.metrics.prometheus, PROMETHEUS)


def _answer(request: Request, render: Callable[[StatsQuery], Iterable[str]], content_type: str) -> Response:
    pattern = request.query.get("filter", "")
    matcher(pattern)  # a bad one is told in the words of all pages
    query = StatsQuery(used_only=request.flag("usedonly"), pattern=pattern, type_name=request.query.get("type", "All"))
    try:
        return streamed(render(query), content_type)
    except ValueError as error:
        return text(f"400: {error}", 400)
