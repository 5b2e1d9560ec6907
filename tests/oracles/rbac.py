"""Who may connect, written as plainly as possible: text in, text compared."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from meshproxy.model import RbacRules, Rule
from tests.oracles.router import text_matches


@dataclass(frozen=True)
class Peer:
    """A certificate."""

    verified: bool = True
    uri_sans: tuple[str, ...] = ()
    dns_sans: tuple[str, ...] = ()
    subject: str = ""


@dataclass(frozen=True)
class Connection:
    """Addresses are "ip:port", "[ip]:port", or "" for a UNIX socket."""

    remote: str = ""
    direct_remote: str = ""
    local: str = ""
    sni: str = ""
    peer: Peer | None = None


def in_range(address: str, cidr: str) -> bool:
    if not address:
        return False
    ip = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    network = ipaddress.ip_network(cidr, strict=False)
    return ip.version == network.version and ip in network


def holds(rule: Rule, connection: Connection) -> bool:
    address = {
        "destination_ip": connection.local, "source_ip": connection.remote, "remote_ip": connection.remote,
        "direct_remote_ip": connection.direct_remote,
    }.get(rule.kind)
    if address is not None:
        return in_range(address, rule.range)
    match rule.kind:
        case "any":
            return True
        case "all":
            return all(holds(part, connection) for part in rule.rules)
        case "one_of":
            return any(holds(part, connection) for part in rule.rules)
        case "not":
            return not holds(rule.rules[0], connection)
        case "destination_port":
            return bool(connection.local) and rule.ports[0] <= int(connection.local.rpartition(":")[2]) <= rule.ports[1]
        case "server_name":
            return text_matches(rule.match, connection.sni)
    peer = connection.peer
    if peer is None or rule.match is None:
        return peer is not None
    return peer.verified and any(text_matches(rule.match, name) for name in (*peer.uri_sans, *peer.dns_sans, peer.subject))


def finds(rules: RbacRules, connection: Connection) -> bool:
    """Whether a policy is about the connection."""
    return any(
        any(holds(rule, connection) for rule in policy.permissions) and any(holds(rule, connection) for rule in policy.principals)
        for policy in rules.policies
    )
