"""Header lines that were added on the way: "name: value\\r\\n" one after the other, ready to be sent or searched."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *, const char *, size_t)

ctypedef struct Lines:
    char *at
    uint32_t length
    uint32_t capacity


cdef inline void lines_reserve(Lines *lines, size_t more) except *:
    cdef size_t need = lines.length + more
    cdef char *grown
    if need > lines.capacity:
        need = need * 2 if need > 512 else 512
        grown = <char *>realloc(lines.at, need)
        if grown == NULL:
            raise MemoryError(f"no room for {need} bytes of headers")
        lines.at = grown
        lines.capacity = need


cdef inline void lines_add(Lines *lines, const char *name, size_t name_length, const char *value, size_t value_length) except *:
    cdef char *out
    lines_reserve(lines, name_length + value_length + 4)
    out = lines.at + lines.length
    memcpy(out, name, name_length)
    out += name_length
    out[0] = b':'
    out[1] = b' '
    if value_length:
        memcpy(out + 2, value, value_length)
    out += 2 + value_length
    out[0] = b'\r'
    out[1] = b'\n'
    lines.length += name_length + value_length + 4


cdef inline void lines_raw(Lines *lines, const char *text, size_t length) except *:
    """Add text that already is a line, with its end."""
    lines_reserve(lines, length)
    memcpy(lines.at + lines.length, text, length)
    lines.length += length


cdef inline char *lines_find(Lines *lines, const char *name, size_t name_length, uint32_t *value_length) noexcept nogil:
    """The value of the first line of that name, any case; NULL when there is none."""
    cdef char *line = lines.at
    cdef char *end = lines.at + lines.length
    cdef char *stop
    while line < end:
        stop = line
        while stop[0] != b'\n':
            stop += 1
        if <size_t>(stop - line) > name_length + 2 and line[name_length] == b':' and strncasecmp(line, name, name_length) == 0:
            value_length[0] = stop - line - name_length - 3
            return line + name_length + 2
        line = stop + 1
    return NULL


cdef inline int lines_remove(Lines *lines, const char *name, size_t name_length) noexcept nogil:
    """Take out every line of that name, any case; how many there were."""
    cdef uint32_t value_length
    cdef char *value = lines_find(lines, name, name_length, &value_length)
    cdef char *line
    cdef char *after
    cdef int removed = 0
    while value != NULL:
        line = value - name_length - 2
        after = value + value_length + 2
        memmove(line, after, lines.at + lines.length - after)
        lines.length -= after - line
        removed += 1
        value = lines_find(lines, name, name_length, &value_length)
    return removed
