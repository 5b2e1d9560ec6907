"""A cluster's live state in one worker: its hosts, whose turn it is, and what the breakers still allow. Decides; does no I/O."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

# Breaker shares, in the order of the cells `circuit_breakers.<priority>.*_held`.
cdef enum:
    SHARE_CONNECTIONS = 0
    SHARE_PENDING = 1
    SHARE_REQUESTS = 2
    SHARE_RETRIES = 3
    SHARES = 4

cdef enum:
    BALANCE_ROUND_ROBIN = 0
    BALANCE_LEAST_REQUEST = 1
    BALANCE_RANDOM = 2

cdef class Host:
    """One endpoint. It outlives a change of its cluster as long as its address stays; `pool` is the workers' connection pool."""
    cdef object __weakref__
    cdef readonly str address
    cdef readonly bytes address_bytes    # as in logs: "10.0.0.1:80"
    cdef readonly bytes hostname
    cdef readonly object model           # the model's Address
    cdef readonly uint32_t weight
    cdef readonly bint healthy
    cdef readonly bint removed           # no longer in its cluster: connections close after their request
    cdef readonly int64_t active         # requests of this worker
    cdef int64_t *cells                  # its HOST block
    cdef double current_weight           # smooth weighted round robin
    cdef public object pool

cdef class Cluster:
    cdef object __weakref__
    cdef readonly str name
    cdef readonly bytes name_bytes
    cdef readonly object model           # model.Cluster
    cdef readonly list hosts
    cdef readonly list eligible          # the healthy ones, or all in panic
    cdef readonly bint in_panic
    cdef readonly bint weighted
    cdef readonly bint gone              # removed by configuration
    cdef int balance, choices
    cdef uint64_t next_host
    cdef int64_t *cells                  # our CLUSTER block
    cdef char *pages                     # all workers' pages, for the sums
    cdef int64_t first_cell
    cdef int slots, own_slot
    cdef int64_t limits[2][SHARES]
    cdef double budget_percent[2]        # < 0 = no retry budget
    cdef int64_t budget_min[2]
    cdef int64_t others[2][SHARES]       # what the other workers held at `others_turn`
    cdef int64_t others_turn
    cdef int64_t connect_timeout_ms, idle_timeout_ms, max_duration_ms
    cdef int64_t max_requests_per_connection
    cdef bint tcp_keepalive
    cdef size_t buffer_limit
    cdef uint32_t max_response_headers

    # A host for a request; None when there is none. `avoid` is a list of hosts already tried or None, `attempts` how often to pick again.
    cdef Host pick(self, uint64_t random, list avoid, int attempts)
    # Count one against a breaker if it is not open. `turn` is the loop's turn: others' shares are read once in each.
    cdef bint take_share(self, int priority, int share, int64_t turn) noexcept
    cdef void add_share(self, int priority, int share) noexcept
    cdef void give_share(self, int priority, int share) noexcept
    cdef bint take_retry(self, int priority, int64_t turn) noexcept
    cdef int64_t held(self, int priority, int share, int64_t turn) noexcept
    cdef Host pick_once(self, uint64_t random)
    cdef Host pick_least(self, uint64_t random, uint64_t count)
    cdef Host pick_weighted(self, uint64_t random)
    cdef int64_t *own(self, int priority, int share) noexcept
