"""See the .pxd. Each is made once for its chain and worker; what all workers count together is in the region."""

import ipaddress

from libc.string cimport memcpy, memset
from meshproxy.proxy.connection cimport TlsFacts
from meshproxy.proxy.text_match cimport PatternSource
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, sum_cell
from meshproxy.scoreboard.token_bucket cimport take_token

from meshproxy.errors import ConfigError
from meshproxy.model import ConnectionLimit, FilterChain, Listener, LocalRateLimit, NetworkRbac, RbacRules, Rule
from meshproxy.proxy.exchange import milliseconds
from meshproxy.scoreboard.blocks import shadow_prefix

cdef enum:
    ACTION_ALLOW = 0
    ACTION_DENY
    ACTION_LOG

cdef enum:
    RULE_ANY = 0
    RULE_ALL
    RULE_ONE_OF
    RULE_NOT
    RULE_DESTINATION_IP
    RULE_DESTINATION_PORT
    RULE_SERVER_NAME
    RULE_REMOTE_IP
    RULE_DIRECT_REMOTE_IP
    RULE_AUTHENTICATED

LONGEST_NS = 2**62
"""Of a bucket: 146 years of tokens are enough, and more would not fit its cell."""
KINDS = {
    "any": RULE_ANY, "all": RULE_ALL, "one_of": RULE_ONE_OF, "not": RULE_NOT, "destination_ip": RULE_DESTINATION_IP,
    "destination_port": RULE_DESTINATION_PORT, "server_name": RULE_SERVER_NAME, "source_ip": RULE_REMOTE_IP, "remote_ip": RULE_REMOTE_IP,
    "direct_remote_ip": RULE_DIRECT_REMOTE_IP, "authenticated": RULE_AUTHENTICATED,
}
"""Before HTTP a connection's source is the client that a PROXY header names, else the peer; and so is the remote address."""


def connection_filters(chain: FilterChain, place: int, Loop loop, Region region, int slot, blocks: dict) -> list:
    """A chain's filters, in order. `place` is its place in the listener."""
    made = []
    for at, row in enumerate(chain.filters):
        if isinstance(row, ConnectionLimit):
            made.append(ConnectionLimiter(row, region, slot, blocks[f"connection_limit:{row.stat_prefix}"]))
        elif isinstance(row, LocalRateLimit):
            made.append(RateLimiter(row, loop, region, slot, blocks[f"local_rate_limit:{row.stat_prefix}"], blocks[f"bucket:{place}:{at}"]))
        elif isinstance(row, NetworkRbac):
            made.append(AccessRules(row, region, slot, blocks))
    return made


def asks_for_local(listener: Listener) -> bool:
    """Whether a rule of one of its chains looks at the address that the client connected to."""
    rules = [rules for chain in listener.all_chains for row in chain.filters if isinstance(row, NetworkRbac) for rules in (row.rules, row.shadow)]
    return any(_asks_for_local(rule) for each in rules if each is not None for policy in each.policies for rule in policy.permissions)


def _asks_for_local(rule: Rule) -> bool:
    return rule.kind in ("destination_ip", "destination_port") or any(map(_asks_for_local, rule.rules))


# -- limits

cdef class ConnectionLimiter:
    def __init__(self, model, Region region, int slot, int64_t cell):
        self.pages = region.pages()
        self.slots = region.slots
        self.first_cell = cell
        self.cells = region.page(slot) + cell
        self.most = model.max_connections
        self.held_ms = milliseconds(model.delay_s)

    cdef bint admit(self, ConnectionInfo info, int64_t *held_ms) except *:
        if sum_cell(self.pages, self.slots, self.first_cell + CONNECTION_LIMIT_ACTIVE_CONNECTIONS) >= self.most:
            self.cells[CONNECTION_LIMIT_LIMITED_CONNECTIONS] += 1
            held_ms[0] = self.held_ms
            return False
        self.cells[CONNECTION_LIMIT_ACTIVE_CONNECTIONS] += 1
        return True

    cdef void leave(self, ConnectionInfo info) except *:
        self.cells[CONNECTION_LIMIT_ACTIVE_CONNECTIONS] -= 1


