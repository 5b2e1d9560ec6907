"""What every command that speaks to a running node shares: the `--control` option, and exit codes from what the node said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from meshproxy.admin.client import ControlClient
from meshproxy.errors import ControlError
from meshproxy.ipc.control_path import control_path

REFUSED = 1
"""The node said no; nothing was changed."""
NO_NODE = 2
"""No node was found, or the command line was wrong (click's own code for it)."""


def control_option(command: Callable) -> Callable:
    """`--control PATH`; without it $MESHPROXY_CONTROL and the default path are tried."""
    return click.option(
        "--control",
        metavar="PATH",
        default="",
        help="The node's control socket.  [default: $MESHPROXY_CONTROL, else that of a node started by this user]",
    )(command)


@contextmanager
def node(control: str) -> Iterator[ControlClient]:
    """The node; a ControlError ends the command with its text on stderr and its exit code."""
    try:
        yield ControlClient(control_path(control, os.environ, os.getuid()))
    except ControlError as error:
        fail(str(error), NO_NODE if error.usage else REFUSED)


def fail(text: str, code: int) -> NoReturn:
    """Print to stderr and exit."""
    click.echo(text, err=True)
    raise SystemExit(code)
