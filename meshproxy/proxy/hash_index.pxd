"""A hash table from folded text to ascending chains of small numbers: what "the first that matches" and "the longest that matches" rest on.

Text is hashed with its ASCII letters lower-cased, one byte after the other, so the hash of every prefix comes for free on the way. A
bucket knows hash and length only; whoever follows its chain compares the text, so two texts in one bucket cost time, never a wrong answer.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

cdef enum:
    HASH_SEED = 0x1a47c35b
    EXACT_SALT = 0x5bd1e995              # keeps whole texts apart from prefixes of the same length

ctypedef struct Bucket:
    uint64_t hash
    uint32_t length
    int32_t first                        # -1 = an empty bucket
    int32_t last

ctypedef struct HashIndex:
    Bucket *buckets
    uint32_t mask
    uint32_t *lengths                    # that occur, ascending
    int length_count


cdef inline uint8_t fold(uint8_t c) noexcept nogil:
    return c + 32 if <uint8_t>(c - 65) < 26 else c


cdef inline uint64_t hash_step(uint64_t hash, uint8_t c) noexcept nogil:
    return (hash ^ fold(c)) * <uint64_t>0x9E3779B97F4A7C15


cdef inline uint64_t hash_text(const char *text, uint32_t length) noexcept nogil:
    cdef uint64_t hash = HASH_SEED
    cdef uint32_t i
    for i in range(length):
        hash = hash_step(hash, <uint8_t>text[i])
    return hash


cdef inline uint64_t hash_backwards(const char *text, uint32_t length) noexcept nogil:
    """For suffixes: from the last byte to the first."""
    cdef uint64_t hash = HASH_SEED
    cdef uint32_t i
    for i in range(length, 0, -1):
        hash = hash_step(hash, <uint8_t>text[i - 1])
    return hash


cdef inline int index_open(HashIndex *index, size_t items) except -1:
    """Room for `items` at a load of at most a half."""
    cdef size_t size = 4, i
    while size < 2 * items:
        size *= 2
    index.buckets = <Bucket *>calloc(size, sizeof(Bucket))
    if index.buckets == NULL:
        raise MemoryError(f"no room for an index of {items} items")
    index.mask = <uint32_t>(size - 1)
    for i in range(size):
        index.buckets[i].first = -1
    return 0


cdef inline void index_close(HashIndex *index) noexcept:
    free(index.buckets)
    free(index.lengths)
    index.buckets = NULL
    index.lengths = NULL
    index.length_count = 0


cdef inline Bucket *index_bucket(const HashIndex *index, uint64_t hash, uint32_t length) noexcept nogil:
    """The bucket of that text, or the empty one where it would go."""
    cdef uint32_t at = <uint32_t>((hash ^ (hash >> 32)) & index.mask)
    cdef Bucket *bucket = &index.buckets[at]
    while bucket.first >= 0 and (bucket.hash != hash or bucket.length != length):
        at = (at + 1) & index.mask
        bucket = &index.buckets[at]
    return bucket


cdef inline int32_t index_first(const HashIndex *index, uint64_t hash, uint32_t length) noexcept nogil:
    return index_bucket(index, hash, length).first


cdef inline int index_note_length(HashIndex *index, uint32_t length) except -1:
    cdef uint32_t *grown
    cdef int at = 0, i
    while at < index.length_count and index.lengths[at] < length:
        at += 1
    if at < index.length_count and index.lengths[at] == length:
        return 0
    grown = <uint32_t *>realloc(index.lengths, (index.length_count + 1) * sizeof(uint32_t))
    if grown == NULL:
        raise MemoryError("no room for an index")
    index.lengths = grown
    for i in range(index.length_count, at, -1):
        grown[i] = grown[i - 1]
    grown[at] = length
    index.length_count += 1
    return 0


cdef inline bint index_append(HashIndex *index, int32_t *chain, int32_t item, uint64_t hash, uint32_t length) noexcept:
    """Put `item`, higher than all before, at the end of its chain; `chain[i]` is what follows item i. True: the bucket is new."""
    cdef Bucket *bucket = index_bucket(index, hash, length)
    cdef bint fresh = bucket.first < 0
    chain[item] = -1
    if fresh:
        bucket.hash = hash
        bucket.length = length
        bucket.first = item
    else:
        chain[bucket.last] = item
    bucket.last = item
    return fresh