cdef class RateLimiter:
    def __init__(self, model, Loop loop, Region region, int slot, int64_t cell, int64_t bucket):
        self.loop = loop
        self.cells = region.page(slot) + cell
        self.bucket = <int64_t *>region.pages() + bucket
        self.token_ns = max(int(model.fill_interval_s * 1e9) // model.tokens_per_fill, 1)
        self.full_ns = min(model.max_tokens, LONGEST_NS // self.token_ns) * self.token_ns

    cdef bint admit(self, ConnectionInfo info, int64_t *held_ms) except *:
        if take_token(self.bucket, self.loop.now_us * 1000, self.token_ns, self.full_ns):
            return True
        self.cells[LOCAL_RATE_LIMIT_RATE_LIMITED] += 1
        return False


# -- rules

cdef class AccessRules:
    def __init__(self, model, Region region, int slot, dict blocks):
        self.rules = None if model.rules is None else PolicyList(model.rules)
        self.shadow = None if model.shadow is None else PolicyList(model.shadow)
        self.cells = region.page(slot) + <int64_t>blocks[f"rbac:{model.stat_prefix}"]
        if model.shadow is not None:
            self.shadow_cells = region.page(slot) + <int64_t>blocks[f"rbac_shadow:{shadow_prefix(model)}"]
        self.held_ms = milliseconds(model.delay_deny_s)

    cdef bint admit(self, ConnectionInfo info, int64_t *held_ms) except *:
        cdef bytes name
        cdef bint found, refused
        if self.shadow is not None:
            found = self.shadow.find(info) is not None
            refused = self.shadow.action != ACTION_LOG and found == (self.shadow.action == ACTION_DENY)
            self.shadow_cells[RBAC_SHADOW_SHADOW_DENIED if refused else RBAC_SHADOW_SHADOW_ALLOWED] += 1
        if self.rules is None:
            return True
        name = self.rules.find(info)
        found = name is not None
        if self.rules.action == ACTION_LOG:
            self.cells[RBAC_LOGGED if found else RBAC_NOT_LOGGED] += 1
        elif found == (self.rules.action == ACTION_DENY):
            self.cells[RBAC_DENIED] += 1
            info.termination = b"rbac_access_denied_matched_policy[" + (name if found else b"none") + b"]"
            held_ms[0] = self.held_ms
            return False
        self.cells[RBAC_ALLOWED] += 1
        return True


cdef class PolicyList:
    def __init__(self, model: RbacRules):
        patterns = PatternSource()
        self.action = ("allow", "deny", "log").index(model.action)
        self.policies = tuple(
            (policy.name.encode(), compiled(policy.permissions, patterns), compiled(policy.principals, patterns)) for policy in model.policies
        )
        if patterns.problems:
            raise ConfigError(patterns.problems)

    cdef bytes find(self, ConnectionInfo info):
        cdef tuple policy
        for policy in self.policies:
            if any_holds(<tuple>policy[1], info) and any_holds(<tuple>policy[2], info):
                return <bytes>policy[0]
        return None


cdef bint any_holds(tuple conditions, ConnectionInfo info) except -1:
    cdef Condition condition
    for condition in conditions:
        if condition.holds(info):
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

    cdef bint holds(self, ConnectionInfo info) except -1:
        cdef Condition part
        if self.kind == RULE_ANY:
            return True
        if self.kind == RULE_ALL:
            for part in self.parts:
                if not part.holds(info):
                    return False
            return True
        if self.kind == RULE_ONE_OF:
            return any_holds(self.parts, info)
        if self.kind == RULE_NOT:
            part = <Condition>self.parts[0]
            return not part.holds(info)
        if self.kind == RULE_DESTINATION_IP:
            return self.contains(&info.local)
        if self.kind == RULE_DESTINATION_PORT:
            return info.local.family != 0 and self.first_port <= info.local.port <= self.last_port
        if self.kind == RULE_REMOTE_IP:
            return self.contains(&info.remote)
        if self.kind == RULE_DIRECT_REMOTE_IP:
            return self.contains(&info.direct_remote)
        if self.kind == RULE_SERVER_NAME:
            return self.names(b"" if info.sni is None else info.sni)
        return self.is_authentic(info)

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
    """Whether a policy of `rules` is about a connection. `peer` is (verified, URI names, DNS names, subject) of a certificate; None = none."""
    cdef ConnectionInfo info = ConnectionInfo()
    cdef TlsFacts facts
    cdef PolicyList policies = PolicyList(rules)
    put_address(&info.remote, remote)
    put_address(&info.direct_remote, direct_remote)
    put_address(&info.local, local)
    info.sni = sni
    if peer is not None:
        facts = info.tls_facts = TlsFacts()
        facts.presented = facts.loaded = True
        facts.verified, facts.uri_sans, facts.dns_sans, facts.subject = peer
    return policies.find(info) is not None


def try_bucket(Region region, int64_t cell, int64_t token_ns, int64_t full_ns, list moments_ns) -> list:
    """Whether there was a token at each moment."""
    cdef int64_t *bucket = <int64_t *>region.pages() + cell
    cdef list taken = []
    for now_ns in moments_ns:
        taken.append(bool(take_token(bucket, now_ns, token_ns, full_ns)))
    return taken
