"""Matching as Envoy does it since 1.39: each field of a repeated name is compared for itself, and one that matches is enough.

Some names Envoy keeps as one field whatever came: there the values are compared as the list that RFC 9110 5.3 says they are.
"""

from libc.stdint cimport INT64_MIN
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

from meshproxy.codecs.http1 cimport HEADER_CONNECTION, HEADER_OTHER, HEADER_UPGRADE, HEADER_X_ENVOY_OTHER, header_id
from meshproxy.proxy.text_match cimport same_text

# Where the value of a name is found. HTTP/2 has no Host, an absolute target overrules it (RFC 9112 3.2.2): both names mean the authority.
PSEUDO = {":method": NAME_METHOD, ":path": NAME_PATH, ":authority": NAME_AUTHORITY, "host": NAME_AUTHORITY, ":scheme": NAME_SCHEME}

# Seen at Envoy 1.40: names whose fields are joined with "," as they come in.
LISTS = frozenset("""
    accept accept-encoding access-control-request-headers access-control-request-method access-control-request-private-network
    authorization cache-control content-encoding content-type expect grpc-accept-encoding grpc-timeout if-match if-modified-since
    if-none-match if-range if-unmodified-since origin pragma referer user-agent via x-client-trace-id x-forwarded-client-cert
    x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id
    x-envoy-attempt-count x-envoy-decorator-operation x-envoy-downstream-service-cluster x-envoy-downstream-service-node
    x-envoy-expected-rq-timeout-ms x-envoy-external-address x-envoy-force-trace x-envoy-hedge-on-per-try-timeout x-envoy-internal
    x-envoy-ip-tags x-envoy-is-timeout-retry x-envoy-max-retries x-envoy-original-host x-envoy-original-path x-envoy-original-url
    x-envoy-retriable-header-names x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on
    x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response
    x-envoy-upstream-rq-timeout-ms x-envoy-upstream-stream-duration-ms
""".split())

# INT64_MIN is this times ten, less eight.
cdef int64_t LEAST_TENTH = -922337203685477580


cdef void *grown(void *array, int count, int *capacity, size_t size) except NULL:
    """Room for one more."""
    if count < capacity[0]:
        return array
    capacity[0] = max(16, 2 * capacity[0])
    array = realloc(array, capacity[0] * size)
    if array == NULL:
        raise MemoryError(f"no room for {capacity[0]} route conditions")
    return array


cdef bint is_between(const char *text, size_t length, int64_t start, int64_t end) noexcept nogil:
    """Whether text is a decimal integer, sign allowed, in [start, end)."""
    cdef bint negative = False
    cdef size_t at = 0
    cdef int64_t value = 0
    cdef int digit
    if length and text[0] in (b'-', b'+'):
        negative = text[0] == b'-'
        at = 1
    if at == length:
        return False
    while at < length:
        digit = text[at] - 48
        if digit < 0 or digit > 9:
            return False
        # Counted below zero, where the range is one longer.
        if value < LEAST_TENTH or (value == LEAST_TENTH and digit > 8):
            return False
        value = value * 10 - digit
        at += 1
    if not negative:
        if value == INT64_MIN:
            return False
        value = -value
    return start <= value < end


cdef bint is_seen(const Head *head, const HeaderField *field) noexcept nogil:
    """Fields for this connection only are gone before a route is chosen, except what asks for an upgrade: routes do look at that."""
    return not field.hop_by_hop or (head.upgrade and (field.id == HEADER_UPGRADE or field.id == HEADER_CONNECTION))


cdef inline bint has_name(const RouteInput *request, const HeaderField *field, const HeaderCondition *condition) noexcept nogil:
    return (
        field.name_length == condition.name_length and same_text(request.bytes + field.name_at, condition.name, condition.name_length, True)
        and is_seen(request.head, field)
    )


