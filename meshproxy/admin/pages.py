"""Every path of the admin API, in one table: `/help`, the home page and `docs/reference/admin.md` are made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshproxy.admin import mesh_pages, order_pages, process_pages, stats_pages
from meshproxy.admin.home import home, home_data
from meshproxy.admin.http import BadRequest, Request, Response, text
from meshproxy.admin.node import AdminNode


@dataclass(frozen=True)
class Page:
    """One path. `mutates`: POST is required, so that no link, image or prefetch changes the node."""

    answer: Callable[[AdminNode, Request], Response]
    help: str
    mutates: bool = False
    parameters: tuple[tuple[str, str], ...] = ()


FORMAT = ("format", "text (default) or json")
STATS = (
    ("usedonly", "only what was ever counted"),
    ("filter", "only names that this RE2 expression matches"),
)


def help_page(node: AdminNode, request: Request) -> Response:
    """All paths."""
    return text(help_text())


PAGES: dict[str, Page] = {
    "/": Page(home, "home page"),
    "/home.json": Page(home_data, "what the home page shows, as JSON"),
    "/certs": Page(mesh_pages.certs, "certificates"),
    "/clusters": Page(
        mesh_pages.clusters,
        "clusters, their limits and endpoints",
        parameters=(FORMAT, ("filter", "only clusters that this RE2 expression matches")),
    ),
    "/config_dump": Page(
        mesh_pages.dump,
        "the configuration that the node runs on; secrets are left out",
        parameters=(
            ("resource", "one section: bootstrap, static_clusters, static_listeners, static_route_configs, static_secrets, "
             "static_endpoint_configs"),
            ("name_regex", "only resources that this RE2 expression matches"),
            ("include_eds", "with the endpoints that discovery found"),
        ),
    ),
    "/drain_listeners": Page(
        order_pages.drain_listeners,
        "stop accepting connections",
        mutates=True,
        parameters=(
            ("graceful", "tell clients to close, and wait for them"),
            ("inboundonly", "taken; all listeners are inbound"),
            ("skip_exit", "taken; the node lives on in any case"),
        ),
    ),
    "/healthcheck/fail": Page(order_pages.healthcheck_fail, "make /ready answer 503; traffic goes on", mutates=True),
    "/healthcheck/ok": Page(order_pages.healthcheck_ok, "take /healthcheck/fail back", mutates=True),
    "/help": Page(help_page, "this list"),
    "/hot_restart_version": Page(process_pages.hot_restart_version, "what two builds need in common for an upgrade"),
    "/listeners": Page(mesh_pages.listeners, "listeners and their addresses", parameters=(FORMAT,)),
    "/logging": Page(
        order_pages.logging_level, "show or set the log level", mutates=True, parameters=(("level", "debug, info, warning or error"),),
    ),
    "/memory": Page(process_pages.memory, "memory of the node's processes"),
    "/quitquitquit": Page(order_pages.quit_now, "end the node", mutates=True),
    "/ready": Page(process_pages.ready, "200 when workers answer, else 503"),
    "/reopen_logs": Page(order_pages.reopen_logs, "open log files again", mutates=True),
    "/reset_counters": Page(order_pages.reset_counters, "show counters from 0 again", mutates=True),
    "/runtime": Page(mesh_pages.runtime, "runtime values (there are none)"),
    "/server_info": Page(process_pages.server_info, "version, state, uptime and node"),
    "/stats": Page(
        stats_pages.stats,
        "metrics",
        parameters=(("format", "text (default), json or prometheus"), ("type", "All, Counters, Gauges or Histograms"), *STATS),
    ),
    "/stats/prometheus": Page(stats_pages.prometheus, "metrics for Prometheus", parameters=STATS),
}


def help_text() -> str:
    """The paths, one a line, their parameters below."""
    lines = ["admin commands are:"]
    for path, page in PAGES.items():
        lines.append(f"  {path}{' (POST)' if page.mutates else ''}: {page.help}")
        lines += [f"      {name}: {meaning}" for name, meaning in page.parameters]
    return "\n".join(lines)


def answer(node: AdminNode, request: Request) -> Response:
    """The response of the path that is asked for."""
    page = PAGES.get(request.path) or PAGES.get(request.path.rstrip("/"))
    if page is None:
        return text(f"404: there is no {request.path!r}. {help_text()}", 404)
    # POST for reading too: Envoy takes it, and scripts do it.
    allowed = ("POST",) if page.mutates else ("GET", "HEAD", "POST")
    if request.method not in allowed:
        needed = "POST required" if page.mutates else "GET required"
        return text(f"Method {request.method} not allowed, {needed}.", 405, headers=(("allow", ", ".join(allowed)),))
    try:
        return page.answer(node, request)
    except BadRequest as error:
        return text(f"{error.status}: {error}", error.status)
