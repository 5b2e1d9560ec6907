"""First match in configured order, without looking at every route.

Many routes are kept in a hash index by their exact path or prefix. A request's path is hashed once, byte by byte, and looked up at each
length that some prefix has; patterns form a chain of their own. From every chain comes the lowest route that matches, and the lowest of
those is the answer: the same as one by one, which is how few routes are searched.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from meshproxy.proxy.hash_index cimport (
    EXACT_SALT, HASH_SEED, fold, hash_step, hash_text, index_append, index_close, index_first, index_note_length, index_open,
)
from meshproxy.proxy.text_match cimport same_text

# How many prefixes of one path are looked up before their chains are followed.
cdef enum:
    MANY = 32

PATH_KINDS = {"prefix": PATH_PREFIX, "segment_prefix": PATH_SEGMENT_PREFIX, "exact": PATH_EXACT, "regex": PATH_REGEX, "connect": PATH_CONNECT}


cdef uint32_t bare_length(const char *path, uint32_t length) noexcept nogil:
    cdef uint32_t i
    for i in range(length):
        if path[i] == b'?' or path[i] == b'#':
            return i
    return length


cdef uint64_t start_of(const char *text, size_t length, bint folded) noexcept nogil:
    """The first 8 bytes as they lie in memory."""
    cdef uint8_t bytes[8]
    cdef uint64_t word = 0
    cdef size_t i
    if length >= 8 and not folded:
        memcpy(&word, text, 8)
        return word
    for i in range(8):
        bytes[i] = 0 if i >= length else fold(text[i]) if folded else <uint8_t>text[i]
    memcpy(&word, bytes, 8)
    return word


cdef uint64_t mask_of(size_t length) noexcept nogil:
    """Ones where the first `length` bytes lie."""
    cdef uint8_t bytes[8]
    cdef uint64_t word = 0
    cdef size_t i
    for i in range(8):
        bytes[i] = 0xff if i < length else 0
    memcpy(&word, bytes, 8)
    return word


cdef PathView view_of(const char *path, uint32_t length) noexcept nogil:
    cdef PathView view
    view.path = path
    view.length = bare_length(path, length)
    view.start = start_of(path, view.length, False)
    view.folded_start = start_of(path, view.length, True)
    return view


cdef inline bint value_is_there(const RouteEntry *entry, const PathView *view) noexcept nogil:
    """Whether the path begins with the entry's value."""
    if ((view.folded_start if entry.ignore_case else view.start) & entry.start_mask) != entry.start or entry.length > view.length:
        return False
    return entry.length <= 8 or same_text(view.path, entry.value, entry.length, entry.ignore_case)


