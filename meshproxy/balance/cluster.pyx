"""Hosts of a cluster, picking one of them, and circuit breakers counted for the node.

A breaker's level is the sum of every worker's share. A worker knows its own exactly and reads the others' once in each turn of its loop,
as Envoy's workers too may overshoot for a moment; the master zeroes a dead worker's share.
"""

from meshproxy.scoreboard.cells cimport *
from meshproxy.scoreboard.region cimport MAX_SLOTS, PAGE_BYTES, Region, sum_cell

BALANCE = {"round_robin": BALANCE_ROUND_ROBIN, "least_request": BALANCE_LEAST_REQUEST, "random": BALANCE_RANDOM}

cdef enum:
    MAX_RESPONSE_HEADERS = 1024          # room of the codecs' tables


cdef inline uint64_t stirred(uint64_t x) noexcept:
    """Another number from this one (xorshift, Marsaglia 2003): enough to draw again."""
    x ^= x << 13
    x ^= x >> 7
    return (x ^ (x << 17)) + 1


cdef class Host:
    def __init__(self, address, endpoint, Region region, int slot, int64_t cell):
        self.model = address
        self.address = str(address)
        self.address_bytes = self.address.encode()
        self.cells = region.page(slot) + cell
        self.renew(endpoint)

    def renew(self, endpoint):
        """Take over what a new endpoint of the same address says."""
        self.weight = max(endpoint.weight, 1)
        self.healthy = endpoint.healthy
        self.hostname = endpoint.hostname.encode()
        self.removed = False

    def remove(self):
        self.removed = True


