"""Configurations that the process tests start from."""

from __future__ import annotations

from typing import Any

from tests.peers import bootstrap

Json = dict[str, Any]


def plain(origin_port: int, *, port: int = 0, name: str = "ingress", mark: str = "", admin: bool = False, **manager: Any) -> Json:
    """One listener, one route, one cluster. `mark` comes back in the header x-mark, so that a test sees which configuration answered."""
    # No timeout: the tests hold requests for as long as they need.
    routes = [bootstrap.route("/", {"cluster": "origin", "timeout": "0s"}, **marked(mark))]
    listener = bootstrap.http_listener(name, port, [bootstrap.virtual_host(routes)], **manager)
    return bootstrap.bootstrap([listener], [bootstrap.cluster("origin", origin_port)], 0 if admin else None)


def marked(mark: str) -> Json:
    """Route settings that add x-mark to answers."""
    if not mark:
        return {}
    return {"response_headers_to_add": [{"header": {"key": "x-mark", "value": mark}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}


def large(origin_port: int, clusters: int, routes: int, *, mark: str = "") -> Json:
    """A mesh with many clusters and routes, all of them leading to one origin; `/` comes last."""
    listed = [bootstrap.route(f"/service-{number}/", f"cluster-{number % clusters}") for number in range(routes - 1)]
    listed.append(bootstrap.route("/", "cluster-0", **marked(mark)))
    listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host(listed)])
    return bootstrap.bootstrap([listener], [bootstrap.cluster(f"cluster-{number}", origin_port) for number in range(clusters)])
