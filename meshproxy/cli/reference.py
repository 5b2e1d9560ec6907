"""`docs/reference/cli.md`, made from the commands. `python -m meshproxy.cli.reference` writes it; a test refuses a stale one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from meshproxy.cli.main import COMMANDS, main

PLACE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md"

HEAD = """# Commands

`meshproxy COMMAND --help` says the same.

Commands that speak to a running node find it by `--control PATH`, else `$MESHPROXY_CONTROL`, else the default path: root's node is at
`/run/meshproxy/control.sock`; another user's in `$XDG_RUNTIME_DIR/meshproxy/control.sock`, or below the temporary directory as
`meshproxy-UID/control.sock`. The socket's file permissions say who may.

| exit code | meaning |
| --- | --- |
| 0 | done: every ready worker serves what was loaded (`reload`), the new processes serve (`upgrade`), the node is gone (`stop`, `drain`) |
| 1 | refused: the reasons are on stderr, one a line, and nothing was changed |
| 2 | the command line is wrong, or no node answers |
"""


def reference() -> str:
    """The page's text."""
    with click.Context(main, info_name="meshproxy") as root:
        sections = [_section(main.get_command(root, name), root, f"meshproxy {name}") for name in COMMANDS]
    return HEAD + "".join(sections)


def _section(command: click.Command, parent: click.Context, title: str) -> str:
    with click.Context(command, info_name=command.name, parent=parent) as context:
        usage = " ".join([title, *command.collect_usage_pieces(context)])
        options = list(_option_rows(command, context))
        nested = command.commands.values() if isinstance(command, click.Group) else ()
        parts = [f"\n## `{title}`\n", f"```\n{usage}\n```\n", inspect.cleandoc(command.help or "") + "\n"]
        if options:
            parts.append("\n".join(["| option | |", "| --- | --- |", *options]) + "\n")
        return "\n".join(parts) + "".join(_section(each, context, f"{title} {each.name}") for each in nested)


def _option_rows(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            name, help = (" ".join(part.split()).replace("|", "\\|") for part in record)
            yield f"| `{name}` | {help} |"


if __name__ == "__main__":
    PLACE.write_text(reference())