cdef class RouteList:
    def __cinit__(self) -> None:
        self.patterns = []
        self.values = []
        self.first_regex = self.last_regex = -1

    def __dealloc__(self) -> None:
        free(self.entries)
        free(self.chain)
        index_close(&self.index)

    cdef int open(self, int capacity, Conditions conditions) except -1:
        self.conditions = conditions
        self.capacity = capacity
        self.indexed = capacity >= INDEX_FROM
        self.entries = <RouteEntry *>calloc(max(capacity, 1), sizeof(RouteEntry))
        self.chain = <int32_t *>calloc(max(capacity, 1), sizeof(int32_t))
        if self.entries == NULL or self.chain == NULL:
            raise MemoryError(f"no room for {capacity} routes")
        if self.indexed:
            index_open(&self.index, capacity)
        return 0

    cdef int add(self, object route, PatternSource source, str place) except -1:
        cdef RouteEntry *entry = &self.entries[self.count]
        entry.first_header = self.conditions.header_count
        entry.header_count = len(route.headers)
        for i, header in enumerate(route.headers):
            self.conditions.add_header(header, source, f"{place}.headers[{i}]")
        entry.first_query = self.conditions.query_count
        entry.query_count = len(route.query)
        for i, query in enumerate(route.query):
            self.conditions.add_query(query, source, f"{place}.query[{i}]")
        self.add_path(entry, route.path, source, place)
        if self.indexed:
            self.put_in_index(self.count)
        self.count += 1
        return 0

    cdef int add_path(self, RouteEntry *entry, object path, PatternSource source, str place) except -1:
        cdef bytes value = path.value.encode()
        entry.kind = PATH_KINDS[path.kind]
        if entry.kind == PATH_REGEX:
            entry.regex = <int32_t>len(self.patterns)
            self.patterns.append(source.pattern(path.value, f"{place}.path"))
            return 0
        if entry.kind == PATH_CONNECT:
            return 0
        if entry.kind == PATH_SEGMENT_PREFIX and value.endswith(b"/"):
            value = value[:len(value) - 1]           # "/a/" and "/a" name the same segments
        self.values.append(value)
        entry.value = <const char *>value
        entry.length = <uint32_t>len(value)
        entry.ignore_case = not path.case_sensitive
        entry.start = start_of(entry.value, entry.length, entry.ignore_case)
        entry.start_mask = mask_of(entry.length)
        return 0

    cdef int put_in_index(self, int item) except -1:
        cdef RouteEntry *entry = &self.entries[item]
        cdef uint64_t hash
        if entry.kind == PATH_REGEX or entry.kind == PATH_CONNECT:
            self.chain[item] = -1
            if self.last_regex < 0:
                self.first_regex = item
            else:
                self.chain[self.last_regex] = item
            self.last_regex = item
            return 0
        hash = hash_text(entry.value, entry.length)
        if entry.kind == PATH_EXACT:
            self.has_exact = True
            index_append(&self.index, self.chain, item, hash ^ EXACT_SALT, entry.length)
        elif index_append(&self.index, self.chain, item, hash, entry.length):
            index_note_length(&self.index, entry.length)
        return 0

    cdef int first(self, const PathView *view, const Offer *offer) except -2:
        cdef uint64_t hash = HASH_SEED
        cdef uint32_t at = 0, length
        cdef int32_t chains[MANY]
        cdef int i, found = 0, best = self.count
        if not self.indexed:
            for i in range(self.count):
                if self.matches(&self.entries[i], view, offer):
                    return i
            return -1
        for i in range(self.index.length_count):
            length = self.index.lengths[i]
            if length > view.length:
                break
            while at < length:
                hash = hash_step(hash, <uint8_t>view.path[at])
                at += 1
            chains[found] = index_first(&self.index, hash, length)
            if chains[found] >= 0:
                found += 1
                if found == MANY:
                    best = self.best_of_chains(chains, found, best, view, offer)
                    found = 0
        if self.has_exact:
            while at < view.length:
                hash = hash_step(hash, <uint8_t>view.path[at])
                at += 1
            best = self.best_of_chain(index_first(&self.index, hash ^ EXACT_SALT, view.length), best, view, offer)
        best = self.best_of_chains(chains, found, best, view, offer)
        best = self.best_of_chain(self.first_regex, best, view, offer)
        return best if best < self.count else -1

    cdef int best_of_chains(self, const int32_t *chains, int count, int best, const PathView *view, const Offer *offer) except -2:
        """The longest prefix first: mostly it is the first that matches too, and then the others' conditions are not asked."""
        cdef int i
        for i in range(count, 0, -1):
            best = self.best_of_chain(chains[i - 1], best, view, offer)
        return best

    cdef int best_of_chain(self, int item, int best, const PathView *view, const Offer *offer) except -2:
        """The first of the chain that matches, if it is before `best`; else `best`."""
        while 0 <= item < best:
            if self.matches(&self.entries[item], view, offer):
                return item
            item = self.chain[item]
        return best

    cdef bint matches(self, const RouteEntry *entry, const PathView *view, const Offer *offer) except -1:
        if view.length == 0 or entry.kind == PATH_CONNECT:
            if view.length or entry.kind != PATH_CONNECT:
                return False             # only CONNECT has no path, and only a route for it takes it
        elif entry.kind == PATH_REGEX:
            if not (<Pattern>self.patterns[entry.regex]).may_match(view.path, view.length):
                return False
        elif not value_is_there(entry, view):
            return False
        elif entry.length != view.length:
            if entry.kind == PATH_EXACT or (entry.kind == PATH_SEGMENT_PREFIX and view.path[entry.length] != b'/'):
                return False
        if entry.header_count and not self.conditions.headers_hold(offer, entry.first_header, entry.header_count):
            return False
        if entry.query_count and not self.conditions.queries_hold(offer, entry.first_query, entry.query_count):
            return False
        # A pattern is asked last: it is the one that costs a Python object.
        return entry.kind != PATH_REGEX or (<Pattern>self.patterns[entry.regex]).matches(view.path, view.length)
