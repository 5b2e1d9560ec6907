"""`catalog: "*.service.consul"`: routes to every service of Consul's catalogue, in native YAML."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from meshproxy.config import rules
from meshproxy.config.native.actions import RETRY
from meshproxy.config.native.discovery import CONSUL_SERVER
from meshproxy.config.native.kinds import Duration, ListOf, Text, Word
from meshproxy.config.native.rows import Row, Section, Values
from meshproxy.config.problems import Path, Problems
from meshproxy.model import ConsulCatalog, ConsulServer, RouteTable


def _wrong_domain(text: str) -> str:
    if text.count("{service}") + text.startswith("*.") != 1:
        return f'"{text}" does not say where the service\'s name is. Write it like "*.service.consul" or "{{service}}.mesh.example".'
    return rules.domain(re.sub(r"\{service\}|^\*", "x", text))


def _make(values: Values, path: Path, problems: Problems) -> Any:
    if "like" in values:
        problems.refer("cluster", values["like"], (path, "like"))
    domains = tuple(f"{{service}}{each[1:]}" if each.startswith("*") else each for each in values.pop("domains", ("*.service.consul",)))
    return ConsulCatalog(domains=tuple(each.lower() for each in domains), **values)


def _split(catalog: ConsulCatalog) -> Values:
    values = {field: getattr(catalog, field) for field in catalog.__struct_fields__}
    domains = (re.sub(r"^\{service\}\.", "*.", each) for each in catalog.domains)
    return {**values, "domains": tuple(domains)}


CATALOG = Section(
    "catalog",
    (
        Row("domain", ListOf(Text("domain", _wrong_domain), least=1), "Host names, with `*.` or `{service}` where the service's name is.",
            "domains", default=("*.service.consul",)),
        Row("tag", ListOf(Text()), "Tags that a service and its instances must have, all of them.", "tags", shown_default="none"),
        Row("only", ListOf(Text()), "Services to take, as patterns like `web-*`.", shown_default="all"),
        Row("exclude", ListOf(Text()), "Services to leave out, as patterns.", shown_default="only Consul itself"),
        Row("like", Text(), "The cluster whose settings those of the services have; it needs no endpoints.", shown_default="defaults"),
        Row("timeout", Duration(), "From the end of a request to the end of its response.", "timeout_s"),
        Row("retry", RETRY, "How a failed request is tried again.", shown_default="not at all"),
        Row("datacenter", Text(), "The datacenter to ask.", shown_default="the server's own"),
        Row("checks", Word("passing", "warning", "any"), "What an instance's checks may be, as in a cluster's discovery."),
        Row("consistency", Word("default", "stale", "consistent"), "Consul's consistency mode."),
        Row("keep_last", Duration(zero="not at all"), "How long services stay when the catalogue has none any more; endpoints likewise.",
            "keep_last_s"),
        Row("server", CONSUL_SERVER, "Another Consul than the node's.", shown_default="`consul` of the node"),
    ),
    ConsulCatalog,
    help="A cluster with a route for every service of Consul's catalogue, kept up to date without a reload: a domain, or a mapping.",
    make=_make,
    split=_split,
    short=lambda value: {"domain": value} if isinstance(value, (str, list)) else None,
    shorten=lambda written: written["domain"] if written.keys() == {"domain"} else written,
    short_schemas=({"type": "string"},),
    short_label="a domain",
)


def served(table: RouteTable, server: ConsulServer | None) -> RouteTable:
    """The table with the node's Consul where its catalogue names none."""
    if server is None or table.catalog is None or table.catalog.server is not None:
        return table
    return msgspec.structs.replace(table, catalog=msgspec.structs.replace(table.catalog, server=server))
