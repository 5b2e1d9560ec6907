/* The shared-memory region's layout and the few operations that the data path makes on it, all inline.

   Layout, every part on a page boundary: header, slot heads, pages, rings. One writer for each cell: a page and a ring's head belong to
   the slot's worker, a ring's tail to the agent, the rest to the master. So counters need no locked instruction; what must be ordered
   uses the C11 memory orders by the compiler's own builtins, which work on plain fields that Cython can see. */

#ifndef MESHPROXY_SHARED_H
#define MESHPROXY_SHARED_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cells.h"

#define MAX_SLOTS 128                      /* cores of the largest machines that run one proxy, with room for an upgrade's drain */
#define PAGE_BYTES ((size_t)128 << 20)     /* some 16,000 clusters; sparse, so only what counts costs memory */
#define RING_BYTES ((size_t)1 << 20)       /* 4,000 log lines: the agent may be away 100 ms at 40,000 requests a second */
#define LAST_EXCHANGE_BYTES 512
#define LAYOUT_VERSION 1
#define LAYOUT_MAGIC 0x797872706873656dull /* "meshprxy" as it lies in memory */

#define HEADER_BYTES ((size_t)4096)
#define HEAD_STRIDE ((size_t)1024)
#define PAGES_AT (HEADER_BYTES + MAX_SLOTS * HEAD_STRIDE)
#define RING_STRIDE (RING_BYTES + 4096)

enum { SLOT_GONE = 0, SLOT_STARTING = 1, SLOT_READY = 2, SLOT_DRAINING = 3 };

typedef struct {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t catalogue_digest;             /* two builds with other metrics must not share pages */
    uint64_t page_bytes;
    uint64_t ring_bytes;
    int64_t slots;
    int64_t slots_started;                 /* slots beyond were never in use: nobody needs to sum them */
    int64_t healthcheck_failed;
    int64_t draining;
} NodeHead;

typedef struct {
    int64_t state;
    int64_t pid;
    int64_t generation;
    int64_t heartbeat_ms;
    int64_t turn_started_ms;
    int64_t longest_turn_us;
    int64_t last_exchange_length;
    char last_exchange[LAST_EXCHANGE_BYTES];
} SlotHead;

static inline int64_t load_acquire(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_ACQUIRE); }
static inline int64_t load_relaxed(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_RELAXED); }
static inline void store_release(int64_t *cell, int64_t value) { __atomic_store_n(cell, value, __ATOMIC_RELEASE); }
static inline void store_relaxed(int64_t *cell, int64_t value) { __atomic_store_n(cell, value, __ATOMIC_RELAXED); }
static inline int64_t exchange_relaxed(int64_t *cell, int64_t value) { return __atomic_exchange_n(cell, value, __ATOMIC_RELAXED); }

/* ---- records: a single-producer, single-consumer ring of bytes ---- */

#define RECORD_ALIGN ((uint64_t)16)        /* a header always fits before the end */
#define RECORD_LOG 1u                      /* kinds */
#define RECORD_FILLER 0xffffffffu

typedef struct {
    uint32_t bytes;                        /* of the payload */
    uint32_t kind;
    uint32_t sink;
    uint32_t reserved;
} RecordHead;

typedef struct {
    uint64_t head;                         /* the worker's line */
    uint64_t reserved_at;                  /* where the last reservation lies; means nothing to anyone else */
    uint64_t dropped;
    uint64_t tail_seen;                    /* the worker's last look at tail, so that it seldom touches the agent's line */
    char apart[128 - 4 * sizeof(uint64_t)];
    uint64_t tail;                         /* the agent's line */
    uint64_t corrupt;                      /* times the agent found bytes that cannot be records and threw all away */
} Ring;

static inline char *ring_data(Ring *ring) { return (char *)ring + 4096; }

static inline uint64_t ring_round(uint64_t bytes) { return (bytes + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1); }

/* The room between `at` and tail; 0 when the counters contradict each other (the agent repairs that). */
static inline uint64_t ring_free(Ring *ring, uint64_t at, uint64_t need)
{
    uint64_t used = at - ring->tail_seen;
    if (used > RING_BYTES || RING_BYTES - used < need) {
        ring->tail_seen = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
        used = at - ring->tail_seen;
    }
    return used > RING_BYTES ? 0 : RING_BYTES - used;
}

