"""Rules of who may do what: policies over connections and requests."""

from __future__ import annotations

from typing import Literal

import msgspec

from meshproxy.model.route import HeaderMatch, StringMatch


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A condition: a permission or a principal. Exactly what `kind` names is set.

    any | all (`rules`) | one_of (`rules`) | not (`rules[0]`) | destination_ip, source_ip, direct_remote_ip, remote_ip (`range`, CIDR) |
    destination_port (`ports`, [first, last]) | server_name (`match`) | authenticated (`match` on the peer's URI or DNS SAN or subject;
    None = any client over TLS) | header (`header`), path (`match`, without the query): of requests only

    `source_ip` is the address that the connection came from; for a request `remote_ip` is the client that a trusted x-forwarded-for names.
    """

    kind: Literal[
        "any", "all", "one_of", "not", "destination_ip", "destination_port", "server_name", "source_ip", "direct_remote_ip", "remote_ip",
        "authenticated", "header", "path",
    ]
    rules: tuple[Rule, ...] = ()
    range: str = ""
    ports: tuple[int, int] = (0, 0)
    match: StringMatch | None = None
    header: HeaderMatch | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Who (`principals`, one is enough) may do what (`permissions`, one is enough)."""

    name: str
    permissions: tuple[Rule, ...]
    principals: tuple[Rule, ...]


class RbacRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`allow`: who matches a policy passes; `deny`: who matches one does not; `log`: everybody passes."""

    action: Literal["allow", "deny", "log"] = "allow"
    policies: tuple[Policy, ...] = ()
