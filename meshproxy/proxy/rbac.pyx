"""Rules of who may do what. A tree of conditions is walked for each connection or request that they are about."""

import ipaddress

from libc.string cimport memchr, memcpy, memset
from meshproxy.proxy.connection cimport TlsFacts
from meshproxy.proxy.request_match cimport RouteInput
from meshproxy.proxy.text_match cimport PatternSource

from meshproxy.errors import ConfigError
from meshproxy.model import RbacRules, Rule

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET, AF_INET6
    int inet_pton(int family, const char *text, void *address)

cdef enum:
    RULE_ANY = 0
    RULE_ALL
    RULE_ONE_OF
    RULE_NOT
    RULE_DESTINATION_IP
    RULE_DESTINATION_PORT
    RULE_SERVER_NAME
    RULE_SOURCE_IP
    RULE_REMOTE_IP
    RULE_DIRECT_REMOTE_IP
    RULE_AUTHENTICATED
    RULE_HEADER
    RULE_PATH

KINDS = {
    "any": RULE_ANY, "all": RULE_ALL, "one_of": RULE_ONE_OF, "not": RULE_NOT, "destination_ip": RULE_DESTINATION_IP,
    "destination_port": RULE_DESTINATION_PORT, "server_name": RULE_SERVER_NAME, "source_ip": RULE_SOURCE_IP, "remote_ip": RULE_REMOTE_IP,
    "direct_remote_ip": RULE_DIRECT_REMOTE_IP, "authenticated": RULE_AUTHENTICATED, "header": RULE_HEADER, "path": RULE_PATH,
}


SPACES = bytes.maketrans(b" \t\n\v\f\r", b"______")


def asks_for_local(rules: RbacRules | None) -> bool:
    """Whether a rule looks at the address that the client connected to."""
    return rules is not None and any(_asks_for_local(rule) for policy in rules.policies for rule in policy.permissions)


def _asks_for_local(rule: Rule) -> bool:
    return rule.kind in ("destination_ip", "destination_port") or any(map(_asks_for_local, rule.rules))


cdef class PolicyList:
    def __init__(self, model: RbacRules):
        patterns = PatternSource()
        self.action = ("allow", "deny", "log").index(model.action)
        self.policies = tuple(
            (policy.name.encode(), compiled(policy.permissions, patterns), compiled(policy.principals, patterns)) for policy in model.policies
        )
        if patterns.problems:
            raise ConfigError(patterns.problems)

    cdef bytes find(self, ConnectionInfo info, const Asking *asking):
        cdef tuple policy
        for policy in self.policies:
            if any_holds(<tuple>policy[1], info, asking) and any_holds(<tuple>policy[2], info, asking):
                return <bytes>policy[0]
        return None

    cdef bint lets_pass(self, bytes found) noexcept:
        return self.action == ACTION_LOG or (found is not None) == (self.action == ACTION_ALLOW)


cdef bytes refusal(bytes policy):
    return b"rbac_access_denied_matched_policy[" + (b"none" if policy is None else policy.translate(SPACES)) + b"]"


cdef bint any_holds(tuple conditions, ConnectionInfo info, const Asking *asking) except -1:
    cdef Condition condition
    for condition in conditions:
        if condition.holds(info, asking):
            return True
    return False


cdef tuple compiled(tuple rules, PatternSource patterns):
    return tuple([Condition(rule, patterns) for rule in rules])