static inline char *ring_reserve(Ring *ring, uint32_t payload_bytes)
{
    uint64_t at = ring_round(__atomic_load_n(&ring->head, __ATOMIC_RELAXED));
    uint64_t need = sizeof(RecordHead) + ring_round(payload_bytes);
    uint64_t contiguous = RING_BYTES - (at & (RING_BYTES - 1));
    uint64_t skip = need > contiguous ? contiguous : 0;

    if (need > RING_BYTES / 2 || ring_free(ring, at, need + skip) < need + skip) {
        __atomic_store_n(&ring->dropped, ring->dropped + 1, __ATOMIC_RELAXED);
        return NULL;
    }
    if (skip) {
        RecordHead filler = {(uint32_t)(skip - sizeof(RecordHead)), RECORD_FILLER, 0, 0};
        memcpy(ring_data(ring) + (at & (RING_BYTES - 1)), &filler, sizeof filler);
        at += skip;
    }
    ring->reserved_at = at;
    return ring_data(ring) + (at & (RING_BYTES - 1)) + sizeof(RecordHead);
}

static inline void ring_commit(Ring *ring, uint32_t kind, uint32_t sink, uint32_t payload_bytes)
{
    RecordHead record = {payload_bytes, kind, sink, 0};
    memcpy(ring_data(ring) + (ring->reserved_at & (RING_BYTES - 1)), &record, sizeof record);
    /* The one store that makes the record be there: a worker killed before it leaves nothing behind. */
    __atomic_store_n(&ring->head, ring->reserved_at + sizeof record + ring_round(payload_bytes), __ATOMIC_RELEASE);
}

/* The next record between `*at` and `end`, or NULL: with `*at` == `end` there is none, else the bytes there are no record. Fillers are
   skipped. `*at` moves behind the record. */
static inline const char *ring_next(Ring *ring, uint64_t *at, uint64_t end, RecordHead *record)
{
    while (*at != end) {
        uint64_t place = *at & (RING_BYTES - 1), whole;
        if (end - *at > RING_BYTES || end - *at < sizeof *record || RING_BYTES - place < sizeof *record)
            return NULL;
        memcpy(record, ring_data(ring) + place, sizeof *record);
        whole = sizeof *record + ring_round(record->bytes);
        if (whole > end - *at || whole > RING_BYTES - place)
            return NULL;
        *at += whole;
        if (record->kind != RECORD_FILLER)
            return ring_data(ring) + place + sizeof *record;
    }
    return NULL;
}

/* ---- metrics ---- */

/* Log-linear: below HISTOGRAM_SUB_BUCKETS each value has a bucket, above each power of two has HISTOGRAM_SUB_BUCKETS. */
static inline int histogram_bucket(int64_t value)
{
    int octave, bucket;
    if (value < HISTOGRAM_SUB_BUCKETS)
        return value < 0 ? 0 : (int)value;
    octave = 63 - __builtin_clzll((uint64_t)value);
    bucket = (octave - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB_BUCKETS +
             (int)((value >> (octave - HISTOGRAM_SUB_BITS)) & (HISTOGRAM_SUB_BUCKETS - 1));
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static inline void histogram_record(int64_t *histogram, int64_t value)
{
    histogram[histogram_bucket(value)] += 1;
    histogram[HISTOGRAM_BUCKETS] += value < 0 ? 0 : value;
}

static inline int64_t sum_cell(char *pages, int slots, int64_t cell)
{
    int64_t started = load_relaxed(&((NodeHead *)(pages - PAGES_AT))->slots_started), sum = 0;
    for (int slot = 0; slot < slots && slot < started; slot++)
        sum += load_relaxed((int64_t *)(pages + (size_t)slot * PAGE_BYTES) + cell);
    return sum;
}

static inline int status_cell(int status)
{
    return status >= 100 && status < 100 + (int)(sizeof STATUS_CELLS) ? STATUS_CELLS[status - 100] : -1;
}

#endif
