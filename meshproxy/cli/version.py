"""`meshproxy version`."""

from __future__ import annotations

import platform

import click

from meshproxy import __version__


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"meshproxy {__version__} (Python {platform.python_version()}, {platform.machine()})")
