"""What connections have to pass, and the relay that serves them instead of HTTP, in native YAML."""

from __future__ import annotations

from typing import Any

from meshproxy.config.native.kinds import Definitions, Duration, Flag, Text, Whole
from meshproxy.config.native.listener_filter import one_key, shorten_word
from meshproxy.config.native.rbac import RBAC, STAT_PREFIX, named
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import ConnectionLimit, LocalRateLimit, NetworkRbac, SniCluster, TcpCluster, TcpProxy

CONNECTION_LIMIT = Section(
    "connection_limit",
    (
        Row("max_connections", Whole(1, 2**63 - 1), "Connections of the node on this chain; more are closed.", required=True),
        Row("delay", Duration(zero="at once"), "Wait before they are closed.", "delay_s"),
        STAT_PREFIX,
    ),
    ConnectionLimit,
    help="Bounds connections: a number, or a mapping.",
    make=lambda values, path, problems: ConnectionLimit(**{"stat_prefix": "", **values}),
    split=named,
    short=lambda value: {"max_connections": value} if type(value) is int else None,
    shorten=lambda written: written["max_connections"] if written.keys() == {"max_connections"} else written,
    short_schemas=({"type": "integer"},),
    short_label="a number",
    title="connection_limit",
)
LOCAL_RATE_LIMIT = Section(
    "local_rate_limit",
    (
        Row("max_tokens", Whole(1), "New connections at once.", required=True),
        Row("tokens_per_fill", Whole(1), "New connections in each interval."),
        Row("fill_interval", Duration(zero="", least_s=0.05), "The interval.", "fill_interval_s"),
        Row("share_key", Text(), "Filters with one key share one bucket.", shown_default="none"),
        STAT_PREFIX,
    ),
    LocalRateLimit,
    help="Bounds the rate of new connections, for all workers together.",
    make=lambda values, path, problems: LocalRateLimit(**{"stat_prefix": "", **values}),
    split=named,
    title="local_rate_limit",
)
_CONNECTION_FILTERS: dict[str, type] = {
    "connection_limit": ConnectionLimit, "local_rate_limit": LocalRateLimit, "rbac": NetworkRbac, "sni_cluster": SniCluster,
}


def _make_connection_filter(values: Values, path: Path, problems: Problems) -> Any:
    if len(values) != 1:
        problems.error(path, f"connection filter: give one of {', '.join(_CONNECTION_FILTERS)}.")
        return WRONG
    (_, made), = values.items()
    return SniCluster() if isinstance(made, bool) else made


CONNECTION_FILTER = Section(
    "connection_filter",
    (
        Row("connection_limit", CONNECTION_LIMIT, "Bounds connections."),
        Row("local_rate_limit", LOCAL_RATE_LIMIT, "Bounds the rate of new connections."),
        Row("rbac", RBAC, "Says who may connect."),
        Row("sni_cluster", Flag(), "The name that the client asks for by TLS names the cluster of `tcp`."),
    ),
    help="What a connection has to pass: `sni_cluster`, or a mapping of one name to its settings.",
    make=_make_connection_filter,
    split=one_key(_CONNECTION_FILTERS),
    short=lambda value: {value: True} if value == "sni_cluster" else None,
    shorten=lambda written: shorten_word(written) if "sni_cluster" in written else written,
    short_schemas=({"const": "sni_cluster"},),
    short_label="sni_cluster",
    title="connection filter",
)

# -- the relay


class TcpTargets:
    """A cluster's name, or `{cluster: weight}`; a list of pairs where a cluster is there twice."""

    label = "cluster, or clusters with weights"
    _weights = Whole(1)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and value:
            problems.refer("cluster", value, path)
            return (TcpCluster(name=value),)
        if type(value) is list:
            made = [self.read(item, (path, index), problems) for index, item in enumerate(value)]
            return WRONG if not made or WRONG in made else tuple(target for targets in made for target in targets)
        if type(value) is not dict or not value:
            problems.error(path, f"{told(value)} is no cluster. Write a cluster's name, or names with weights below.")
            return WRONG
        weights = {name: self._weights.read(weight, (path, name), problems) for name, weight in value.items()}
        for name in weights:
            problems.refer("cluster", name, (path, name))
        return WRONG if WRONG in weights.values() else tuple(TcpCluster(name=name, weight=weight) for name, weight in weights.items())

    def write(self, value: tuple[TcpCluster, ...]) -> Any:
        if len(value) == 1 and value[0].weight == 1:
            return value[0].name
        weights = {target.name: target.weight for target in value}
        return weights if len(weights) == len(value) else [{target.name: target.weight} for target in value]

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        weights = {"type": "object", "additionalProperties": self._weights.schema(definitions), "minProperties": 1}
        return {"anyOf": [{"type": "string", "minLength": 1}, weights, {"type": "array", "items": weights}]}


TCP = Section(
    "tcp",
    (
        Row("cluster", TcpTargets(), "Where the bytes go.", "clusters", required=True),
        STAT_PREFIX._replace(help="The name in metrics (`tcp.<name>.`)."),
        Row("idle_timeout", Duration(), "A connection on which nothing moves is closed.", "idle_timeout_s"),
        Row("max_connect_attempts", Whole(1), "How many endpoints are tried."),
        Row("max_connection_duration", Duration(), "Then the connection is closed.", "max_connection_duration_s"),
        Row("log_on_connected", Flag(), "Write the access log when the connection is made too.", "flush_access_log_on_connected"),
        Row("log_interval", Duration(), "Write the access log each time so long has passed too.", "access_log_flush_interval_s"),
    ),
    TcpProxy,
    help="Relays bytes to a cluster: its name, or a mapping.",
    make=lambda values, path, problems: values,
    split=lambda values: values,
    short=lambda value: {"cluster": value} if isinstance(value, str) else None,
    shorten=lambda written: written["cluster"] if written.keys() == {"cluster"} and isinstance(written["cluster"], str) else written,
    short_schemas=({"type": "string"},),
    short_label="a cluster",
)
