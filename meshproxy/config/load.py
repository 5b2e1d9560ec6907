"""A file to a Snapshot, whichever of the two forms it is in."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

from meshproxy.config import document as documents
from meshproxy.config.consul_url import document_of, is_consul
from meshproxy.config.document import Document
from meshproxy.config.form import form_of
from meshproxy.config.problems import Problems
from meshproxy.errors import ConfigError, Problem
from meshproxy.ipc.state_path import VARIABLE as STATE
from meshproxy.model import Snapshot


class Loaded(NamedTuple):
    """A good configuration and what its author should know about it."""

    snapshot: Snapshot
    warnings: list[Problem]
    form: Literal["native", "envoy"]


def load(path: str, env: Mapping[str, str]) -> Snapshot:
    """The configuration in the file `path`. Raises ConfigError with all that is wrong; `env` is what `${NAME}` in native form means."""
    return load_with_warnings(path, env).snapshot


def load_with_warnings(path: str, env: Mapping[str, str]) -> Loaded:
    """Like `load`, with the warnings and the form. `path` may be a `consul://host:port/prefix`."""
    with collector_off():
        return _translated(_read(path, env), env)


def load_for_node(path: str, env: Mapping[str, str]) -> Loaded:
    """Like `load_with_warnings`; where Consul cannot be asked, what it said last is good enough, with a warning."""
    with collector_off():
        return _translated(_read(path, env), env, env.get(STATE, ""))


def _read(path: str, env: Mapping[str, str]) -> Document:
    return document_of(path, env) if is_consul(path) else documents.read(path)


def load_text(text: str, env: Mapping[str, str], name: str = "configuration") -> Loaded:
    """A configuration that is no file; `name` stands for the file's in problems."""
    with collector_off():
        return _translated(documents.parse(name, text), env)


def _translated(document: Document, env: Mapping[str, str], state_directory: str = "") -> Loaded:
    problems = Problems()
    form = form_of(document.data)
    if form == "envoy":
        # Not at the top: protobuf and Envoy's messages take 30 MiB that a native configuration does not need.
        from meshproxy.config.envoy.bootstrap import read

        snapshot = read(document, env, problems)
    else:
        from meshproxy.config.native import read as native

        snapshot = native.read(document, env, problems, state_directory)
    if problems.refused:
        raise ConfigError(problems.errors())
    return Loaded(snapshot, problems.warnings(), form)


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
