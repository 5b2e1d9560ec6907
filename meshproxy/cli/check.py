"""`meshproxy check`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli.control import REFUSED, control_option
from meshproxy.errors import ConfigError, ControlError, Problem

if TYPE_CHECKING:
    from meshproxy.config.plan import Step
    from meshproxy.model import Snapshot


@click.command()
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("--plan", "with_plan", is_flag=True, help="Also show what a reload of the running node would do.")
@click.option("--format", "shape", type=click.Choice(["text", "json"]), default="text", help="Lines for people, or JSON for scripts.")
@control_option
def check(file: str, with_plan: bool, shape: str, control: str) -> None:
    """Check a configuration FILE and list all that is wrong.

    FILE may be consul://HOST:PORT/PREFIX. Exits 0 when it is good, 1 when it is refused, 2 for a wrong command line.
    """
    from meshproxy.config.load import load_with_warnings

    try:
        loaded = load_with_warnings(file, os.environ)
    except ConfigError as error:
        _show(shape, error.problems, [], None)
        raise SystemExit(REFUSED) from None
    _show(shape, [], loaded.warnings, _plan(loaded.snapshot, control) if with_plan else None)
    if shape == "text" and not with_plan:
        click.echo(f"{file}: good")


def _plan(snapshot: Snapshot, control: str) -> tuple[str, list[Step]]:
    """Where the plan starts from, and its steps. Without a running node everything is new."""
    from meshproxy.admin.client import ControlClient
    from meshproxy.config.plan import plan
    from meshproxy.ipc.control_path import control_path
    from meshproxy.model import Snapshot

    path = control_path(control or snapshot.process.control, os.environ, os.getuid())
    try:
        return f"the node at {path}", plan(ControlClient(path).dump(of_file=True), snapshot)
    except ControlError as error:
        if not error.usage:
            raise click.ClickException(str(error)) from None
        return f"nothing: no node runs at {path}", plan(Snapshot(), snapshot)


def _show(shape: str, errors: list[Problem], warnings: list[Problem], planned: tuple[str, list[Step]] | None) -> None:
    if shape == "json":
        tree: dict[str, Any] = {"ok": not errors, "errors": [_row(one) for one in errors], "warnings": [_row(one) for one in warnings]}
        if planned is not None:
            tree["plan"] = [_step(step) for step in planned[1]]
        click.echo(json.dumps(tree, indent=2, ensure_ascii=False))
        return
    for problem in errors:
        click.echo(str(problem))
    for problem in warnings:
        click.echo(f"warning: {problem}")
    if planned is not None:
        from meshproxy.config.plan import text_of

        click.echo(f"from {planned[0]}\n{text_of(planned[1])}")


def _row(problem: Problem) -> dict[str, Any]:
    return {"message": problem.message, "file": problem.file, "line": problem.line, "path": problem.path}


def _step(step: Step) -> dict[str, Any]:
    kind = step.kind.name.lower() if step.kind is not None else "setting"
    return {"action": step.action, "kind": kind, "name": step.name, "reasons": list(step.reasons)}
