"""What an admitted connection has passed: limits of number and rate, rules of who may connect."""

from libc.stdint cimport int64_t
from meshproxy.proxy.connection cimport ConnectionInfo
from meshproxy.proxy.rbac cimport PolicyList
from meshproxy.workers.listener cimport ConnectionFilter
from meshproxy.workers.loop cimport Loop

cdef class ConnectionLimiter(ConnectionFilter):
    cdef char *pages
    cdef int slots
    cdef int64_t first_cell
    cdef int64_t *cells                  # the CONNECTION_LIMIT block
    cdef int64_t most, held_ms

cdef class RateLimiter(ConnectionFilter):
    cdef Loop loop
    cdef int64_t *cells                  # the LOCAL_RATE_LIMIT block
    cdef int64_t *bucket                 # shared by all workers
    cdef int64_t token_ns, full_ns

cdef class AccessRules(ConnectionFilter):
    cdef PolicyList rules, shadow        # None = there are none
    cdef int64_t *cells                  # the RBAC block
    cdef int64_t *shadow_cells           # the RBAC_SHADOW block; NULL = no shadow
    cdef int64_t held_ms
