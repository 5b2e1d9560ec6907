"""Pages that change the node. Each is a POST; what the master must do goes to it as an order, and the page answers when it has answered."""

from __future__ import annotations

from meshproxy.admin.http import Request, Response, text
from meshproxy.admin.node import AdminNode
from meshproxy.ipc.messages import Order

LEVELS = ("debug", "info", "warning", "error")
# Envoy has more levels; a script that asks for one of those gets the nearest.
ENVOY_LEVELS = {"trace": "debug", "critical": "error", "off": "error"}


def _carry_out(node: AdminNode, order: Order, done: str = "OK") -> Response:
    answer = node.give_order(order)
    if not answer.ok:
        return text("503: " + ("; ".join(answer.errors) or f"the master refused {order.verb} without a reason"), 503)
    return text(answer.body.decode(errors="replace").strip() or done)


def healthcheck_fail(node: AdminNode, request: Request) -> Response:
    """`/ready` answers 503 from now on, so that balancers in front take the node out; traffic goes on."""
    node.view.region.healthcheck_failed = True
    return text("OK")


def healthcheck_ok(node: AdminNode, request: Request) -> Response:
    """Takes `/healthcheck/fail` back."""
    node.view.region.healthcheck_failed = False
    return text("OK")


def drain_listeners(node: AdminNode, request: Request) -> Response:
    """Stops accepting. `inboundonly` and `skip_exit`, which Envoy's scripts send, change nothing: all listeners are inbound."""
    return _carry_out(node, Order(verb="drain_listeners", graceful=request.flag("graceful")))


def quit_now(node: AdminNode, request: Request) -> Response:
    """Ends the node."""
    return _carry_out(node, Order(verb="quit", graceful=False))


def reopen_logs(node: AdminNode, request: Request) -> Response:
    """For logrotate, as SIGUSR1 does."""
    return _carry_out(node, Order(verb="reopen_logs"))


def reset_counters(node: AdminNode, request: Request) -> Response:
    """In what this API shows. statsd gets differences anyway, and `top` rates."""
    node.metrics.reset_counters()
    return text("OK")


def logging_level(node: AdminNode, request: Request) -> Response:
    """Without `level` it tells the present one."""
    asked = request.query.get("level", "")
    if "paths" in request.query or "group" in request.query:
        return text("400: there is one level for the whole node: give level=LEVEL alone.", 400)
    if not asked:
        return text(f"active level: {node.view.settings.log_level}")
    level = ENVOY_LEVELS.get(asked, asked)
    if level not in LEVELS:
        return text(f"400: {asked!r} is no log level. There are {', '.join(LEVELS)}.", 400)
    response = _carry_out(node, Order(verb="loglevel", argument=level), f"active level: {level}")
    if response.status == 200:
        node.set_log_level(level)
    return response
