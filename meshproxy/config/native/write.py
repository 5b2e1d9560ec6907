"""A Snapshot as native YAML, as short as it can be said."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import yaml

from meshproxy.config.document import stays_text
from meshproxy.config.native.listener import Entrance, is_permissive
from meshproxy.config.native.node import OVERLOAD, PROCESS_ROWS, TOP
from meshproxy.config.native.secrets import Secured, is_inline
from meshproxy.config.native.xds import Written, server_cluster
from meshproxy.discovery.catalogue import of_file
from meshproxy.model import Dynamic, FilterChain, HttpConnectionManager, Listener, RouteTable, Snapshot


def to_data(snapshot: Snapshot) -> dict[str, Any]:
    """Plain data; reading it again gives an equal snapshot."""
    managers = [
        chain.terminal for listener in snapshot.listeners for chain in _told_chains(listener)
        if isinstance(chain.terminal, HttpConnectionManager)
    ]
    uses = Counter(manager.route_table for manager in managers)
    asked = {manager.route_table for manager in managers if manager.rds is not None}
    # What is found at run time is not the file's.
    tables = {table.name: table if table.catalog is None else msgspec.structs.replace(table, virtual_hosts=of_file(table))
              for table in snapshot.route_tables}
    inline = {
        name for name, table in tables.items()
        if name not in asked and uses[name] == 1 and table == RouteTable(
            name=name, virtual_hosts=table.virtual_hosts, catalog=table.catalog, ignore_port_in_host=table.catalog is not None
        )
    }
    secrets = {secret.name: secret for secret in snapshot.secrets}
    secured = Secured(None, secrets)
    entrances = []
    for listener in snapshot.listeners:
        named = [chain.terminal.route_table if isinstance(chain.terminal, HttpConnectionManager) else "" for chain in listener.all_chains]
        written = tuple(tables[name] if name in inline else None for name in named)
        entrances.append((Entrance(listener, written, None, (True,) * len(named)), secured))
    server = server_cluster(snapshot.dynamic, snapshot.clusters)
    process, stats = snapshot.process, snapshot.stats
    overload = {row.field: getattr(process, row.field) for row in OVERLOAD.rows if getattr(process, row.field) != row.default}
    values = {
        "listeners": tuple(entrances),
        "clusters": tuple(Secured(cluster, secrets) for cluster in snapshot.clusters if cluster is not server),
        "secrets": tuple(secret for secret in snapshot.secrets if not is_inline(secret)),
        "route_tables": tuple(table for name, table in tables.items() if name not in inline),
        "node": snapshot.node,
        "log_level": snapshot.log_level,
        "overload": overload,
        **{field: getattr(stats, field) for field in stats.__struct_fields__},
        **{row.field: getattr(process, row.field) for row in PROCESS_ROWS},
    }
    if snapshot.dynamic != Dynamic():
        values["xds"] = Written(snapshot.dynamic, server, secrets)
    if snapshot.admin is not None:
        values["admin"] = snapshot.admin
    if snapshot.consul is not None:
        values["consul"] = snapshot.consul
    return TOP.write(values)


def _told_chains(listener: Listener) -> tuple[FilterChain, ...]:
    """The plaintext chain of a permissive listener is not written."""
    return listener.chains[:1] if is_permissive(listener) else listener.all_chains


def to_yaml(snapshot: Snapshot) -> str:
    return dump(to_data(snapshot))


def dump(data: Any, references: bool = True) -> str:
    """YAML in block style, in the order given. Every text that another YAML reader might take for something else is quoted.

    `references`: the reader replaces `${NAME}`, so what stands for itself is escaped.
    """
    return yaml.dump(escaped(data) if references else data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.CSafeDumper):
    """Quotes what PyYAML's own resolver (YAML 1.1) would take for another type, and with `_represent_text` what ours would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    # Lines as they are, for certificates and bodies; libyaml takes quotes all the same where that would change the text.
    style = "|" if "\n" in text.rstrip("\n") else None if stays_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def escaped(data: Any) -> Any:
    """`${` stands for itself."""
    if isinstance(data, str):
        return data.replace("${", "$${")
    if isinstance(data, (list, tuple)):
        return [escaped(item) for item in data]
    if isinstance(data, dict):
        return {key: escaped(value) for key, value in data.items()}
    return data
