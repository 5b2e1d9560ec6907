"""A file to a Snapshot, whichever of the two forms it is in."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from meshproxy.config import document as documents
from meshproxy.config.document import Document
from meshproxy.config.problems import Problems
from meshproxy.errors import ConfigError, Problem
from meshproxy.model import Snapshot

_ENVOY_KEYS = {
    "static_resources", "staticResources", "dynamic_resources", "dynamicResources", "layered_runtime", "layeredRuntime",
    "bootstrap_extensions", "cluster_manager", "clusterManager", "overload_manager", "overloadManager", "stats_sinks", "statsSinks",
}
"""Top-level keys that only Envoy's form has."""


class Loaded(NamedTuple):
    """A good configuration and what its author should know about it."""

    snapshot: Snapshot
    warnings: list[Problem]
    form: Literal["native", "envoy"]


def load(path: str, env: Mapping[str, str]) -> Snapshot:
    """The configuration in the file `path`. Raises ConfigError with all that is wrong; `env` is what `${NAME}` in native form means."""
    return load_with_warnings(path, env).snapshot


def load_with_warnings(path: str, env: Mapping[str, str]) -> Loaded:
    """Like `load`, with the warnings and the form."""
    with collector_off():
        return _translated(documents.read(path), env)


def load_text(text: str, env: Mapping[str, str], name: str = "configuration") -> Loaded:
    """A configuration that is no file; `name` stands for the file's in problems."""
    with collector_off():
        return _translated(documents.parse(name, text), env)


def form_of(data: Any) -> Literal["native", "envoy"]:
    """Told by the content: Envoy's top-level keys, or an `admin` or `node` as only Envoy writes them."""
    if not isinstance(data, dict):
        return "native"
    admin = data.get("admin")
    address = admin.get("address") if isinstance(admin, dict) else None
    if _ENVOY_KEYS & data.keys() or (isinstance(address, dict) and address.keys() & {"socket_address", "socketAddress", "pipe"}):
        return "envoy"
    return "native"


def _translated(document: Document, env: Mapping[str, str]) -> Loaded:
    problems = Problems()
    form = form_of(document.data)
    if form == "envoy":
        # Not at the top: protobuf and Envoy's messages take 30 MiB that a native configuration does not need.
        from meshproxy.config.envoy.bootstrap import read
    else:
        from meshproxy.config.native.read import read
    snapshot = read(document, env, problems)
    refuse_control_planes(problems)
    if problems.refused:
        raise ConfigError(problems.errors())
    return Loaded(snapshot, problems.warnings(), form)


def refuse_control_planes(problems: Problems) -> None:
    """The one place that keeps what comes from control planes out of a node, in either form."""
    for path, what in problems.sourced:
        problems.error(path, f"{what} is not supported yet. Remove it.")


@contextmanager
def collector_off() -> Iterator[None]:
    """Loading makes a million objects that all live on: the collector would go through them again and again (2.3 s instead of 0.4)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
