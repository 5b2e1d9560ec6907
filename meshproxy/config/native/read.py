"""Documents in native form, with those that they include, to a Snapshot."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from meshproxy.config import document as documents
from meshproxy.config.control_planes import check_control_planes
from meshproxy.config.document import Document
from meshproxy.config.environment import Substitution
from meshproxy.config.form import form_of
from meshproxy.config.native.catalog import served
from meshproxy.config.native.consul import resolved
from meshproxy.config.native.discovery import with_server
from meshproxy.config.native.listener import Entrance
from meshproxy.config.native.node import OVERLOAD, PROCESS_ROWS, TOP
from meshproxy.config.native.rows import WRONG
from meshproxy.config.problems import Path, Problems
from meshproxy.config.uniqueness import check_addresses, check_names
from meshproxy.errors import ConfigError, Problem
from meshproxy.model import AccessLog, Admin, Cluster, ConsulServer, Dynamic, Listener, Node, Process, RouteTable, Snapshot, Stats

MOST_FILES = 10_000
"""A glob that takes in more is a mistake (`/**`)."""
IGNORED_PREFIX = "x-"
"""Top-level keys for what is only there to be referred to (YAML anchors)."""
_PROCESS_FIELDS = [row.field for row in PROCESS_ROWS] + [row.field for row in OVERLOAD.rows]


def read(document: Document, env: Mapping[str, str], problems: Problems, state_directory: str = "") -> Snapshot:
    """A Snapshot, of no use when `problems` has errors. Raises ConfigError when an included file cannot be parsed or Consul cannot be asked
    for what is there; with a `state_directory` the last good copy in it will do then."""
    reading = _Reading(env, problems)
    reading.take(document, ())
    reading.take_keys(state_directory)
    return reading.snapshot(document)


class _Reading:
    """One configuration while its files are read."""

    def __init__(self, env: Mapping[str, str], problems: Problems) -> None:
        self._env = env
        self._problems = problems
        self._settings: dict[str, tuple[Any, Path]] = {}
        self._entrances: list[Entrance] = []
        self._clusters: list[tuple[Cluster, Path]] = []
        self._tables: list[tuple[RouteTable, Path]] = []
        self._taken: set[str] = set()
        self._in_consul = False
        """What is read now is a key of Consul's."""

    def take(self, document: Document, chain: tuple[str, ...]) -> None:
        """Reads a document and what it includes. `chain` has the real paths of the documents that led here."""
        data = self._expanded(document)
        real = os.path.realpath(document.file)
        self._taken.add(real)
        if isinstance(data, dict):
            data = {key: value for key, value in data.items() if not key.startswith(IGNORED_PREFIX)}
        values = TOP.read(data if data is not None else {}, document, self._problems)
        if values is WRONG:
            return
        self._entrances += values.pop("listeners", ())
        self._clusters += [(cluster, ((document, "clusters"), cluster.name)) for cluster in values.pop("clusters", ())]
        self._tables += [(table, ((document, "route_tables"), table.name)) for table in values.pop("route_tables", ())]
        values.pop("secrets", None)
        patterns = values.pop("include", ())
        if self._in_consul and patterns:
            self._problems.error((document, "include"), "a key of Consul's cannot include files. Put what it says into a key of its own.")
            patterns = ()
        for field, value in values.items():
            self._set(field, value, (document, _row_name(field)))
        for index, pattern in enumerate(patterns):
            path = ((document, "include"), index) if isinstance(data["include"], list) else (document, "include")
            self._include(document, pattern, path, (*chain, real))

    def take_keys(self, state_directory: str) -> None:
        """What is in Consul, when there is to be something: its keys are documents, one after the other."""
        consul, path = self._settings.get("consul", (None, None))
        if consul is None or consul.config is None or self._problems.refused:
            return
        from meshproxy.config.native.consul_keys import keys_of

        config, found = keys_of(consul.server, consul.config, state_directory, (path, "config"), self._problems)
        self._settings["consul"] = msgspec.structs.replace(consul, config=config), path
        self._in_consul = True
        for each in found:
            if form_of(each.data) == "envoy":
                self._problems.error(each, "this is a configuration of Envoy's. Keys hold native YAML: meshproxy config convert makes it.")
            else:
                self.take(each, ())

    def snapshot(self, document: Document) -> Snapshot:
        given = {field: value for field, (value, _) in self._settings.items()}
        listeners, tables = self._listeners(given.get("access_log", ())), [table for table, _ in self._tables]
        admin, xds = given.get("admin"), given.get("xds")
        if xds is not None and xds.cluster is not None:
            self._clusters.append((xds.cluster, self._settings["xds"][1]))
        self._check(listeners, admin, document)
        check_control_planes(
            self._problems, (cluster for cluster, _ in self._clusters), xds.dynamic if xds is not None else Dynamic(),
            given.get("node", Node()), 'Add it under "clusters": control planes are reached by clusters that need none themselves.',
            'Add "xds", with a server.',
        )
        process = {**given.pop("overload", {}), **given}
        consul = given.get("consul")
        if consul is not None:
            consul = resolved(consul, (listener for listener, _ in listeners), admin, self._settings["consul"][1], self._problems)
        return Snapshot(
            listeners=tuple(listener for listener, _ in listeners),
            route_tables=tuple(served(table, consul and consul.server) for table in tables),
            clusters=tuple(with_server(cluster, consul and consul.server) for cluster, _ in self._clusters),
            secrets=self._problems.secrets.all(),
            admin=admin,
            node=given.get("node", Node()),
            stats=Stats(**{field: given[field] for field in _STATS_FIELDS if field in given}),
            process=Process(**{field: process[field] for field in _PROCESS_FIELDS if field in process}),
            consul=consul,
            dynamic=xds.dynamic if xds is not None else Dynamic(),
            log_level=given.get("log_level", "info"),
        )

    def _listeners(self, node_logs: tuple[AccessLog, ...]) -> list[tuple[Listener, Path]]:
        """All listeners, with the node's access logs where they have none of their own; their route tables go to the others."""
        made: list[tuple[Listener, Path]] = []
        names: set[str] = set()
        for entrance in self._entrances:
            listener = entrance.listener
            # The tables of a listener that is told as a second one of its name are not told again.
            if listener.name not in names:
                self._tables += [(table, entrance.path) for table in entrance.tables if table is not None]
            names.add(listener.name)
            if node_logs:
                listener = _logged(listener, entrance.own_logs, node_logs)
            made.append((listener, entrance.path))
        return made

    def _check(self, listeners: list[tuple[Listener, Path]], admin: Admin | None, document: Document) -> None:
        problems = self._problems
        check_names("listener", ((listener.name, path) for listener, path in listeners), problems)
        check_names("cluster", ((cluster.name, path) for cluster, path in self._clusters), problems)
        check_names("route table", ((table.name, path) for table, path in self._tables), problems)
        admin_path = self._settings["admin"][1] if admin is not None else document
        check_addresses(listeners, admin, admin_path, problems)
        clusters = {cluster.name: None for cluster, _ in self._clusters}
        problems.unresolved("cluster", clusters, 'Add it under "clusters" or correct the name.')
        tables = {table.name: None for table, _ in self._tables}
        problems.secrets.unresolved('Add it under "secrets" or correct the name.')
        problems.unresolved("route table", tables, 'Add it under "route_tables" or correct the name.')

    def _expanded(self, document: Document) -> Any:
        if "${" not in document.text:
            return document.data
        substitute = Substitution(self._env)
        found: list[Problem] = []
        data = document.expanded(substitute, found)
        if found:
            raise ConfigError(found)
        for reference, message in substitute.missing.items():
            self._problems.error(_At(document, document.line_with(reference)), message)
        return data

    def _set(self, field: str, value: Any, path: Path) -> None:
        if field == "consul" and self._in_consul and value.server == ConsulServer() and not self._settings[field][0].services:
            # A key may say what is registered, not where Consul is.
            self._settings[field] = msgspec.structs.replace(self._settings[field][0], services=value.services), path
        elif field in self._settings:
            other = self._settings[field][1][0].file
            self._problems.error(path, f'"{_row_name(field)}" is set in {other} too. Keep one.')
        self._settings.setdefault(field, (value, path))

    def _include(self, document: Document, pattern: str, path: Path, chain: tuple[str, ...]) -> None:
        base = os.path.dirname(document.file)
        found = sorted(glob.glob(os.path.join(base, pattern), recursive=True))
        if not found and not glob.has_magic(pattern):
            file = os.path.join(base, pattern)
            self._problems.error(path, f'included file "{file}" is not there. Correct the path, or write a pattern with "*".')
        for file in found:
            real = os.path.realpath(file)
            if real in chain:
                self._problems.error(path, f'"{file}" is included by itself ({" -> ".join([*chain, real])}). Remove this include.')
            elif len(self._taken) >= MOST_FILES:
                self._problems.error(path, f'more than {MOST_FILES} files are included. Use a narrower pattern than "{pattern}".')
                return
            elif real in self._taken:
                self._problems.error(path, f'"{file}" is included twice. Narrow the patterns so that each file is taken once.')
            elif os.path.isfile(file):
                self.take(documents.read(file), chain)


def _logged(listener: Listener, own_logs: tuple[bool, ...], node_logs: tuple[AccessLog, ...]) -> Listener:
    """With the node's access logs in the chains that have none of their own."""
    chains = [
        chain if own else msgspec.structs.replace(chain, terminal=msgspec.structs.replace(chain.terminal, access_logs=node_logs))
        for chain, own in zip(listener.all_chains, own_logs, strict=True)
    ]
    default = chains.pop() if listener.default_chain is not None else None
    return msgspec.structs.replace(listener, chains=tuple(chains), default_chain=default)


_STATS_FIELDS = ("sinks", "tags", "flush_interval_s", "histogram_buckets_ms")
_NAMES = {row.field: row.name for row in TOP.rows}


def _row_name(field: str) -> str:
    return _NAMES[field]


class _At:
    """A line of a document, where no field's path is known."""

    def __init__(self, document: Document, line: int) -> None:
        self.file = document.file
        self._line = line

    def line_of(self, keys: list[str | int]) -> int:
        return self._line
