"""`meshproxy envoy`: Envoy's command line, so that a launcher made for Envoy starts meshproxy in its place."""

from __future__ import annotations

import os
import platform
import re
from typing import Any, Literal, NoReturn

import click

from meshproxy import __version__
from meshproxy.config.launch import LOADER, LaunchOptions, with_options
from meshproxy.errors import ConfigError, MeshproxyError
from meshproxy.ipc.control_path import control_path

API_VERSION = "1.40.0"
"""The Envoy whose API and behaviour are followed: what launchers that look at a version get to see."""
FAILED = 1
"""Envoy's only code for what is wrong, a command line as well as a configuration."""
LEVELS: dict[str, Literal["debug", "info", "warning", "error"]] = {
    "trace": "debug", "debug": "debug", "info": "info", "warning": "warning", "warn": "warning", "error": "error", "critical": "error",
    "off": "error",
}
"""Envoy's words -> ours."""
_ACCEPTED = "Accepted: "


class EnvoyCommand(click.Command):
    """A command line that is wrong ends with Envoy's code and not with click's."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.exit_code = FAILED
            raise


class Level(click.ParamType):
    """Envoy's log levels."""

    name = "LEVEL"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in LEVELS:
            self.fail(f"invalid log level specified '{value}': use one of {', '.join(LEVELS)}", param, ctx)
        return str(value)


class ComponentLevels(click.ParamType):
    """`upstream:debug,config:trace`."""

    name = "NAME:LEVEL,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        for part in str(value).split(","):
            name, colon, level = part.partition(":")
            if value and not (name and colon and level in LEVELS):
                self.fail(f"component log level not correctly specified '{part}': write NAME:LEVEL", param, ctx)
        return str(value)


class StatsTag(click.ParamType):
    """`name:value`, by Envoy's rules for the two."""

    name = "NAME:VALUE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, colon, text = str(value).partition(":")
        if not (colon and re.fullmatch("[A-Za-z0-9]+", name) and text and "." not in text):
            self.fail(f"misformatted stats-tag '{value}': write NAME:VALUE, letters and digits, and a value without a dot", param, ctx)
        return name, text


def _number(name: str, help: str, default: int | None = None) -> Any:
    return click.option(name, type=click.IntRange(min=0, max=2**32 - 1), metavar="N", default=default, help=help)


def _accepted(*names: str, flag: bool = False, text: str = "it concerns Envoy's own process.") -> Any:
    return click.option(*names, is_flag=flag, **({} if flag else {"metavar": "X"}), expose_value=False, help=_ACCEPTED + text)


