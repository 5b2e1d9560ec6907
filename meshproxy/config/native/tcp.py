"""What happens to connections before and instead of HTTP, in native YAML: filters that look at them, the TCP relay."""

from __future__ import annotations

from typing import Any

from meshproxy.config.native.headers import STRING_ROWS, give_string, take_string
from meshproxy.config.native.kinds import Definitions, Duration, Flag, ListOf, Named, Size, Text, Whole, Word
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.tls import Cidr
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import (
    ConnectionLimit,
    HttpInspector,
    LocalRateLimit,
    NetworkRbac,
    OriginalDst,
    Policy,
    ProxyProtocol,
    RbacRules,
    Rule,
    SniCluster,
    TcpCluster,
    TcpProxy,
    TlsInspector,
)

# -- listener filters

TLVS = ListOf(Whole(0, 255))


class Tlvs:
    """Types of TLVs, or `all` (None in the model)."""

    label = f"all, or {TLVS.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return None if value == "all" else TLVS.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return "all" if value is None else TLVS.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"const": "all"}, *TLVS.schema(definitions)["anyOf"]]}


TLS_INSPECTOR = Section(
    "tls_inspector",
    (
        Row("ja3", Flag(), "Make JA3 fingerprints of clients."),
        Row("ja4", Flag(), "Make JA4 fingerprints of clients."),
        Row("initial_read", Size(256, 65536, zero="all"), "How much is looked at first.", "initial_read_bytes"),
    ),
    TlsInspector,
    help="Finds TLS, the name and the protocols asked for, without decryption.",
)
PROXY_PROTOCOL = Section(
    "proxy_protocol",
    (
        Row("allow_without_header", Flag(), "Take connections that do not begin with a header."),
        Row("versions", ListOf(Whole(1, 2), least=1), "Which are taken.", shown_default="1, 2"),
        Row("pass_tlvs", Tlvs(), "Types of TLVs that are kept for the cluster's header.", shown_default="none"),
        Row("stat_prefix", Text(), "The name in metrics (`proxy_proto.<name>.`).", shown_default="none"),
    ),
    ProxyProtocol,
    help="Takes the client's address from a PROXY header.",
    short=lambda value: {} if value is True else None,
    shorten=lambda written: written or True,
    short_schemas=({"const": True},),
    short_label="true",
    title="proxy_protocol",
)
_LISTENER_FILTERS: dict[str, Any] = {
    "tls_inspector": TlsInspector(), "http_inspector": HttpInspector(), "proxy_protocol": ProxyProtocol(), "original_dst": OriginalDst(),
}


def _make_listener_filter(values: Values, path: Path, problems: Problems) -> Any:
    if len(values) != 1:
        problems.error(path, f"listener filter: give one of {', '.join(_LISTENER_FILTERS)}.")
        return WRONG
    (word, made), = values.items()
    return _LISTENER_FILTERS[word] if isinstance(made, bool) else made


def _one_key(kinds: dict[str, Any]) -> Any:
    """Splits a thing into `{word: thing}`; one without settings is `True`."""

    def split(item: Any) -> Values:
        word = next(word for word, plain in kinds.items() if (plain if isinstance(plain, type) else type(plain)) is type(item))
        return {word: item if type(item).__struct_fields__ else True}

    return split


def _shorten_word(written: dict[str, Any]) -> Any:
    (word, value), = written.items()
    return word if value in ({}, True) else written


LISTENER_FILTER = Section(
    "listener_filter",
    (
        Row("tls_inspector", TLS_INSPECTOR, "Finds TLS and the name asked for."),
        Row("http_inspector", Flag(), "Finds plaintext HTTP/1 and HTTP/2."),
        Row("proxy_protocol", PROXY_PROTOCOL, "Takes the client's address from a PROXY header."),
        Row("original_dst", Flag(), "Takes the address that the client meant from the kernel (iptables REDIRECT, TPROXY)."),
    ),
    help="What looks at a connection before a chain is chosen: a name, or a mapping of it to settings.",
    make=_make_listener_filter,
    split=_one_key(_LISTENER_FILTERS),
    short=lambda value: {value: {} if value == "tls_inspector" else True} if value in _LISTENER_FILTERS else None,
    shorten=_shorten_word,
    short_schemas=({"enum": list(_LISTENER_FILTERS)},),
    short_label=", ".join(_LISTENER_FILTERS),
    title="listener filter",
)

