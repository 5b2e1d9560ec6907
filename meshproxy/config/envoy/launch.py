"""Envoy's bootstrap as a launcher gives it: a file in any of its forms, a text that is merged over it, and who the node is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from meshproxy.config import document as documents
from meshproxy.config.envoy import bootstrap
from meshproxy.config.envoy.messages import MessageTypes
from meshproxy.config.envoy.reader import Reader
from meshproxy.config.envoy.translation import Translation
from meshproxy.config.launch import LaunchOptions, options_in
from meshproxy.config.load import Loaded, collector_off
from meshproxy.config.problems import Place, Problems
from meshproxy.errors import ConfigError, Problem
from meshproxy.model import Snapshot, StatsTag

CONFIG_YAML = "--config-yaml"
"""What stands for the file in problems of that text."""


class _File:
    """The root of paths into what has no lines: bytes, or nothing but the text of the command line."""

    def __init__(self, file: str) -> None:
        self.file = file

    def line_of(self, keys: list[str | int]) -> int:
        return 0


def load(path: str, env: Mapping[str, str]) -> Loaded:
    """The bootstrap in the file `path` ("" = there is none), with the options in `env`. Raises ConfigError with all that is wrong."""
    with collector_off():
        return _load(path, options_in(env))


def _load(path: str, options: LaunchOptions) -> Loaded:
    problems, types = Problems(), MessageTypes()
    reader = Reader(problems, types).reading(problems, options.allow_unknown_fields)
    message, place = _empty(types), _File(path or CONFIG_YAML)
    whole: Place = place
    if path:
        whole = _read_file(path, message, reader)
    if options.config_yaml:
        over = _empty(types)
        document = documents.parse(CONFIG_YAML, options.config_yaml)
        reader.read(over, document.data, document)
        # As protobuf merges: lists grow, what is one thing is replaced. Both are then told at the file's lines, where it has them.
        message.MergeFrom(over)
        whole = whole if path else document
    if options.node_id:
        message.node.id = options.node_id
    if options.cluster:
        message.node.cluster = options.cluster
    if options.zone:
        message.node.locality.zone = options.zone
    snapshot = bootstrap.bootstrap(message, whole, Translation(problems, bootstrap.TABLE, types))
    if problems.refused:
        raise ConfigError(problems.errors())
    return Loaded(_with_process(snapshot, options), problems.warnings(), "envoy")


def _with_process(snapshot: Snapshot, options: LaunchOptions) -> Snapshot:
    process = snapshot.process
    if options.drain_s >= 0:
        process = msgspec.structs.replace(process, drain_timeout_s=options.drain_s)
    tags = (*snapshot.stats.tags, *(StatsTag(name=name, value=value) for name, value in options.stats_tags))
    stats = msgspec.structs.replace(snapshot.stats, tags=tags)
    return msgspec.structs.replace(snapshot, process=process, stats=stats, log_level=options.log_level)


def _empty(types: MessageTypes) -> Any:
    found = types.find("envoy.config.bootstrap.v3.Bootstrap")
    assert found is not None, "xds-protos has no Bootstrap"
    return found()


def _read_file(path: str, message: Any, reader: Reader) -> Place:
    """By the name's ending, as Envoy does: `.pb` is bytes, `.pb_text` is protobuf's text, all else YAML or JSON."""
    ending = os.path.splitext(path)[1]
    if ending not in (".pb", ".pb_text"):
        document = documents.read(path)
        reader.read(message, document.data, document)
        return document
    try:
        with open(path, "rb") as opened:
            content = opened.read()
        message.ParseFromString(content) if ending == ".pb" else text_format.Parse(content, message)
    except OSError as error:
        raise ConfigError([Problem(f"cannot read the file: {error.strerror}. Check the path.", file=path)]) from None
    except (DecodeError, text_format.ParseError, ValueError) as error:
        raise ConfigError([Problem(f"it is no Bootstrap: {error}. Write one, or name it .yaml or .json.", file=path)]) from None
    return _File(path)
