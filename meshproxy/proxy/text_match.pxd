"""Comparing bytes with configured text: exact, prefix, suffix, contains, and RE2 patterns that must match the whole."""

from libc.stdint cimport uint32_t
from libc.string cimport memcmp
from meshproxy.proxy.hash_index cimport fold

cdef extern from "<string.h>" nogil:
    void *memmem(const void *, size_t, const void *, size_t)

cdef enum:
    TEXT_EXACT = 0
    TEXT_PREFIX
    TEXT_SUFFIX
    TEXT_CONTAINS
    TEXT_REGEX


cdef inline bint same_text(const char *a, const char *b, size_t length, bint ignore_case) noexcept nogil:
    cdef size_t i
    if not ignore_case:
        return memcmp(a, b, length) == 0
    for i in range(length):
        if fold(a[i]) != fold(b[i]):
            return False
    return True


cdef class Pattern:
    """An RE2 pattern. `low` and `high` bound what it can match, so that most texts are refused without making a Python object."""
    cdef object compiled
    cdef bytes low, high                 # None = unbounded
    cdef bint may_match(self, const char *text, size_t length) noexcept
    cdef bint matches(self, const char *text, size_t length) except -1

cdef class Substitution:
    """A pattern and what each of its matches becomes: RE2's GlobalReplace, which is Envoy's regex_rewrite."""
    cdef object compiled
    cdef list pieces                     # bytes, and numbers of groups
    cdef bytes apply(self, bytes text)

cdef class TextMatch:
    cdef int kind                        # TEXT_*
    cdef bint ignore_case
    cdef bytes value
    cdef Pattern pattern
    cdef bint matches(self, const char *text, size_t length) except -1

cdef class PatternSource:
    """Compiles each pattern of a route table once, and collects what is wrong with them."""
    cdef dict patterns
    cdef readonly list problems          # of errors.Problem
    cdef Pattern pattern(self, str text, str place)
    cdef Substitution substitution(self, tuple rewrite, str place)
    cdef TextMatch text_match(self, object model, str place)
    cdef int refuse(self, str message, str place) except -1