def _print_version(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        # Fields as Envoy's: revision, version, state, type, TLS library. Launchers take the version out of them.
        click.echo(f"\nmeshproxy  version: meshproxy-{__version__}/{API_VERSION}/Clean/RELEASE/Python-{platform.python_version()}\n")
        context.exit(0)


def _print_hot_restart_version(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        click.echo("disabled")
        context.exit(0)


@click.command(cls=EnvoyCommand)
@click.option("-c", "--config-path", metavar="FILE", default="", help="The bootstrap: YAML, JSON, .pb or .pb_text.")
@click.option("--config-yaml", metavar="YAML", default="", help="A bootstrap that is merged over the file, or stands alone.")
@click.option(
    "--mode", default="serve", type=click.Choice(["serve", "validate", "init_only"]), show_default=True,
    help="Serve, or only check the bootstrap; init_only does that without a word.",
)
@click.option("--service-node", metavar="ID", default="", help="The node's id, whatever the bootstrap says.")
@click.option("--service-cluster", metavar="NAME", default="", help="The node's cluster, whatever the bootstrap says.")
@click.option("--service-zone", metavar="ZONE", default="", help="The node's zone, whatever the bootstrap says.")
@_number("--concurrency", "Worker processes.  [default: one for each usable core]")
@_number("--drain-time-s", "How long old connections may live on after a stop, a reload or an upgrade.  [default: 600]")
@click.option("-l", "--log-level", type=Level(), default="info", show_default=True, help=f"One of {', '.join(LEVELS)}.")
@click.option("--log-path", metavar="FILE", default="", help="Where the node's own log is appended to, in place of stderr.")
@click.option("--admin-address-path", metavar="FILE", default="", help="The admin API's address is written there once it listens.")
@_number("--base-id", "Tells nodes of one machine apart: each has a control socket of its own.", 0)
@click.option("--use-dynamic-base-id", is_flag=True, help="The control socket is named after the process.")
@click.option("--base-id-path", metavar="FILE", default="", help="The base id is written there.")
@_number("--restart-epoch", "0 only, unless hot restart is off: upgrades are made by `meshproxy upgrade` or SIGUSR2.", 0)
@click.option("--disable-hot-restart", is_flag=True, help="Accepted: there is no hot restart by a launcher.")
@click.option("--allow-unknown-static-fields", "--allow-unknown-fields", "allow_unknown", is_flag=True,
              help="Fields that the API does not have are skipped.")
@click.option("--local-address-ip-version", type=click.Choice(["v4", "v6"]), default="v4", expose_value=False,
              help=_ACCEPTED + "it is a label that nothing reads.")
@click.option("--drain-strategy", type=click.Choice(["gradual", "immediate"]), default="gradual", expose_value=False,
              help=_ACCEPTED + "each client is told with its next answer.")
@click.option("--component-log-level", type=ComponentLevels(), default="", expose_value=False,
              help=_ACCEPTED + "the log has one level.")
@click.option("--reject-unknown-dynamic-fields", is_flag=True, help="Refused: fields that nobody knows are always skipped.")
@click.option("--disable-extensions", metavar="NAMES", default="", help="Refused: what it takes out would not be taken out.")
@click.option("--stats-tag", type=StatsTag(), metavar="NAME:VALUE", multiple=True, help="A tag of all metrics; may be given several times.")
@_accepted("--parent-shutdown-time-s", text="an old process ends when its last connection does, or after --drain-time-s.")
@_accepted("--log-format", text="the log has one format.")
@_accepted("--log-format-escaped", flag=True, text="line ends are always escaped.")
@_accepted("--log-stacktrace-single-entry", flag=True, text="the log has one line an event.")
@_accepted("--enable-fine-grain-logging", flag=True, text="the log has one level.")
@_accepted("--file-flush-interval-msec", text="access logs are written at once.")
@_accepted("--file-flush-min-size-kb", text="access logs are written at once.")
@_accepted("--skip-deprecated-logs", flag=True, text="there are none.")
@_accepted("--ignore-unknown-dynamic-fields", flag=True, text="they are skipped.")
@_accepted("--skip-hot-restart-on-no-parent", flag=True, text="there is no parent.")
@_accepted("--skip-hot-restart-parent-stats", flag=True, text="there is no parent.")
@_accepted("--socket-path")
@_accepted("--socket-mode")
@_accepted("--cpuset-threads", flag=True, text="usable cores are counted anyway.")
@_accepted("--enable-mutex-tracing", flag=True)
@_accepted("--enable-core-dump", flag=True)
@click.option("--control", metavar="PATH", default="", help="Not Envoy's: where to make the control socket.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print versions as Envoy does.")
@click.option("--hot-restart-version", is_flag=True, is_eager=True, expose_value=False, callback=_print_hot_restart_version,
              help="Print that there is no hot restart.")
def envoy(**given: Any) -> None:
    """Run a node by Envoy's command line, for launchers made for Envoy.

    What can be done is done, what only concerns Envoy's own process is accepted, and what would change who may pass is refused.
    Signals are meshproxy's: ^C or SIGINT ends it now, SIGTERM lets requests end first, SIGHUP reloads, SIGUSR2 upgrades.
    """
    path, options = given["config_path"], _options(given)
    _refuse(given)
    if given["mode"] != "serve":
        _validate(path, options, tell=given["mode"] == "validate")
        return
    if given["log_path"]:
        _log_to(given["log_path"])
    if given["base_id_path"]:
        _write(given["base_id_path"], str(_base_id(given)))
    _serve(path, options, given)


def _options(given: dict[str, Any]) -> LaunchOptions:
    return LaunchOptions(
        config_yaml=given["config_yaml"], node_id=given["service_node"], cluster=given["service_cluster"], zone=given["service_zone"],
        drain_s=-1.0 if given["drain_time_s"] is None else float(given["drain_time_s"]), allow_unknown_fields=given["allow_unknown"],
        log_level=LEVELS[given["log_level"]], stats_tags=given["stats_tag"],
    )


def _refuse(given: dict[str, Any]) -> None:
    """What cannot be done as asked, and must not be passed over."""
    if not given["config_path"] and not given["config_yaml"]:
        _fail("error initializing configuration '': neither --config-path nor --config-yaml is given. Give one.")
    if given["reject_unknown_dynamic_fields"]:
        _fail("error: --reject-unknown-dynamic-fields is not supported: fields that nobody knows are always skipped. Leave it out.")
    if given["disable_extensions"]:
        asked = f"--disable-extensions {given['disable_extensions']}"
        _fail(f"error: {asked} is not supported: they would stay. Leave them out of the bootstrap.")
    if given["restart_epoch"] and given["mode"] == "serve" and not given["disable_hot_restart"]:
        _fail(
            f"error: --restart-epoch {given['restart_epoch']}: no process takes over by shared memory here. "
            "Send SIGUSR2 to the running node, or run meshproxy upgrade."
        )


def _validate(path: str, options: LaunchOptions, tell: bool) -> None:
    from meshproxy.config.envoy.launch import load

    try:
        loaded = load(path, with_options(os.environ, options))
    except ConfigError as error:
        _fail("\n".join(f"error initializing configuration '{path}': {problem}" for problem in error.problems))
    for problem in loaded.warnings:
        click.echo(f"warning: {problem}", err=True)
    if tell:
        click.echo(f"configuration '{path}' OK")


def _serve(path: str, options: LaunchOptions, given: dict[str, Any]) -> NoReturn:
    from meshproxy.master.main import run
    from meshproxy.master.node import Entries

    # Envoy takes 0 for 1.
    workers = None if given["concurrency"] is None else max(given["concurrency"], 1)
    try:
        code = run(
            path, workers=workers, control=_control(given), entries=Entries(loader=LOADER),
            env=with_options(os.environ, options), admin_address_path=given["admin_address_path"],
        )
    except MeshproxyError as error:
        _fail(str(error))
    raise SystemExit(code)


def _base_id(given: dict[str, Any]) -> int:
    # A process's number is taken by one process only.
    return os.getpid() if given["use_dynamic_base_id"] else given["base_id"]


def _control(given: dict[str, Any]) -> str:
    """Nodes with other base ids do not get into each other's way."""
    base_id = _base_id(given)
    if given["control"] or not base_id:
        return str(given["control"])
    usual = control_path("", os.environ, os.getuid())
    return re.sub(r"(\.sock)?\Z", rf"-{base_id}\1", usual, count=1)


def _log_to(path: str) -> None:
    """All that the node says of itself, by this process and those that it makes."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        _fail(f"error: cannot open log file '{path}': {error.strerror}. Correct --log-path or its permissions.")
    os.dup2(fd, 2)
    os.close(fd)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        _fail(f"error: cannot write '{path}': {error.strerror}. Correct the path or its permissions.")


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    raise SystemExit(FAILED)
