"""The top of native YAML: the node's own settings, and where listeners, routes and clusters are."""

from __future__ import annotations

import ipaddress
from typing import Any

from meshproxy.config.native.address import Place
from meshproxy.config.native.cluster import CLUSTERS
from meshproxy.config.native.consul import CONSUL
from meshproxy.config.native.kinds import Duration, Flag, Free, ListOf, Size, Text, Whole, Word
from meshproxy.config.native.listener import LISTENERS
from meshproxy.config.native.route import TABLES
from meshproxy.config.native.rows import Row, Section, Values
from meshproxy.config.native.secrets import SECRETS
from meshproxy.config.native.telemetry import ACCESS_LOGS, BUCKETS, FLUSH_INTERVAL, SINKS, STATS_TAGS
from meshproxy.config.native.xds import XDS
from meshproxy.config.problems import Path, Problems
from meshproxy.model import Admin, Node, Process, SocketAddress, Stats


def is_local(admin: Admin) -> bool:
    """Whether only this machine reaches it."""
    return not isinstance(admin.address, SocketAddress) or ipaddress.ip_address(admin.address.host).is_loopback


def _make_admin(values: Values, path: Path, problems: Problems) -> Any:
    admin = Admin(**values)
    if not is_local(admin) and not admin.allow_remote:
        problems.error(
            (path, "address"),
            f"admin: {admin.address} can be reached from other machines, and whoever reaches it can stop the node. "
            "Use 127.0.0.1 or a UNIX socket, or set allow_remote: true.",
        )
    return admin


ADMIN = Section(
    "admin",
    (
        Row("address", Place(), "Where the admin API listens.", required=True),
        Row("allow_remote", Flag(), "It may be reached from other machines."),
        Row("access_log", ACCESS_LOGS, "Logs of the requests to it.", "access_logs", shown_default="none"),
    ),
    Admin,
    help="The admin API and page: an address, or a mapping.",
    make=_make_admin,
    short=lambda value: {"address": value} if isinstance(value, str) else None,
    shorten=lambda written: written["address"] if written.keys() == {"address"} and isinstance(written["address"], str) else written,
    short_schemas=({"type": "string", "pattern": ":"},),
    short_label="an address",
)

NODE = Section(
    "node",
    (
        Row("id", Text(), "Its name.", shown_default="none"),
        Row("cluster", Text(), "The service that it belongs to.", shown_default="none"),
        Row("region", Text(), "Where it is.", shown_default="none"),
        Row("zone", Text(), "Where it is.", shown_default="none"),
        Row("sub_zone", Text(), "Where it is.", shown_default="none"),
        Row("metadata", Free(), "Anything a control plane wants to know."),
    ),
    Node,
    help="Who this proxy says it is.",
)

OVERLOAD = Section(
    "overload",
    (
        Row("max_worker_connections", Whole(1, 10_000_000), "Client connections of one worker; at it new ones are refused."),
        Row("max_worker_buffer", Size(1 << 20),
            "Bytes one worker holds for slow peers; near it reading pauses, at it new requests get 503.", "max_worker_buffer_bytes"),
    ),
    Process,
    help="What a worker holds at most.",
    make=lambda values, path, problems: values,
    split=lambda values: values,
)

_ABSOLUTE = Text("path", lambda text: "" if text.startswith("/") else f'"{text}" is not absolute. Write the whole path.')
PROCESS_ROWS = (
    Row("workers", Whole(0, 1024, {"auto": 0}), "Worker processes; auto = one per usable core.", reloadable=False),
    Row("user", Text(), "Run as this user after binding.", reloadable=False, shown_default="who started it"),
    Row("group", Text(), "Run as this group.", reloadable=False, shown_default="the user's"),
    Row("control", _ABSOLUTE, "Path of the control socket.", reloadable=False, shown_default="depends on the user"),
    Row("pid_file", _ABSOLUTE, "File with the master's pid.", reloadable=False, shown_default="none"),
    Row("drain_timeout", Duration(zero="at once"), "How long old connections may live on after a stop, a reload or an upgrade.",
        "drain_timeout_s"),
    Row("worker_hung", Duration(zero="", least_s=1.0), "A worker that gives no sign for so long is replaced.", "worker_hung_s"),
)
_PROCESS_DEFAULTS = {field: getattr(Process(), field) for field in Process.__struct_fields__}
_STATS = Stats()

TOP = Section(
    "meshproxy",
    (
        Row("listeners", LISTENERS, "Where requests come in.", default=(), shown_default="none"),
        Row("clusters", CLUSTERS, "Where requests go to, by name.", default=(), shown_default="none"),
        Row("route_tables", TABLES, "Routes for several listeners, by name.", default=(), shown_default="none"),
        Row("secrets", SECRETS, "Certificates, CAs and ticket keys under names.", default=(), shown_default="none"),
        Row("xds", XDS, "The control plane that drives the node.", default=None, shown_default="none"),
        Row("consul", CONSUL, "The Consul that clusters ask which do not name another, and what the node registers there.", default=None,
            shown_default="127.0.0.1:8500"),
        Row("access_log", ACCESS_LOGS, "Logs of all listeners that do not have their own.", default=(), shown_default="none"),
        Row("admin", ADMIN, "The admin API and page.", shown_default="no admin API"),
        Row("statsd", SINKS, "Where metrics are sent.", "sinks", default=(), shown_default="nowhere"),
        Row("stats_tags", STATS_TAGS, "Tags of metrics besides Envoy's own, in dialects that have tags.", "tags",
            default=(), shown_default="none"),
        Row("stats_flush_interval", FLUSH_INTERVAL, "How often metrics are sent.", "flush_interval_s", default=_STATS.flush_interval_s),
        Row("histogram_buckets_ms", BUCKETS, "Upper bounds of histograms in Prometheus' text, in milliseconds.",
            default=_STATS.histogram_buckets_ms, shown_default="Envoy's"),
        Row("node", NODE, "Who this proxy says it is.", default=Node()),
        Row("log_level", Word("debug", "info", "warning", "error"), "What is logged about the node itself.", default="info"),
        Row("overload", OVERLOAD, "What a worker holds at most.", default={}),
        *(row._replace(default=_PROCESS_DEFAULTS[row.field]) for row in PROCESS_ROWS),
        Row("include", ListOf(Text()), "More files, as glob patterns relative to this one.", default=(), shown_default="none"),
    ),
    help="The whole file.",
    make=lambda values, path, problems: values,
    split=lambda values: values,
    title="the configuration",
)
