"""Who may do what, in native YAML: conditions on connections and on requests, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshproxy.config import rules
from meshproxy.config.native.headers import HEADER_CONDITION, METHOD, STRING_ROWS, Conditions, give_string, method_match, take_string
from meshproxy.config.native.kinds import Definitions, Duration, Flag, ListOf, Named, Text, Whole, Word
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.tls import Cidr
from meshproxy.config.problems import Path, Problems
from meshproxy.model import HeaderMatch, HttpRbac, NetworkRbac, Policy, RbacRules, Rule

STAT_PREFIX = Row("stat_prefix", Text(), "The name in metrics.", default=DERIVED, shown_default="the listener's name")



def named(item: Any) -> Values:
    """A filter's fields; the name in metrics only when it is not the listener's, which the listener takes out."""
    return {field: getattr(item, field) for field in item.__struct_fields__ if field != "stat_prefix" or item.stat_prefix}


_RULE_RANGES = ("destination_ip", "source_ip", "direct_remote_ip", "remote_ip")
_RULE_LISTS = {"all": "all", "one_of": "one_of"}


class _Inner:
    """A condition within a condition: found when it is read, because it is of its own kind."""

    def __init__(self, label: str, section: Callable[[], Section]) -> None:
        self.label = label
        self._section = section

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return self._section().read(value, path, problems)

    def write(self, value: Any) -> Any:
        return self._section().write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return self._section().schema(definitions)


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
    """`true` for any client over TLS, or a condition on its name (None in the model)."""

    label = f"true, or {STRING.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        return True if value is True else STRING.read(value, path, problems)

    def write(self, value: Any) -> Any:
        return True if value is True else STRING.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"const": True}, STRING.schema(definitions)]}


_RANGE = Cidr()
_ROWS = (
    Row("destination_ip", _RANGE, "The local address is in this range."),
    Row("destination_port", _Ports(), "The local port."),
    Row("server_name", STRING, "The name that the client asked for by TLS."),
    Row("source_ip", _RANGE, "The client's address, as its connection or a PROXY header tells it."),
    Row("direct_remote_ip", _RANGE, "The address of who is connected."),
    Row("remote_ip", _RANGE, "The client's address."),
    Row("authenticated", _Authenticated(), "The client speaks TLS, or has a verified certificate with this URI, DNS name or subject."),
)
_REQUEST_ROWS = (
    Row("path", STRING, "The path, without the query."),
    Row("methods", ListOf(METHOD, least=1), "HTTP methods."),
    Row("headers", Conditions(HEADER_CONDITION, rules.header_name, lambda item, name: msgspec.structs.replace(item, name=name.lower())),
        "Conditions on headers, all to be met."),
)


def _condition(name: str, rows: tuple[Row, ...], help: str) -> Section:
    """A section whose conditions may stand in each other."""
    inner = _Inner(f"[{name.replace('_', ' ')}](#{name})", lambda: made)
    made = Section(
        name,
        (
            Row("any", Flag(), "Always met."),
            Row("all", ListOf(inner, least=1, single=False), "All of these."),
            Row("one_of", ListOf(inner, least=1, single=False), "One of these."),
            Row("not", inner, "Not this."),
            *rows,
        ),
        help=help,
        make=lambda values, path, problems: _make_rule(values, path, problems),
        split=lambda rule: _split_rule(rule),
        short=lambda value: {"any": True} if value == "any" else None,
        shorten=lambda written: "any" if "any" in written else written,
        short_schemas=({"const": "any"},),
        short_label="any",
        title=name.replace("_", " "),
    )
    return made


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
    if kind in ("headers", "methods"):
        headers = value if kind == "headers" else (HeaderMatch(name=":method", string=method_match(value)),)
        made = tuple(Rule(kind="header", header=header) for header in headers)
        if not made:
            problems.error((path, kind), "there is no condition in it. Add one, or write any.")
            return WRONG
        return made[0] if len(made) == 1 else Rule(kind="all", rules=made)
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
    if rule.kind == "header":
        return {"headers": (rule.header,)}
    return {rule.kind: True if rule.match is None else rule.match}


def _rules_of(prefix: str, condition: Section, title: str) -> tuple[Section, Section]:
    """The sections of one policy, and of rules."""
    listed = ListOf(condition, least=1)
    policy = Section(
        f"{prefix}policy",
        (
            Row("may", listed, "What: one of these is enough.", "permissions", default=(Rule(kind="any"),), shown_default="any"),
            Row("who", listed, "Who: one of these is enough.", "principals", default=(Rule(kind="any"),), shown_default="any"),
        ),
        help="Who may do what.",
        make=lambda values, path, problems: values,
        split=lambda policy: {"permissions": policy.permissions, "principals": policy.principals},
        title=f"{prefix.replace('_', ' ')}policy",
    )
    policies = Named(
        policy, "policy",
        lambda values, name: Policy(name=name, **{"permissions": (Rule(kind="any"),), "principals": (Rule(kind="any"),), **values}),
    )
    made = Section(
        f"{prefix}rbac_rules",
        (
            Row("action", Word("allow", "deny", "log"),
                "`allow`: who matches a policy passes; `deny`: who matches one does not; `log`: everybody passes.", default="allow"),
            Row("policies", policies, "By name.", default=(), shown_default="none"),
        ),
        RbacRules,
        help="Policies and what they mean.",
        title=title,
    )
    return policy, made


def _shared_rows(kind: Section) -> tuple[Row, ...]:
    return (
        Row("rules", kind, "What is done.", default=None, shown_default="none"),
        Row("shadow", kind, "What would be done: only counted.", default=None, shown_default="none"),
        Row("shadow_stat_prefix", Text(), "A part of the names of the shadow's metrics.", default=""),
    )


RULE = _condition("rule", _ROWS, "A condition on a connection: `any`, or one of these.")
POLICY, RULES = _rules_of("", RULE, "rules")
RBAC = Section(
    "rbac",
    (
        *_shared_rows(RULES),
        Row("delay_deny", Duration(zero="at once"), "Wait before who may not is closed.", "delay_deny_s", default=0.0),
        STAT_PREFIX,
    ),
    NetworkRbac,
    help="Who may connect, by address, port, name and certificate.",
    make=lambda values, path, problems: NetworkRbac(**{"stat_prefix": "", **values}),
    split=named,
)
HTTP_RULE = _condition("http_rule", (*_REQUEST_ROWS, *_ROWS), "A condition on a request: `any`, or one of these.")
HTTP_POLICY, HTTP_RULES = _rules_of("http_", HTTP_RULE, "HTTP rules")
HTTP_RBAC = Section(
    "http_rbac",
    (
        *_shared_rows(HTTP_RULES),
        Row("stat_prefix", Text(), "A part of the metrics' names, when there are several.", default=""),
    ),
    HttpRbac,
    help="Which requests may pass, by path, method, headers, address and certificate. The others get 403.",
    title="HTTP rbac",
)
