"""gRPC-Web (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md): browsers cannot read trailers, so they come as a last message;
and some want base64. The request becomes gRPC, the response is made the browser's again."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from meshproxy.codecs.grpc cimport GRPC_PREFIX_BYTES, GRPC_WEB_TRAILERS, GrpcFrames, grpc_step, put_grpc_prefix
from meshproxy.codecs.http1 cimport (
    BODY_CHUNKED, BODY_LENGTH, HEADER_CONTENT_LENGTH, HEADER_CONTENT_TYPE, HEADER_TE, Head, HeaderField,
)
from meshproxy.proxy.exchange cimport Exchange, FilterMaker, StreamFilter
from meshproxy.proxy.grpc cimport find_field, is_grpc_request
from meshproxy.proxy.headers cimport drop_known
from meshproxy.proxy.lines cimport lines_add, lines_remove
from meshproxy.proxy.outcome cimport BAD_REQUEST, BY_FILTER

cdef const char *ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef const char *BAD_BASE64 = b"Bad gRPC-web request, invalid base64 data."
cdef uint8_t VALUES[256]             # by letter; 0xff = none of base64


cdef void fill_values() noexcept:
    cdef int i
    memset(VALUES, 0xff, 256)
    for i in range(64):
        VALUES[<uint8_t>ALPHABET[i]] = <uint8_t>i


fill_values()


cdef enum:
    STEP_BYTES = 12288                   # of a body that are turned into base64, or out of it, at a time


cdef class GrpcWebMaker(FilterMaker):
    cdef StreamFilter make(self, Exchange exchange):
        cdef GrpcWebFilter made
        cdef int i = exchange.head.known[HEADER_CONTENT_TYPE]
        cdef int kind = -1 if i < 0 else web_type(exchange.bytes, &exchange.head.fields[i])
        if kind < 0:
            return None
        made = GrpcWebFilter()
        made.text_request = kind
        i = find_field(exchange.bytes, &exchange.head, b"accept", 6)
        made.text_response = i >= 0 and web_type(exchange.bytes, &exchange.head.fields[i]) == 1
        return made


cdef int web_type(const char *bytes, const HeaderField *field) noexcept:
    """0 binary, 1 text, -1 neither."""
    cdef const char *at = bytes + field.value_at
    cdef uint32_t length = field.value_length
    if length < 20 or memcmp(at, b"application/grpc-web", 20) != 0:
        return -1
    at += 20
    length -= 20
    if length >= 5 and memcmp(at, b"-text", 5) == 0:
        return 1 if length == 5 or (length == 11 and memcmp(at + 5, b"+proto", 6) == 0) else -1
    return 0 if length == 0 or (length == 6 and memcmp(at, b"+proto", 6) == 0) else -1


cdef class GrpcWebFilter(StreamFilter):
    cdef bint text_request, text_response
    cdef bint translates                 # the response is gRPC
    cdef uint8_t quad[4]                 # base64 of the request that came in pieces
    cdef int quad_length
    cdef uint8_t trio[3]                 # bytes of the response that wait for a third
    cdef int trio_length
    cdef GrpcFrames frames               # of the response: base64 is padded where a message ends

    # -- the request

    cdef void on_request_head(self) except *:
        cdef Exchange x = self.exchange
        cdef Head *head = &x.head
        drop_known(head, HEADER_CONTENT_TYPE)
        lines_add(&x.request_lines, b"content-type", 12, b"application/grpc", 16)
        drop_known(head, HEADER_TE)
        lines_remove(&x.request_lines, b"te", 2)
        lines_add(&x.request_lines, b"te", 2, b"trailers", 8)
        if find_field(x.bytes, head, b"grpc-accept-encoding", 20) < 0:
            lines_add(&x.request_lines, b"grpc-accept-encoding", 20, b"identity", 8)
        drop_known(head, HEADER_CONTENT_LENGTH)
        if head.body == BODY_LENGTH:
            head.body = BODY_CHUNKED
            head.content_length = -1
        x.grpc = True

    cdef void on_request_data(self, const char *data, size_t length) except *:
        cdef char *out
        cdef size_t made, part
        if not self.text_request:
            StreamFilter.on_request_data(self, data, length)
            return
        out = <char *>malloc(STEP_BYTES + 4)
        if out == NULL:
            raise MemoryError("no room for a piece of a gRPC-Web request")
        try:
            while length:
                part = length if length < STEP_BYTES else STEP_BYTES
                if not self.decode(data, part, out, &made):
                    self.refuse()
                    return
                data += part
                length -= part
                if made:
                    StreamFilter.on_request_data(self, out, made)
                    self.flush_upstream()
        finally:
            free(out)

    cdef void flush_upstream(self) except *:
        """What was lent is ours."""
        if self.exchange.upstream is not None:
            self.exchange.upstream.flush()

    cdef bint decode(self, const char *data, size_t length, char *out, size_t *made) noexcept:
        cdef size_t i
        cdef int kept, j
        cdef uint8_t value
        cdef uint32_t bits
        made[0] = 0
        for i in range(length):
            self.quad[self.quad_length] = <uint8_t>data[i]
            self.quad_length += 1
            if self.quad_length < 4:
                continue
            self.quad_length = 0
            kept = 3
            if self.quad[3] == c'=':
                kept = 1 if self.quad[2] == c'=' else 2
            bits = 0
            for j in range(4):
                value = VALUES[self.quad[j]] if j <= kept else 0
                if value == 0xff:
                    return False
                bits = bits << 6 | value
            for j in range(kept):
                out[made[0]] = <char>(bits >> (16 - 8 * j) & 0xff)
                made[0] += 1
        return True

    cdef void on_request_end(self, const char *trailers, size_t length) except *:
        if self.quad_length:
            self.refuse()
        else:
            StreamFilter.on_request_end(self, trailers, length)

    cdef void refuse(self) except *:
        if self.exchange.response_started:
            self.exchange.fail(BAD_REQUEST)
        else:
            self.exchange.answer(BY_FILTER, 400, BAD_BASE64, 0, b"text/plain")

    # -- the response

    cdef void on_response_head(self, const char *bytes, Head *head, bint end) except *:
        self.translates = is_grpc_request(bytes, head)      # a response's content-type follows the same rule
        if self.translates:
            self.mark(head)
            drop_known(head, HEADER_CONTENT_LENGTH)
            if head.body == BODY_LENGTH:
                head.body = BODY_CHUNKED
                head.content_length = -1
        StreamFilter.on_response_head(self, bytes, head, end)

    cdef void mark(self, Head *head) except *:
        if head != NULL:
            drop_known(head, HEADER_CONTENT_TYPE)
        lines_remove(&self.exchange.response_lines, b"content-type", 12)
        if self.text_response:
            lines_add(&self.exchange.response_lines, b"content-type", 12, b"application/grpc-web-text+proto", 31)
        else:
            lines_add(&self.exchange.response_lines, b"content-type", 12, b"application/grpc-web+proto", 26)

    cdef void on_answer(self) except *:
        self.mark(NULL)

    cdef void on_response_data(self, const char *data, size_t length) except *:
        if self.translates and self.text_response:
            self.send_text(data, length)
        else:
            StreamFilter.on_response_data(self, data, length)

    cdef void send_text(self, const char *data, size_t length) except *:
        cdef size_t part
        cdef bint ended
        while length:
            part = grpc_step(&self.frames, data, length if length < STEP_BYTES else STEP_BYTES, &ended)
            self.send_base64(data, part, ended)
            data += part
            length -= part

    cdef void send_base64(self, const char *data, size_t length, bint pad) except *:
        """In threes; what is left of a message's end is padded, else it waits."""
        cdef char *out = <char *>malloc((length + 3) // 3 * 4 + 8)
        cdef size_t i, made = 0
        if out == NULL:
            raise MemoryError("no room for a piece of a gRPC-Web response")
        try:
            for i in range(length):
                self.trio[self.trio_length] = <uint8_t>data[i]
                self.trio_length += 1
                if self.trio_length == 3:
                    made += put_quad(out + made, self.trio, 3)
                    self.trio_length = 0
            if pad and self.trio_length:
                made += put_quad(out + made, self.trio, self.trio_length)
                self.trio_length = 0
            if made:
                StreamFilter.on_response_data(self, out, made)
                self.exchange.downstream.flush()     # what was lent is ours
        finally:
            free(out)

    cdef void on_response_end(self, const char *trailers, size_t length) except *:
        cdef char *frame
        cdef size_t made
        if not self.translates or not length:
            StreamFilter.on_response_end(self, trailers, length)
            return
        frame = <char *>malloc(GRPC_PREFIX_BYTES + length)
        if frame == NULL:
            raise MemoryError("no room for gRPC-Web trailers")
        try:
            made = put_trailers(frame + GRPC_PREFIX_BYTES, trailers, length)
            put_grpc_prefix(frame, GRPC_WEB_TRAILERS, made)
            if self.text_response:
                self.send_base64(frame, GRPC_PREFIX_BYTES + made, True)
            else:
                StreamFilter.on_response_data(self, frame, GRPC_PREFIX_BYTES + made)
                self.exchange.downstream.flush()
        finally:
            free(frame)
        StreamFilter.on_response_end(self, NULL, 0)


cdef inline size_t put_quad(char *out, const uint8_t *trio, int length) noexcept:
    cdef uint32_t bits = <uint32_t>trio[0] << 16 | (<uint32_t>trio[1] << 8 if length > 1 else 0) | (trio[2] if length > 2 else 0)
    out[0] = ALPHABET[bits >> 18]
    out[1] = ALPHABET[bits >> 12 & 63]
    out[2] = ALPHABET[bits >> 6 & 63] if length > 1 else c'='
    out[3] = ALPHABET[bits & 63] if length > 2 else c'='
    return 4


cdef size_t put_trailers(char *out, const char *lines, size_t length) noexcept:
    """"name: value\\r\\n" as "name:value\\r\\n", names in lower case."""
    cdef size_t i, at = 0
    cdef bint in_name = True, skips = False
    for i in range(length):
        if skips and lines[i] == b' ':
            skips = False
            continue
        skips = False
        if in_name and lines[i] == b':':
            in_name, skips = False, True
        elif lines[i] == b'\n':
            in_name = True
        out[at] = <char>(lines[i] | 0x20) if in_name and b'A' <= lines[i] <= b'Z' else lines[i]
        at += 1
    return at
