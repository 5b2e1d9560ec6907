"""Envoy's RBAC rules, as far as a connection tells them."""

from __future__ import annotations

from typing import Any

from meshproxy.config.envoy.address import cidr, string_match
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import Policy, RbacRules, Rule

_RBAC = "envoy.config.rbac.v3."

TAKES: Table = {
    _RBAC + "RBAC": takes(
        "action policies",
        later="audit_logging_options",
    ),
    _RBAC + "Policy": takes("permissions principals"),
    _RBAC + "Permission": takes(
        "and_rules or_rules any destination_ip destination_port destination_port_range not_rule requested_server_name"
    ),
    _RBAC + "Permission.Set": takes("rules"),
    _RBAC + "Principal": takes("and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip not_id"),
    _RBAC + "Principal.Set": takes("ids"),
    _RBAC + "Principal.Authenticated": takes("principal_name"),
    "envoy.type.v3.Int32Range": takes("start end"),
}
_ANY = Rule(kind="any")


def rbac_rules(message: Any, path: Path, translation: Translation) -> RbacRules:
    """An RBAC message; policies are looked at by name, as Envoy does."""
    given = translation.fields(message, path)
    policies = []
    for name in sorted(given.get("policies", {})):
        place = ((path, "policies"), name)
        inner = translation.fields(given["policies"][name], place)
        permissions = [_rule(item, ((place, "permissions"), index), translation) for index, item in enumerate(inner.get("permissions", ()))]
        principals = [_rule(item, ((place, "principals"), index), translation) for index, item in enumerate(inner.get("principals", ()))]
        policies.append(Policy(name=name, permissions=tuple(permissions), principals=tuple(principals)))
    return RbacRules(action=enum_name(message, "action").lower(), policies=tuple(policies))


def _rule(message: Any, path: Path, translation: Translation) -> Rule:
    """A Permission or a Principal. `any` stands for what was refused: then nothing of this is used."""
    given = translation.fields(message, path)
    for field, kind, listed in (("and_rules", "all", "rules"), ("or_rules", "one_of", "rules"), ("and_ids", "all", "ids"),
                                ("or_ids", "one_of", "ids")):
        if field in given:
            place = (path, field)
            items = translation.fields(given[field], place).get(listed, ())
            return Rule(kind=kind, rules=tuple(_rule(item, ((place, listed), index), translation) for index, item in enumerate(items)))
    for field in ("not_rule", "not_id"):
        if field in given:
            return Rule(kind="not", rules=(_rule(given[field], (path, field), translation),))
    for kind in ("destination_ip", "source_ip", "direct_remote_ip", "remote_ip"):
        if kind in given:
            return Rule(kind=kind, range=cidr(given[kind], (path, kind), translation))
    if "destination_port" in given:
        return Rule(kind="destination_port", ports=(given["destination_port"], given["destination_port"]))
    if "destination_port_range" in given:
        return _ports(given["destination_port_range"], (path, "destination_port_range"), translation)
    if "requested_server_name" in given:
        match = string_match(given["requested_server_name"], (path, "requested_server_name"), translation)
        return Rule(kind="server_name", match=match)
    if "authenticated" in given:
        place = (path, "authenticated")
        inner = translation.fields(given["authenticated"], place)
        match = string_match(inner["principal_name"], (place, "principal_name"), translation) if "principal_name" in inner else None
        return Rule(kind="authenticated", match=match)
    return _ANY


def _ports(message: Any, path: Path, translation: Translation) -> Rule:
    """Envoy's range ends before its end."""
    given = translation.fields(message, path)
    first, last = given.get("start", 0), given.get("end", 0) - 1
    if not 0 <= first <= last <= 65535:
        translation.error(path, f"{first} to {last + 1} (not included) is no range of ports. Use 0 to 65536.")
        return _ANY
    return Rule(kind="destination_port", ports=(first, last))
