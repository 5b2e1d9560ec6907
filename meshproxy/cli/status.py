"""`meshproxy status`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from meshproxy.cli.control import control_option, node
from meshproxy.clock import unix_s
from meshproxy.ipc.messages import ControlPlaneRow, NodeState, RegistrationRow, SourceRow, WorkerRow


@click.command()
@control_option
@click.option("--format", "shape", type=click.Choice(["text", "json"]), default="text", help="A table for people, or JSON for scripts.")
def status(control: str, shape: str) -> None:
    """Show the running node's processes, listeners and control planes."""
    with node(control) as client:
        state = client.status()
    if shape == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(as_tree(state)), indent=2).decode())
    else:
        click.echo(as_text(state))


def as_tree(state: NodeState) -> dict:
    """All fields, those at their default too: a script must not have to guess."""
    tree = {name: getattr(state, name) for name in state.__struct_fields__}
    return tree


def as_text(state: NodeState) -> str:
    """What a person wants to know, top down."""
    serving = "draining" if state.draining else "serving" if state.live else "not serving: no worker is ready"
    lines = [
        f"meshproxy {state.version}, pid {state.pid}: {serving}, up {span(state.uptime_s)}",
        f"configuration {state.config_version} from {state.config_file or 'another process'}",
        *([f"admin {state.admin}"] if state.admin else []),
        *([f"control {state.control}"] if state.control else []),
        "",
        *table(("PROCESS", "STATE", "PID", "UP", "RESTARTS", "LAST DEATH"), [_process(row) for row in _processes(state)]),
        "",
        *table(("LISTENER", "ADDRESSES"), [(row.name, "  ".join(row.addresses)) for row in state.listeners]),
        *_part(("CONFIGURATION", "STATE", "ERROR"), [(row.source, row.state, " ".join(row.error.split())) for row in state.configurations]),
        *_part(("SOURCE", "CLUSTER", "ENDPOINTS", "LAST GOOD", "ERROR"), [_source(row) for row in state.sources]),
        *_part(("REGISTRATION", "ID", "ADDRESS", "STATE", "ERROR"), [_registration(row) for row in state.registrations]),
    ]
    if state.control_planes:
        heads = ("ASKED FOR", "OF", "HAS", "VERSION", "STATE")
        lines += ["", *table(heads, [_control_plane(row) for row in state.control_planes])]
    if state.not_in_force:
        lines += ["", "NOT IN FORCE", *state.not_in_force]
    return "\n".join(lines)


def _control_plane(row: ControlPlaneRow) -> tuple[str, ...]:
    if row.last_known_good:
        standing = f"last known good: {row.error or 'no answer'}"
    else:
        standing = row.error or (f"good for {span(max(unix_s() - row.updated_unix_s, 0.0))}" if row.updated_unix_s else "no answer yet")
    return row.kind, row.source, str(row.resources), row.version or "-", standing


def _part(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table after a free line; nothing without rows."""
    return ["", *table(heads, rows)] if rows else []


def _source(row: SourceRow) -> tuple[str, ...]:
    return row.source, row.cluster, str(row.endpoints), f"{span(row.age_s)} ago", " ".join(row.error.split())


def _registration(row: RegistrationRow) -> tuple[str, ...]:
    return row.service, row.id or "-", row.address or "-", row.state, " ".join(row.error.split())


def _processes(state: NodeState) -> list[tuple[str, WorkerRow]]:
    workers = [(f"worker {row.slot}", row) for row in sorted(state.workers, key=lambda row: row.slot)]
    return workers + ([("agent", state.agent)] if state.agent is not None else [])


def _process(named: tuple[str, WorkerRow]) -> tuple[str, ...]:
    title, row = named
    alive = row.state != "GONE"
    return (title, row.state, str(row.pid) if alive else "-", span(row.uptime_s) if alive else "-", str(row.restarts), row.last_death)


def span(seconds: float) -> str:
    """A duration as people say it: its two largest units."""
    left = int(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount or (unit == "s" and not parts):
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest entry, the last one open."""
    widths = [max(len(row[at]) for row in (heads, *rows)) for at in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)]