# -- connection filters

_STAT_PREFIX = Row("stat_prefix", Text(), "The name in metrics.", default=DERIVED, shown_default="the listener's name")



def _named(item: Any) -> Values:
    """A filter's fields; the name in metrics only when it is not the listener's, which the listener takes out."""
    return {field: getattr(item, field) for field in item.__struct_fields__ if field != "stat_prefix" or item.stat_prefix}


CONNECTION_LIMIT = Section(
    "connection_limit",
    (
        Row("max_connections", Whole(1, 2**63 - 1), "Connections of the node on this chain; more are closed.", required=True),
        Row("delay", Duration(zero="at once"), "Wait before they are closed.", "delay_s"),
        _STAT_PREFIX,
    ),
    ConnectionLimit,
    help="Bounds connections: a number, or a mapping.",
    make=lambda values, path, problems: ConnectionLimit(**{"stat_prefix": "", **values}),
    split=_named,
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
        _STAT_PREFIX,
    ),
    LocalRateLimit,
    help="Bounds the rate of new connections, for all workers together.",
    make=lambda values, path, problems: LocalRateLimit(**{"stat_prefix": "", **values}),
    split=_named,
    title="local_rate_limit",
)
_RULE_RANGES = ("destination_ip", "source_ip", "direct_remote_ip", "remote_ip")
_RULE_LISTS = {"all": "all", "one_of": "one_of"}


class _Any:
    """The word `any`, or a rule's mapping; recursion by name."""

    label = "[rule](#rule)"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return RULE.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return RULE.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return RULE.schema(definitions)


STRING = Section(
    "string_match",
    STRING_ROWS,
    help="A condition on a text: the whole text, or a mapping.",
    make=lambda values, path, problems: _make_string(values, path, problems),
    split=give_string,
    short=lambda value: {"exact": value} if isinstance(value, str) else None,
    shorten=lambda written: written["exact"] if written.keys() == {"exact"} else written,
    short_schemas=({"type": "string"},),
    short_label="a text",
    title="condition",
)


def _make_string(values: Values, path: Path, problems: Problems) -> Any:
    match = take_string(values, path, problems)
    if match is None:
        problems.error(path, "there is no text to compare. Add exact, prefix, suffix, contains or regex.")
    return match or WRONG


