"""Envoy's RBAC rules, of connections and of requests."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshproxy.config.envoy.address import cidr, string_match
from meshproxy.config.envoy.headers import header_match
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
        "and_rules or_rules any destination_ip destination_port destination_port_range not_rule requested_server_name "
        "header url_path"
    ),
    _RBAC + "Permission.Set": takes("rules"),
    _RBAC + "Principal": takes("and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip not_id header url_path"),
    _RBAC + "Principal.Set": takes("ids"),
    _RBAC + "Principal.Authenticated": takes("principal_name"),
    "envoy.type.matcher.v3.PathMatcher": takes("path"),
    "envoy.type.v3.Int32Range": takes("start end"),
}
_ANY = Rule(kind="any")


def rbac_rules(message: Any, path: Path, translation: Translation, requests: bool = False) -> RbacRules:
    """An RBAC message; policies are looked at by name, as Envoy does. `requests`: it is about requests, not about connections."""
    rules = _Rules(translation, requests)
    given = translation.fields(message, path)
    policies = []
    for name in sorted(given.get("policies", {})):
        place = ((path, "policies"), name)
        inner = translation.fields(given["policies"][name], place)
        permissions = [rules.rule(item, ((place, "permissions"), index)) for index, item in enumerate(inner.get("permissions", ()))]
        principals = [rules.rule(item, ((place, "principals"), index)) for index, item in enumerate(inner.get("principals", ()))]
        policies.append(Policy(name=name, permissions=tuple(permissions), principals=tuple(principals)))
    return RbacRules(action=enum_name(message, "action").lower(), policies=tuple(policies))


class _Rules(NamedTuple):
    translation: Translation
    requests: bool

    def rule(self, message: Any, path: Path) -> Rule:
        """A Permission or a Principal. `any` stands for what was refused: then nothing of this is used."""
        translation = self.translation
        given = translation.fields(message, path)
        for field, kind, listed in (("and_rules", "all", "rules"), ("or_rules", "one_of", "rules"), ("and_ids", "all", "ids"),
                                    ("or_ids", "one_of", "ids")):
            if field in given:
                place = (path, field)
                items = translation.fields(given[field], place).get(listed, ())
                return Rule(kind=kind, rules=tuple(self.rule(item, ((place, listed), index)) for index, item in enumerate(items)))
        for field in ("not_rule", "not_id"):
            if field in given:
                return Rule(kind="not", rules=(self.rule(given[field], (path, field)),))
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
        for field in ("header", "url_path"):
            if field in given:
                return self._of_request(field, given[field], (path, field))
        return _ANY

    def _of_request(self, field: str, message: Any, path: Path) -> Rule:
        if not self.requests:
            self.translation.error(path, f'"{field}" is about requests, and a connection has none yet. Use the HTTP filter.')
            return _ANY
        if field == "header":
            header = header_match(message, path, self.translation)
            return Rule(kind="header", header=header) if header is not None else _ANY
        inner = self.translation.fields(message, path)
        return Rule(kind="path", match=string_match(inner["path"], (path, "path"), self.translation)) if "path" in inner else _ANY


def _ports(message: Any, path: Path, translation: Translation) -> Rule:
    """Envoy's range ends before its end."""
    given = translation.fields(message, path)
    first, last = given.get("start", 0), given.get("end", 0) - 1
    if not 0 <= first <= last <= 65535:
        translation.error(path, f"{first} to {last + 1} (not included) is no range of ports. Use 0 to 65536.")
        return _ANY
    return Rule(kind="destination_port", ports=(first, last))
