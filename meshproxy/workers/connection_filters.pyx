"""See the .pxd. Each is made once for its chain and worker; what all workers count together is in the region."""

from meshproxy.proxy.rbac cimport ACTION_LOG, Asking, PolicyList, refusal
from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport Region, sum_cell
from meshproxy.scoreboard.token_bucket cimport take_token

from meshproxy.model import ConnectionLimit, FilterChain, LocalRateLimit, NetworkRbac
from meshproxy.proxy.exchange import milliseconds
from meshproxy.scoreboard.blocks import shadow_prefix

LONGEST_NS = 2**62
"""Of a bucket: 146 years of tokens are enough, and more would not fit its cell."""


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
        cdef Asking asking
        cdef bytes name
        asking.request, asking.remote = NULL, &info.remote
        if self.shadow is not None:
            self.shadow_cells[
                RBAC_SHADOW_SHADOW_ALLOWED if self.shadow.lets_pass(self.shadow.find(info, &asking)) else RBAC_SHADOW_SHADOW_DENIED
            ] += 1
        if self.rules is None:
            return True
        name = self.rules.find(info, &asking)
        if self.rules.action == ACTION_LOG:
            self.cells[RBAC_LOGGED if name is not None else RBAC_NOT_LOGGED] += 1
        if not self.rules.lets_pass(name):
            self.cells[RBAC_DENIED] += 1
            info.termination = refusal(name)
            held_ms[0] = self.held_ms
            return False
        self.cells[RBAC_ALLOWED] += 1
        return True


# -- for tests

def try_bucket(Region region, int64_t cell, int64_t token_ns, int64_t full_ns, list moments_ns) -> list:
    """Whether there was a token at each moment."""
    cdef int64_t *bucket = <int64_t *>region.pages() + cell
    cdef list taken = []
    for now_ns in moments_ns:
        taken.append(bool(take_token(bucket, now_ns, token_ns, full_ns)))
    return taken