class _Ports:
    """A port, or [first, last]."""

    label = "port or [first, last]"
    _list = ListOf(Whole(0, 65535), least=1)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        made = self._list.read(value, path, problems)
        if made is WRONG or not 1 <= len(made) <= 2 or made[0] > made[-1]:
            if made is not WRONG:
                problems.error(path, "give a port, or the first and the last one: [8000, 8999].")
            return WRONG
        return (made[0], made[-1])

    def write(self, value: tuple[int, int]) -> Any:
        return value[0] if value[0] == value[1] else list(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return self._list.schema(definitions)


class _Authenticated:
    """`true` for any valid certificate, or a condition on its name (None in the model)."""

    label = f"true, or {STRING.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return True if value is True else STRING.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return True if value is True else STRING.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"const": True}, STRING.schema(definitions)]}


_RANGE = Cidr()
RULE = Section(
    "rule",
    (
        Row("any", Flag(), "Always met."),
        Row("all", ListOf(_Any(), least=1, single=False), "All of these."),
        Row("one_of", ListOf(_Any(), least=1, single=False), "One of these."),
        Row("not", _Any(), "Not this."),
        Row("destination_ip", _RANGE, "The local address is in this range."),
        Row("destination_port", _Ports(), "The local port."),
        Row("server_name", STRING, "The name that the client asked for by TLS."),
        Row("source_ip", _RANGE, "The client's address, as its connection or a PROXY header tells it."),
        Row("direct_remote_ip", _RANGE, "The address of who is connected."),
        Row("remote_ip", _RANGE, "The client's address."),
        Row("authenticated", _Authenticated(), "The client has a valid certificate, with this URI or DNS name or subject."),
    ),
    help="A condition on a connection: `any`, or one of these.",
    make=lambda values, path, problems: _make_rule(values, path, problems),
    split=lambda rule: _split_rule(rule),
    short=lambda value: {"any": True} if value == "any" else None,
    shorten=lambda written: "any" if "any" in written else written,
    short_schemas=({"const": "any"},),
    short_label="any",
)


def _make_rule(values: Values, path: Path, problems: Problems) -> Any:
    if len(values) != 1:
        problems.error(path, f"rule: give one condition, and not {len(values)}. Use all: [...] for several.")
        return WRONG
    (kind, value), = values.items()
    if kind == "any":
        if not value:
            problems.error((path, kind), "false is never met. Write what is meant, with not: in front if need be.")
        return Rule(kind=kind)
    if kind in _RULE_LISTS:
        return Rule(kind=kind, rules=value)
    if kind == "not":
        return Rule(kind=kind, rules=(value,))
    if kind in _RULE_RANGES:
        return Rule(kind=kind, range=value)
    if kind == "destination_port":
        return Rule(kind=kind, ports=value)
    return Rule(kind=kind, match=None if value is True else value)


def _split_rule(rule: Rule) -> Values:
    if rule.kind == "any":
        return {"any": True}
    if rule.kind in _RULE_LISTS:
        return {rule.kind: rule.rules}
    if rule.kind == "not":
        return {"not": rule.rules[0]}
    if rule.kind in _RULE_RANGES:
        return {rule.kind: rule.range}
    if rule.kind == "destination_port":
        return {rule.kind: rule.ports}
    return {rule.kind: True if rule.match is None else rule.match}


_RULES = ListOf(_Any(), least=1)
POLICY = Section(
    "policy",
    (
        Row("may", _RULES, "What: one of these is enough.", "permissions", default=(Rule(kind="any"),), shown_default="any"),
        Row("who", _RULES, "Who: one of these is enough.", "principals", default=(Rule(kind="any"),), shown_default="any"),
    ),
    help="Who may do what.",
    make=lambda values, path, problems: values,
    split=lambda policy: {"permissions": policy.permissions, "principals": policy.principals},
)
POLICIES = Named(
    POLICY, "policy",
    lambda values, name: Policy(name=name, **{"permissions": (Rule(kind="any"),), "principals": (Rule(kind="any"),), **values}),
)
RULES = Section(
    "rbac_rules",
    (
        Row("action", Word("allow", "deny", "log"),
            "`allow`: who matches a policy passes; `deny`: who matches one does not; `log`: everybody passes.", default="allow"),
        Row("policies", POLICIES, "By name.", default=(), shown_default="none"),
    ),
    RbacRules,
    help="Policies and what they mean.",
    title="rules",
)
RBAC = Section(
    "rbac",
    (
        Row("rules", RULES, "What is done.", default=None, shown_default="none"),
        Row("shadow", RULES, "What would be done: only counted.", default=None, shown_default="none"),
        Row("shadow_stat_prefix", Text(), "The name of the shadow's metrics.", default=""),
        Row("delay_deny", Duration(zero="at once"), "Wait before who may not is closed.", "delay_deny_s", default=0.0),
        _STAT_PREFIX,
    ),
    NetworkRbac,
    help="Who may connect, by address, port, name and certificate.",
    make=lambda values, path, problems: NetworkRbac(**{"stat_prefix": "", **values}),
    split=_named,
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
    split=_one_key(_CONNECTION_FILTERS),
    short=lambda value: {value: True} if value == "sni_cluster" else None,
    shorten=lambda written: _shorten_word(written) if "sni_cluster" in written else written,
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
        _STAT_PREFIX._replace(help="The name in metrics (`tcp.<name>.`)."),
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
