"""The shared-memory region as compiled code sees it: raw pointers for the data path, made once at worker start.

Layout (all offsets are multiples of 4096): header, slot heads, pages, rings. One memfd, sparse: what nobody touched costs nothing.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "shared.h" nogil:
    int MAX_SLOTS
    size_t PAGE_BYTES
    size_t RING_BYTES
    int LAST_EXCHANGE_BYTES
    int SLOT_GONE, SLOT_STARTING, SLOT_READY, SLOT_DRAINING
    uint32_t RECORD_LOG

    ctypedef struct NodeHead:
        int64_t slots_started    # slots beyond were never in use
        int64_t healthcheck_failed
        int64_t draining

    ctypedef struct SlotHead:
        int64_t state            # SLOT_*, written by the master (STARTING, GONE) and by the worker (READY, DRAINING)
        int64_t pid
        int64_t generation       # 1 for the slot's first worker, one more for each heir
        int64_t heartbeat_ms     # CLOCK_MONOTONIC; written by the worker at least once a second
        int64_t turn_started_ms  # 0 outside a turn of the loop
        int64_t longest_turn_us  # since the last export; the exporter zeroes it
        int64_t last_exchange_length
        char last_exchange[512]  # what the worker was doing, for the report of its death; no secrets, no query strings

    ctypedef struct Ring:
        uint64_t head            # next byte to write; only the worker writes it
        uint64_t tail            # next byte to read; only the agent writes it
        uint64_t dropped         # records that found no room

    # Records are contiguous: a record that would wrap is preceded by a filler. `ring_reserve` gives `bytes` of room for the payload or
    # NULL (and counts the drop); nothing is visible before `ring_commit`, which may give fewer bytes than reserved. No system call.
    # A reservation that is never committed is simply overwritten by the next.
    char *ring_reserve(Ring *ring, uint32_t payload_bytes) noexcept
    void ring_commit(Ring *ring, uint32_t kind, uint32_t sink, uint32_t payload_bytes) noexcept

    void histogram_record(int64_t *histogram, int64_t value) noexcept
    int histogram_bucket(int64_t value) noexcept

    # Gauge over the node: the sum of one cell over all slots' pages that were ever in use. `pages` is the first page.
    int64_t sum_cell(char *pages, int slots, int64_t cell) noexcept

    int status_cell(int status) noexcept    # offset of a status code's counter from CLUSTER_UPSTREAM_RQ_100, or -1


cdef class Region:
    cdef readonly int fd
    cdef readonly int slots            # how many slots this node may ever have
    cdef char *base
    cdef size_t size_bytes

    cdef int64_t *page(self, int slot) noexcept    # marks the slot as started
    cdef char *pages(self) noexcept
    cdef NodeHead *node(self) noexcept
    cdef SlotHead *head(self, int slot) noexcept
    cdef Ring *ring(self, int slot) noexcept

    cdef int _check(self, int slot) except -1
    cdef int _check_cells(self, int64_t first, int64_t count) except -1
    cdef int64_t _next_extent(self, int slot, int64_t cell, int64_t end, int64_t *extent_end) noexcept
    cdef void _add_cells(self, int slot, int64_t first, int64_t count, int64_t *sums) noexcept
    cdef void _zero_gauge_cells(self, int slot, int64_t first, const int64_t *gauges, int count) noexcept
