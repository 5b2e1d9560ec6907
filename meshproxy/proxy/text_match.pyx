"""Patterns come from google-re2: linear time, no backtracking, the engine whose syntax Envoy's configurations are written in."""

import re2

from meshproxy.errors import Problem

from libc.stdint cimport uint32_t

# Enough of a pattern's literal start to tell most paths apart.
cdef enum:
    RANGE_BYTES = 24

KINDS = {"exact": TEXT_EXACT, "prefix": TEXT_PREFIX, "suffix": TEXT_SUFFIX, "contains": TEXT_CONTAINS, "regex": TEXT_REGEX}


def quiet_options() -> re2.Options:
    """Errors are raised, not printed."""
    options = re2.Options()
    options.log_errors = False
    return options


cdef inline int compare(const char *text, size_t length, bytes other) noexcept:
    """As memcmp, but a shorter text comes before a longer one that it starts."""
    cdef size_t other_length = len(other)
    cdef int order = memcmp(text, <const char *>other, min(length, other_length))
    if order:
        return order
    return (length > other_length) - (length < other_length)


cdef class Pattern:
    cdef bint may_match(self, const char *text, size_t length) noexcept:
        """False: it cannot. Costs next to nothing."""
        return self.low is None or (compare(text, length, self.low) >= 0 and compare(text, length, self.high) <= 0)

    cdef bint matches(self, const char *text, size_t length) except -1:
        return self.may_match(text, length) and self.compiled.fullmatch(text[:length]) is not None


cdef class Substitution:
    cdef bytes apply(self, bytes text):
        """`text` with every match replaced. An empty match right after a match is no match, as in RE2."""
        cdef list out = []
        cdef Py_ssize_t at = 0, start, end, last_end = -1
        while at <= len(text):
            found = self.compiled.search(text, at)
            if found is None:
                break
            start, end = found.span()
            out.append(text[at:start])
            if start == end == last_end:
                out.append(text[at:at + 1])
                at += 1
                continue
            for piece in self.pieces:
                out.append(piece if isinstance(piece, bytes) else found.group(piece) or b"")
            at = last_end = end
        out.append(text[at:])
        return b"".join(out)


cdef class TextMatch:
    cdef bint matches(self, const char *text, size_t length) except -1:
        cdef size_t own = len(self.value)
        cdef const char *value = <const char *>self.value
        cdef size_t i
        if self.kind == TEXT_REGEX:
            return self.pattern.matches(text, length)
        if own > length or (self.kind == TEXT_EXACT and own != length):
            return False
        if self.kind == TEXT_SUFFIX:
            return same_text(text + length - own, value, own, self.ignore_case)
        if self.kind != TEXT_CONTAINS:
            return same_text(text, value, own, self.ignore_case)
        if not self.ignore_case:
            return memmem(text, length, value, own) != NULL
        for i in range(length - own + 1):
            if same_text(text + i, value, own, True):
                return True
        return False


cdef class PatternSource:
    def __cinit__(self) -> None:
        self.patterns = {}
        self.problems = []

    cdef int refuse(self, str message, str place) except -1:
        self.problems.append(Problem(message, path=place))
        return 0

    cdef Pattern pattern(self, str text, str place):
        """None after a refusal."""
        cdef Pattern pattern = self.patterns.get(text)
        if pattern is not None:
            return pattern
        pattern = Pattern.__new__(Pattern)
        try:
            pattern.compiled = re2.compile(text.encode(), quiet_options())
        except re2.error as why:
            reason = why.args[0] if why.args else why
            told = reason.decode() if isinstance(reason, bytes) else reason
            self.refuse(f"regular expression {text!r}: {told}. The syntax is RE2's", place)
            return None
        try:
            pattern.low, pattern.high = pattern.compiled.possiblematchrange(RANGE_BYTES)
        except re2.error:
            pattern.low = pattern.high = None    # it may match anything (".*", "(?i)...")
        self.patterns[text] = pattern
        return pattern

    cdef Substitution substitution(self, tuple rewrite, str place):
        """None after a refusal, and when there is nothing to substitute."""
        cdef Substitution made = Substitution.__new__(Substitution)
        cdef Pattern pattern
        if rewrite is None:
            return None
        pattern = self.pattern(rewrite[0], place)
        if pattern is None:
            return None
        made.compiled = pattern.compiled
        try:
            made.pieces = replacement(rewrite[1], pattern.compiled.groups)
        except ValueError as why:
            self.refuse(f"substitution {rewrite[1]!r}: {why}", place)
            return None
        return made

    cdef TextMatch text_match(self, object model, str place):
        cdef TextMatch made = TextMatch.__new__(TextMatch)
        made.kind = KINDS[model.kind]
        made.ignore_case = model.ignore_case
        made.value = model.value.encode()
        if made.kind == TEXT_REGEX:
            made.pattern = self.pattern(model.value, place)
        return made


cdef list replacement(str text, int groups):
    """The pieces of a substitution: `\\0` to `\\9` are groups, `\\\\` is a backslash. Raises ValueError."""
    cdef list pieces = []
    cdef bytes literal = b""
    cdef bytes raw = text.encode()
    cdef Py_ssize_t at = 0
    while at < len(raw):
        following = raw[at + 1:at + 2]
        if raw[at:at + 1] != b"\\":
            literal += raw[at:at + 1]
            at += 1
            continue
        if following == b"\\":
            literal += b"\\"
        elif following.isdigit():
            if int(following) > groups:
                raise ValueError(f"\\{int(following)} is asked for, but the pattern has {groups} groups")
            pieces += [literal, int(following)]
            literal = b""
        else:
            raise ValueError("after a backslash comes the number of a group or another backslash")
        at += 2
    return [piece for piece in [*pieces, literal] if piece != b""]
