"""The command line: a group that imports a command only when it is run, because people wait for `--help` and `status`."""

from __future__ import annotations

import importlib

import click

from meshproxy import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("meshproxy.cli.run:run", "Run a node in the foreground."),
    "envoy": ("meshproxy.cli.envoy:envoy", "Run a node by Envoy's command line, for launchers made for Envoy."),
    "check": ("meshproxy.cli.check:check", "Check a configuration FILE and list all that is wrong."),
    "reload": ("meshproxy.cli.orders:reload", "Make the running node read its configuration again."),
    "upgrade": ("meshproxy.cli.orders:upgrade", "Replace the running code by new processes on the same sockets."),
    "drain": ("meshproxy.cli.orders:drain", "Stop accepting, let requests end, then end the node."),
    "stop": ("meshproxy.cli.orders:stop", "End the node."),
    "status": ("meshproxy.cli.status:status", "Show the running node's processes, listeners and control planes."),
    "top": ("meshproxy.cli.top:top", "Watch the running node's traffic."),
    "config": ("meshproxy.cli.config:config", "Show, convert and describe configuration."),
    "version": ("meshproxy.cli.version:version", "Print the version."),
}
"""Each command, where it is and the line of `--help`; in the order in which `--help` lists them."""


class LazyGroup(click.Group):
    """Commands by name from `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="meshproxy")
def main() -> None:
    """A service mesh for fleets of virtual machines."""


if __name__ == "__main__":
    main()
