"""Host names are compared without regard to case (RFC 9110 4.2.3); a star stands for at least one character, as in Envoy."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from meshproxy.proxy.hash_index cimport (
    HASH_SEED, hash_backwards, hash_step, hash_text, index_append, index_close, index_first, index_note_length, index_open,
)
from meshproxy.proxy.text_match cimport same_text


cdef uint32_t length_without_port(const char *host, uint32_t length) noexcept nogil:
    cdef uint32_t at = length
    while at > 0 and host[at - 1] != b':' and host[at - 1] != b']':
        at -= 1
    return at - 1 if at > 0 and host[at - 1] == b':' else length


cdef class HostTable:
    def __cinit__(self) -> None:
        self.catch_all = -1
        self.seen = {}
        self.texts = []

    def __dealloc__(self) -> None:
        free(self.domains)
        free(self.chain)
        index_close(&self.exact)
        index_close(&self.suffixes)
        index_close(&self.prefixes)

    cdef int open(self, int capacity) except -1:
        self.capacity = capacity
        self.domains = <Domain *>calloc(max(capacity, 1), sizeof(Domain))
        self.chain = <int32_t *>calloc(max(capacity, 1), sizeof(int32_t))
        if self.domains == NULL or self.chain == NULL:
            raise MemoryError(f"no room for {capacity} domains")
        index_open(&self.exact, capacity)
        index_open(&self.suffixes, capacity)
        index_open(&self.prefixes, capacity)
        return 0

    cdef int add(self, str domain, int virtual_host, PatternSource source, str place) except -1:
        cdef str folded = domain.lower()
        cdef bytes text = folded.strip("*").encode()
        cdef Domain *entry = &self.domains[self.count]
        if folded in self.seen:
            source.refuse(f"domain {domain!r} is already in {self.seen[folded]}: each may be in one virtual host only", place)
            return 0
        self.seen[folded] = place
        if domain == "*":
            self.catch_all = virtual_host
            return 0
        if not domain or len(text) < len(domain.encode()) - 1 or "*" in folded.strip("*"):
            source.refuse(f"domain {domain!r}: a domain is a name, or has one star at its start or its end", place)
            return 0
        self.texts.append(text)
        entry.text = <const char *>text
        entry.length = <uint32_t>len(text)
        entry.virtual_host = virtual_host
        if folded.startswith("*"):
            if index_append(&self.suffixes, self.chain, self.count, hash_backwards(entry.text, entry.length), entry.length):
                index_note_length(&self.suffixes, entry.length)
        elif folded.endswith("*"):
            if index_append(&self.prefixes, self.chain, self.count, hash_text(entry.text, entry.length), entry.length):
                index_note_length(&self.prefixes, entry.length)
        else:
            index_append(&self.exact, self.chain, self.count, hash_text(entry.text, entry.length), entry.length)
            self.exact_count += 1
        self.count += 1
        return 0

    cdef int verified(self, int32_t item, const char *text) noexcept nogil:
        """The virtual host of that domain in the chain that is `text`; -1 = none."""
        while item >= 0:
            if same_text(self.domains[item].text, text, self.domains[item].length, True):
                return self.domains[item].virtual_host
            item = self.chain[item]
        return -1

    cdef int find(self, const char *host, uint32_t length) noexcept nogil:
        cdef uint64_t hash = HASH_SEED
        cdef uint32_t at = 0, wanted
        cdef int i, found, best = -1
        if self.count == 0:
            return self.catch_all
        if self.exact_count:
            found = self.verified(index_first(&self.exact, hash_text(host, length), length), host)
            if found >= 0:
                return found
        for i in range(self.suffixes.length_count):
            wanted = self.suffixes.lengths[i]
            if wanted >= length:
                break
            while at < wanted:
                at += 1
                hash = hash_step(hash, host[length - at])
            found = self.verified(index_first(&self.suffixes, hash, wanted), host + length - wanted)
            best = found if found >= 0 else best
        if best >= 0:
            return best
        hash, at = HASH_SEED, 0
        for i in range(self.prefixes.length_count):
            wanted = self.prefixes.lengths[i]
            if wanted >= length:
                break
            while at < wanted:
                hash = hash_step(hash, host[at])
                at += 1
            found = self.verified(index_first(&self.prefixes, hash, wanted), host)
            best = found if found >= 0 else best
        return best if best >= 0 else self.catch_all