cdef class Conditions:
    def __cinit__(self) -> None:
        self.texts = []
        self.names = []

    def __dealloc__(self) -> None:
        free(self.headers)
        free(self.queries)
        free(self.list_text)

    cdef int add_text(self, object model, PatternSource source, str place) except -1:
        self.texts.append(source.text_match(model, place))
        return len(self.texts) - 1

    cdef int add_header(self, object model, PatternSource source, str place) except -1:
        cdef bytes name = model.name.lower().encode()
        cdef HeaderCondition *condition
        self.headers = <HeaderCondition *>grown(self.headers, self.header_count, &self.header_capacity, sizeof(HeaderCondition))
        condition = &self.headers[self.header_count]
        self.names.append(name)
        condition.name = <const char *>name
        condition.name_length = <uint16_t>len(name)
        condition.where = PSEUDO.get(model.name.lower(), NAME_FIELD)
        condition.id = <uint8_t>header_id(<const char *>name, len(name))
        if condition.id == HEADER_X_ENVOY_OTHER:
            condition.id = HEADER_OTHER
        condition.joined = model.name.lower() in LISTS
        condition.invert = model.invert
        condition.missing_is_empty = model.treat_missing_as_empty
        condition.kind = HEADER_PRESENT
        condition.present = True if model.present is None else model.present
        condition.text = -1
        if model.string is not None:
            condition.kind = HEADER_TEXT
            condition.text = self.add_text(model.string, source, place)
        elif model.range is not None:
            condition.kind = HEADER_RANGE
            condition.start, condition.end = model.range
        self.header_count += 1
        return 0

    cdef int add_query(self, object model, PatternSource source, str place) except -1:
        cdef bytes name = model.name.encode()
        cdef QueryCondition *condition
        self.queries = <QueryCondition *>grown(self.queries, self.query_count, &self.query_capacity, sizeof(QueryCondition))
        condition = &self.queries[self.query_count]
        self.names.append(name)
        condition.name = <const char *>name
        condition.name_length = <uint32_t>len(name)
        condition.text = -1 if model.string is None else self.add_text(model.string, source, place)
        self.query_count += 1
        return 0

    cdef bint headers_hold(self, const Offer *offer, int first, int count) except -1:
        cdef int i
        for i in range(first, first + count):
            if not self.header_holds(offer, &self.headers[i]):
                return False
        return True

    cdef bint header_holds(self, const Offer *offer, const HeaderCondition *condition) except -1:
        cdef bint found = False
        cdef bint matched = self.any_value(offer, condition, &found)
        if not found:
            if condition.missing_is_empty:
                matched = self.value_matches(condition, b"", 0)
            elif condition.kind == HEADER_PRESENT:
                matched = not condition.present
            else:
                return False             # Envoy: what is not there neither matches nor matches inverted
        return matched != condition.invert

    cdef bint any_value(self, const Offer *offer, const HeaderCondition *condition, bint *found) except -1:
        """Whether a value matches; `found` tells whether there is one at all."""
        cdef const RouteInput *request = offer.request
        cdef const Head *head = request.head
        cdef size_t list_length
        cdef int i, first = 0
        if condition.where != NAME_FIELD:
            found[0] = True
            if condition.where == NAME_PATH:
                return self.value_matches(condition, request.path, request.path_length)
            if condition.where == NAME_AUTHORITY:
                return self.value_matches(condition, request.authority, request.authority_length)
            if condition.where == NAME_METHOD:
                return self.value_matches(condition, request.bytes + head.method_at, head.method_length)
            return self.value_matches(condition, b"https" if request.tls else b"http", 5 if request.tls else 4)
        if condition.id != HEADER_OTHER:
            first = head.known[condition.id]
            if first < 0:
                first = head.count
        if condition.joined:
            list_length = self.list_length(offer, condition, first)
            if list_length:
                found[0] = True
                return self.list_matches(offer, condition, first, list_length)
        for i in range(first, head.count):
            if has_name(request, &head.fields[i], condition):
                found[0] = True
                if self.value_matches(condition, request.bytes + head.fields[i].value_at, head.fields[i].value_length):
                    return True
        return self.any_added(offer, condition, found) if offer.added_length else False

    cdef size_t list_length(self, const Offer *offer, const HeaderCondition *condition, int first) noexcept:
        """Of the list with a comma after each value; 0 when the head has not several fields of that name.

        What was added on the way took the place of what came: it is never part of a list.
        """
        cdef const HeaderField *field
        cdef size_t length = 0
        cdef int i, seen = 0
        for i in range(first, offer.request.head.count):
            field = &offer.request.head.fields[i]
            if has_name(offer.request, field, condition):
                seen += 1
                length += field.value_length + 1
        return length if seen > 1 else 0

    cdef bint list_matches(self, const Offer *offer, const HeaderCondition *condition, int first, size_t list_length) except -1:
        cdef const Head *head = offer.request.head
        cdef const HeaderField *field
        cdef char *room
        cdef size_t length = 0
        cdef int i
        if self.list_capacity < list_length:
            room = <char *>realloc(self.list_text, list_length)
            if room == NULL:
                raise MemoryError(f"no room for a list of {list_length} bytes")
            self.list_text, self.list_capacity = room, list_length
        for i in range(first, head.count):
            field = &head.fields[i]
            if has_name(offer.request, field, condition):
                memcpy(self.list_text + length, offer.request.bytes + field.value_at, field.value_length)
                self.list_text[length + field.value_length] = b','
                length += field.value_length + 1
        return self.value_matches(condition, self.list_text, list_length - 1)

    cdef bint any_added(self, const Offer *offer, const HeaderCondition *condition, bint *found) except -1:
        cdef const char *line = offer.added
        cdef const char *end = offer.added + offer.added_length
        cdef const char *stop
        while line < end:
            stop = <const char *>memchr(line, b'\n', end - line)
            if stop == NULL:
                break
            if (
                stop - line > condition.name_length + 2 and line[condition.name_length] == b':'
                and same_text(line, condition.name, condition.name_length, True)
            ):
                found[0] = True
                if self.value_matches(condition, line + condition.name_length + 2, stop - line - condition.name_length - 3):
                    return True
            line = stop + 1
        return False

    cdef bint value_matches(self, const HeaderCondition *condition, const char *value, size_t length) except -1:
        if condition.kind == HEADER_TEXT:
            return (<TextMatch>self.texts[condition.text]).matches(value, length)
        if condition.kind == HEADER_RANGE:
            return is_between(value, length, condition.start, condition.end)
        return condition.present

    cdef bint queries_hold(self, const Offer *offer, int first, int count) except -1:
        cdef int i
        for i in range(first, first + count):
            if not self.query_holds(offer, &self.queries[i]):
                return False
        return True

    cdef bint query_holds(self, const Offer *offer, const QueryCondition *condition) except -1:
        """The first parameter of the name decides; names and values are compared as they stand, percent signs and all."""
        cdef const char *at = offer.query
        cdef const char *end = offer.query + offer.query_length
        cdef const char *stop
        cdef const char *equals
        while at != NULL and at < end:
            stop = <const char *>memchr(at, b'&', end - at)
            if stop == NULL:
                stop = end
            equals = <const char *>memchr(at, b'=', stop - at)
            if equals == NULL:
                equals = stop
            if <size_t>(equals - at) == condition.name_length and memcmp(at, condition.name, condition.name_length) == 0:
                if condition.text < 0:
                    return True
                if equals < stop:
                    equals += 1
                return (<TextMatch>self.texts[condition.text]).matches(equals, stop - equals)
            at = stop + 1
        return False
