"""`meshproxy run`."""

from __future__ import annotations

import os

import click

from meshproxy.cli.control import NO_NODE, fail

DEFAULT_FILES = ("./meshproxy.yaml", "/etc/meshproxy/meshproxy.yaml")
LEVELS = ("debug", "info", "warning", "error")


class WorkerCount(click.ParamType):
    """A number from 1, or `auto`, which is 0 further in: one for each usable core."""

    name = "N|auto"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "auto" or value == 0:
            return 0
        if isinstance(value, str) and value.isdecimal() and int(value) > 0:
            return int(value)
        self.fail(f"{value!r} is no number of workers: give 1 or more, or auto for one on each usable core", param, ctx)


@click.command()
@click.option(
    "-c", "--config", "path", metavar="FILE", help=f"The configuration, or consul://HOST:PORT/PREFIX.  [default: {' or '.join(DEFAULT_FILES)}]",
)
@click.option("--workers", type=WorkerCount(), metavar="N|auto", help="Worker processes.  [default: the configuration's, else auto]")
@click.option("--control", metavar="PATH", default="", help="Where to make the control socket.  [default: the configuration's]")
@click.option("--log-level", type=click.Choice(LEVELS), help="What is logged to stderr.  [default: the configuration's]")
def run(path: str | None, workers: int | None, control: str, log_level: str | None) -> None:
    """Run a node in the foreground.

    ^C or SIGINT ends it now, SIGTERM lets requests end first, SIGHUP reloads, SIGUSR2 upgrades.
    """
    found = path or default_file()
    if not found.startswith("consul://") and not os.path.isfile(found):
        fail(f"cannot read {found}: no such file. Give another with -c FILE.", NO_NODE)
    from meshproxy.master.main import run as run_master

    raise SystemExit(run_master(found, workers=workers, control=control, log_level=log_level))


def default_file() -> str:
    """The first default file that is there; exits with 2 and the remedy when none is."""
    for candidate in DEFAULT_FILES:
        if os.path.isfile(candidate):
            return candidate
    fail(f"no configuration: neither {' nor '.join(DEFAULT_FILES)} is there. Give one with -c FILE.", NO_NODE)
