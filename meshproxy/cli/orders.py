"""`meshproxy reload`, `upgrade`, `drain` and `stop`: one order to the node each. They return when it is done, not when it is begun."""

from __future__ import annotations

import click

from meshproxy.cli.control import control_option, node

LIMIT = click.FloatRange(min=0, min_open=True)


@click.command()
@control_option
def reload(control: str) -> None:
    """Make the running node read its configuration again.

    Returns 0 when every ready worker serves the new configuration, 1 with the errors when nothing was changed, 2 without a node.
    """
    with node(control) as client:
        _say(client.order("reload"), "reloaded")


@click.command()
@control_option
def upgrade(control: str) -> None:
    """Replace the running code by new processes on the same sockets.

    Returns 0 when the new processes serve, 1 when they do not and the old ones go on, 2 without a node.
    """
    with node(control) as client:
        _say(client.order("upgrade"), "upgraded")


@click.command()
@control_option
@click.option("--limit", "limit_s", type=LIMIT, metavar="SECONDS", help="End after so long in any case.  [default: the configuration's]")
@click.option("--listener", "listeners", multiple=True, metavar="NAME", help="Only stop accepting on this listener; the node lives on.")
def drain(control: str, limit_s: float | None, listeners: tuple[str, ...]) -> None:
    """Stop accepting, let requests end, then end the node.

    With --listener (may be given several times) the node only stops accepting there, until the next reload.
    """
    with node(control) as client:
        if listeners:
            _say(client.order("drain_listeners", listeners=list(listeners), limit_s=limit_s or 0.0), "no longer accepting")
        else:
            _say(client.order_and_wait("drain", limit_s=limit_s or 0.0), "drained")


@click.command()
@control_option
@click.option("--now", is_flag=True, help="Do not wait for requests that are under way.")
@click.option("--limit", "limit_s", type=LIMIT, metavar="SECONDS", help="Wait so long for them.  [default: the configuration's]")
def stop(control: str, now: bool, limit_s: float | None) -> None:
    """End the node.

    Requests under way are let end first, up to the drain limit; with --now they are cut.
    """
    with node(control) as client:
        _say(client.order_and_wait("stop", graceful=not now, limit_s=limit_s or 0.0), "stopped")


def _say(body: bytes, otherwise: str) -> None:
    click.echo(body.decode(errors="replace").strip() or otherwise)
