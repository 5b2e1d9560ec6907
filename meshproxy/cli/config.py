"""`meshproxy config`: schema, convert, dump."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from meshproxy.cli.control import REFUSED, control_option, fail, node
from meshproxy.errors import ConfigError

if TYPE_CHECKING:
    from meshproxy.model import Snapshot

_TO = click.option("--to", "form", type=click.Choice(["native", "envoy"]), default="native", show_default=True, help="The form to write.")
_FORMAT = click.option("--format", "shape", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="How to write it.")


@click.group()
def config() -> None:
    """Show, convert and describe configuration."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of native YAML, for editors."""
    from meshproxy.config.native.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@config.command()
@click.argument("file", metavar="FILE", type=click.Path())
@_TO
@_FORMAT
def convert(file: str, form: str, shape: str) -> None:
    """Print the configuration in FILE, in either form, in the one asked for.

    What Envoy's API cannot say is listed on stderr.
    """
    from meshproxy.config.load import load_with_warnings

    try:
        loaded = load_with_warnings(file, os.environ)
    except ConfigError as error:
        fail(str(error), REFUSED)
    for problem in loaded.warnings:
        click.echo(f"warning: {problem}", err=True)
    _write(loaded.snapshot, form, shape)


@config.command()
@control_option
@_TO
@_FORMAT
def dump(control: str, form: str, shape: str) -> None:
    """Print the configuration that the running node has."""
    with node(control) as client:
        snapshot = client.dump()
    _write(snapshot, form, shape)


def _write(snapshot: Snapshot, form: str, shape: str) -> None:
    from meshproxy.config.native import write

    if form == "native":
        data: dict[str, Any] = write.to_data(snapshot)
        click.echo(_json(write.escaped(data)) if shape == "json" else write.dump(data), nl=shape == "json")
        return
    from meshproxy.config.envoy.write import to_data

    data, lost = to_data(snapshot)
    for what in lost:
        click.echo(f"warning: {what}; left out", err=True)
    click.echo(_json(data) if shape == "json" else write.dump(data, references=False), nl=shape == "json")


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)