cdef class Cluster:
    def __init__(self, model, Region region, int slot, int64_t cell):
        self.name = model.name
        self.name_bytes = model.name.encode()
        self.hosts = []
        self.eligible = []
        self.pages = region.pages()
        self.slots = region.slots
        self.own_slot = slot
        self.cells = region.page(slot) + cell
        self.first_cell = cell
        self.others_turn = -1
        self.renew(model)

    def renew(self, model):
        """Take over changed settings; hosts are set apart (`set_hosts`)."""
        self.model = model
        self.balance = BALANCE[model.balance]
        self.choices = max(model.least_request_choices, 1)
        self.connect_timeout_ms = max(int(model.connect_timeout_s * 1000), 1)
        self.idle_timeout_ms = int(model.idle_timeout_s * 1000)
        self.max_duration_ms = int(model.max_connection_duration_s * 1000)
        self.max_requests_per_connection = model.max_requests_per_connection
        self.tcp_keepalive = model.tcp_keepalive
        self.buffer_limit = model.buffer_limit_bytes
        self.max_response_headers = min(model.max_response_headers, MAX_RESPONSE_HEADERS)
        for priority, breakers in enumerate((model.breakers, model.high_breakers)):
            limits = (breakers.max_connections, breakers.max_pending, breakers.max_requests, breakers.max_retries)
            for share, limit in enumerate(limits):
                self.limits[priority][share] = limit
            budget = breakers.retry_budget
            self.budget_percent[priority] = -1.0 if budget is None else budget.percent
            self.budget_min[priority] = 0 if budget is None else budget.min_concurrency

    def set_hosts(self, hosts):
        """Replace the hosts; those no longer there must have been `remove`d by the caller, who owns their pools."""
        self.hosts = list(hosts)
        healthy = [host for host in hosts if host.healthy]
        panic = self.model.panic_threshold_percent
        self.in_panic = bool(hosts) and len(healthy) * 100.0 < panic * len(hosts)
        self.eligible = list(hosts) if self.in_panic else healthy
        self.weighted = len({host.weight for host in hosts}) > 1
        for host in hosts:
            (<Host>host).current_weight = 0.0

    def remove(self):
        self.gone = True

    cdef Host pick(self, uint64_t random, list avoid, int attempts):
        cdef Host host = None
        if not self.eligible:
            return None
        if self.in_panic:
            self.cells[CLUSTER_LB_HEALTHY_PANIC] += 1
        while attempts >= 0:
            host = self.pick_once(random)
            if avoid is None or host not in avoid:
                return host
            random = stirred(random)
            attempts -= 1
        return host

    cdef Host pick_once(self, uint64_t random):
        cdef list eligible = self.eligible
        cdef uint64_t count = len(eligible)
        if count == 1:
            return <Host>eligible[0]
        if self.balance == BALANCE_LEAST_REQUEST:
            return self.pick_least(random, count)
        if self.weighted:
            return self.pick_weighted(random)
        if self.balance == BALANCE_RANDOM:
            return <Host>eligible[<Py_ssize_t>((random >> 32) % count)]
        self.next_host += 1
        return <Host>eligible[<Py_ssize_t>(self.next_host % count)]

    cdef Host pick_least(self, uint64_t random, uint64_t count):
        """The best of a few random ones (Mitzenmacher 2001, "The power of two choices"); weight divides the load, as in Envoy."""
        cdef Host best = None, host
        cdef int choice
        for choice in range(self.choices):
            host = <Host>self.eligible[<Py_ssize_t>((random >> 32) % count)]
            random = stirred(random)
            if best is None or (host.active + 1) * <int64_t>best.weight < (best.active + 1) * <int64_t>host.weight:
                best = host
        return best

    cdef Host pick_weighted(self, uint64_t random):
        """Smooth weighted round robin, nginx' well-known rule: raise each by its weight, take the highest, lower it by the total."""
        cdef Host best = None, host
        cdef double total = 0.0
        cdef uint64_t at
        if self.balance == BALANCE_RANDOM:
            for host in self.eligible:
                total += host.weight
            at = <uint64_t>((random >> 11) * (total / 9007199254740992.0))
            for host in self.eligible:
                if at < host.weight:
                    return host
                at -= host.weight
            return host
        for host in self.eligible:
            total += host.weight
            host.current_weight += host.weight
            if best is None or host.current_weight > best.current_weight:
                best = host
        best.current_weight -= total
        return best

    # -- breakers

    cdef int64_t *own(self, int priority, int share) noexcept:
        return &self.cells[CLUSTER_CIRCUIT_BREAKERS_DEFAULT_CX_HELD + priority * SHARES + share]

    cdef int64_t held(self, int priority, int share, int64_t turn) noexcept:
        cdef int p, s
        if self.others_turn != turn:
            self.others_turn = turn
            for p in range(2):
                for s in range(SHARES):
                    self.others[p][s] = sum_cell(
                        self.pages, self.slots, self.first_cell + CLUSTER_CIRCUIT_BREAKERS_DEFAULT_CX_HELD + p * SHARES + s
                    ) - self.own(p, s)[0]
        return self.others[priority][share] + self.own(priority, share)[0]

    cdef bint take_share(self, int priority, int share, int64_t turn) noexcept:
        if self.held(priority, share, turn) >= self.limits[priority][share]:
            return False
        self.own(priority, share)[0] += 1
        return True

    cdef void add_share(self, int priority, int share) noexcept:
        self.own(priority, share)[0] += 1

    cdef void give_share(self, int priority, int share) noexcept:
        self.own(priority, share)[0] -= 1

    cdef bint take_retry(self, int priority, int64_t turn) noexcept:
        """Envoy's rule: with a budget, retries may be that share of the active and pending requests, or its minimum."""
        cdef int64_t allowed = self.limits[priority][SHARE_RETRIES]
        cdef double budget
        if self.budget_percent[priority] >= 0:
            budget = self.budget_percent[priority] / 100.0 * (
                self.held(priority, SHARE_REQUESTS, turn) + self.held(priority, SHARE_PENDING, turn)
            )
            allowed = max(<int64_t>budget, self.budget_min[priority])
        if self.held(priority, SHARE_RETRIES, turn) >= allowed:
            return False
        self.own(priority, SHARE_RETRIES)[0] += 1
        return True

    # -- for tests and explanations

    def choose(self, random, avoid=None, attempts=0):
        """What `pick` says: a Host, or None."""
        return self.pick(random, avoid, attempts)

    def take(self, int priority, int share, turn):
        """What `take_share` says."""
        return self.take_share(priority, share, turn)

    def give(self, int priority, int share):
        """Give one share back."""
        self.give_share(priority, share)

    def take_for_retry(self, int priority, turn):
        """What `take_retry` says."""
        return self.take_retry(priority, turn)