cdef class Condition:
    def __init__(self, rule: Rule, PatternSource patterns):
        self.kind = KINDS[rule.kind]
        self.parts = compiled(rule.rules, patterns)
        self.first_port, self.last_port = rule.ports
        if rule.match is not None:
            self.text = patterns.text_match(rule.match, rule.kind)
        if rule.header is not None:
            self.header = Conditions()
            self.header.add_header(rule.header, patterns, rule.kind)
        if rule.range:
            self.set_range(ipaddress.ip_network(rule.range, strict=False))

    def set_range(self, network):
        """IPv4 in 16 bytes is ::ffff:a.b.c.d, as addresses of connections are."""
        cdef bytes ip = network.network_address.packed, mask = network.netmask.packed
        cdef int start = 16 - len(ip)
        memset(self.mask, 0xff, 16)
        memset(&self.network, 0, sizeof(IpPort))
        if start:
            self.network.ip[10] = self.network.ip[11] = 0xff
        memcpy(&self.network.ip[start], <const char *>ip, len(ip))
        memcpy(&self.mask[start], <const char *>mask, len(mask))
        self.network.family = network.version

    cdef bint contains(self, const IpPort *address) noexcept:
        """A range of one family has no address of the other; a UNIX peer has none."""
        cdef int at
        if address.family != self.network.family:
            return False
        for at in range(16):
            if (address.ip[at] & self.mask[at]) != self.network.ip[at]:
                return False
        return True

    cdef bint holds(self, ConnectionInfo info, const Asking *asking) except -1:
        cdef Condition part
        if self.kind == RULE_ANY:
            return True
        if self.kind == RULE_ALL:
            for part in self.parts:
                if not part.holds(info, asking):
                    return False
            return True
        if self.kind == RULE_ONE_OF:
            return any_holds(self.parts, info, asking)
        if self.kind == RULE_NOT:
            part = <Condition>self.parts[0]
            return not part.holds(info, asking)
        if self.kind == RULE_DESTINATION_IP:
            return self.contains(&info.local)
        if self.kind == RULE_DESTINATION_PORT:
            return info.local.family != 0 and self.first_port <= info.local.port <= self.last_port
        if self.kind == RULE_SOURCE_IP:
            return self.contains(&info.remote)
        if self.kind == RULE_REMOTE_IP:
            return self.contains(asking.remote)
        if self.kind == RULE_DIRECT_REMOTE_IP:
            return self.contains(&info.direct_remote)
        if self.kind == RULE_SERVER_NAME:
            return self.names(b"" if info.sni is None else info.sni)
        if self.kind == RULE_HEADER:
            return asking.request != NULL and self.header.headers_hold(asking.request, 0, 1)
        if self.kind == RULE_PATH:
            return asking.request != NULL and self.has_path(asking.request)
        return self.is_authentic(info)

    cdef bint has_path(self, const Offer *offer) except -1:
        """Without the query."""
        cdef const RouteInput *request = offer.request
        cdef const char *query = <const char *>memchr(request.path, b'?', request.path_length)
        return self.text.matches(request.path, request.path_length if query == NULL else query - request.path)

    cdef bint is_authentic(self, ConnectionInfo info) except -1:
        """The certificate's URI or DNS names or its subject match, if it was verified; without a match, any TLS will do (Envoy's rule)."""
        cdef TlsFacts facts = info.tls_facts
        if facts is None or self.text is None:
            return facts is not None
        if not facts.presented or not facts.verified:
            return False
        if not facts.loaded:
            facts.load()
        for name in [*(facts.uri_sans or ()), *(facts.dns_sans or ())]:
            if self.names(name):
                return True
        return self.names(b"" if facts.subject is None else facts.subject)

    cdef bint names(self, bytes text) except -1:
        return self.text.matches(<const char *>text, len(text))


cdef void put_ip(IpPort *out, const char *text, size_t length) noexcept:
    cdef char copy[48]
    memset(out, 0, sizeof(IpPort))
    if length >= sizeof(copy):
        return
    memcpy(copy, text, length)
    copy[length] = 0
    if inet_pton(AF_INET, copy, &out.ip[12]) == 1:
        out.ip[10] = out.ip[11] = 0xff
        out.family = 4
    elif inet_pton(AF_INET6, copy, out.ip) == 1:
        out.family = 6


# -- for tests and explanations

cdef void put_address(IpPort *out, text) except *:
    """"ip:port", "[ip]:port"; "" is a UNIX socket."""
    memset(out, 0, sizeof(IpPort))
    if not text:
        return
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    packed = address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
    memcpy(out.ip, <const char *>packed, 16)
    out.family = address.version
    out.port = int(port)


def finds_policy(rules: RbacRules, remote: str = "", direct_remote: str = "", local: str = "", sni: bytes | None = None,
                 peer: tuple | None = None) -> bool:
    """Whether a policy of `rules` is about a connection. `peer` is (verified, URI names, DNS names, subject) of a certificate; None = no
    TLS."""
    cdef ConnectionInfo info = ConnectionInfo()
    cdef TlsFacts facts
    cdef PolicyList policies = PolicyList(rules)
    cdef Asking asking
    put_address(&info.remote, remote)
    put_address(&info.direct_remote, direct_remote)
    put_address(&info.local, local)
    info.sni = sni
    if peer is not None:
        facts = info.tls_facts = TlsFacts()
        facts.presented = facts.loaded = True
        facts.verified, facts.uri_sans, facts.dns_sans, facts.subject = peer
    asking.request, asking.remote = NULL, &info.remote
    return policies.find(info, &asking) is not None
