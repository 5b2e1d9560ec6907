"""A token bucket that all workers share: one cell, which many write (compare and swap); all other cells have one writer.

It lies in the first slot's page, in a block of its own (`BlockKind.TOKEN_BUCKET`), and outlives whoever takes from it. The cell is the moment,
in nanoseconds of the monotonic clock, at which the bucket would have been empty if nobody had taken since: what is in it now is the time since
then over the time that a token takes to come, at most `full_ns` of it. 0 = nobody ever took: it is full.
"""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    static inline int take_token(int64_t *empty_at_ns, int64_t now_ns, int64_t token_ns, int64_t full_ns)
    {
        int64_t seen = __atomic_load_n(empty_at_ns, __ATOMIC_RELAXED);
        for (;;) {
            int64_t from = seen == 0 || now_ns - seen > full_ns ? now_ns - full_ns : seen;
            if (now_ns - from < token_ns)
                return 0;
            if (__atomic_compare_exchange_n(empty_at_ns, &seen, from + token_ns, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
                return 1;
        }
    }
    """
    # False: there is none. `token_ns` is at least 1 and `full_ns` a multiple of it.
    bint take_token(int64_t *empty_at_ns, int64_t now_ns, int64_t token_ns, int64_t full_ns) noexcept
