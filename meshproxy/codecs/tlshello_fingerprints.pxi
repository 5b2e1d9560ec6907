"""Part of tlshello.pyx: JA3 and JA4. Only where they are wanted, and once a connection: so the digests may be Python's."""

cdef const char *DIGITS = b"0123456789abcdef"

cdef struct Text:
    char *at
    size_t length


cdef inline void put_char(Text *text, char byte) noexcept nogil:
    text.at[text.length] = byte
    text.length += 1


cdef void put_number(Text *text, uint32_t value) noexcept nogil:
    cdef uint32_t unit = 10000
    while unit > 1 and value < unit:
        unit //= 10
    while unit:
        put_char(text, DIGITS[value // unit % 10])
        unit //= 10


cdef void put_hex(Text *text, uint32_t value) noexcept nogil:
    cdef int shift
    for shift in range(12, -4, -4):
        put_char(text, DIGITS[value >> shift & 15])


cdef void put_two_digits(Text *text, uint32_t count) noexcept nogil:
    count = min(count, <uint32_t>99)
    put_char(text, DIGITS[count // 10])
    put_char(text, DIGITS[count % 10])


cdef void put_decimals(Text *text, Piece list_of, uint32_t width) noexcept nogil:
    """The numbers of a list, each `width` bytes, joined by "-"."""
    cdef Piece number
    cdef uint32_t value
    cdef bint first = True
    while take(&list_of, width, &number):
        value = number_16(number.at) if width == 2 else number.at[0]
        if width == 2 and is_grease(value):
            continue
        if not first:
            put_char(text, b'-')
        put_number(text, value)
        first = False


cdef size_t text_room(const ClientHello *hello) noexcept nogil:
    """A number of 16 bits takes six characters at most, and of 8 bits four."""
    return 64 + 4 * (<size_t>hello.ciphers.length + hello.extensions.length)


cdef bytes hello_ja3(const ClientHello *hello):
    """As Salesforce published it: lists in the client's order, GREASE left out. (Envoy leaves it in the groups, so that a client which sends it
    there has another fingerprint each time.)"""
    cdef Text text
    cdef Piece rest = hello.extensions, kind, content
    cdef bint first = True
    text.length = 0
    text.at = <char *>malloc(text_room(hello))
    if text.at == NULL:
        raise MemoryError("no room for a fingerprint's text")
    try:
        put_number(&text, hello.version)
        put_char(&text, b',')
        put_decimals(&text, hello.ciphers, 2)
        put_char(&text, b',')
        while take(&rest, 2, &kind) and take_sized_16(&rest, &content):
            if is_grease(number_16(kind.at)):
                continue
            if not first:
                put_char(&text, b'-')
            put_number(&text, number_16(kind.at))
            first = False
        put_char(&text, b',')
        content = hello.groups
        if content.length >= 2:
            content.at += 2
            content.length -= 2
            put_decimals(&text, content, 2)
        put_char(&text, b',')
        content = hello.formats
        if content.length >= 1:
            content.at += 1
            content.length -= 1
            put_decimals(&text, content, 1)
        return md5(text.at[:text.length], usedforsecurity=False).hexdigest().encode()
    finally:
        free(text.at)


cdef int by_value(const void *one, const void *other) noexcept nogil:
    return <int>(<const uint16_t *>one)[0] - <int>(<const uint16_t *>other)[0]


cdef void put_hexes(Text *text, const uint16_t *values, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if i:
            put_char(text, b',')
        put_hex(text, values[i])


cdef uint32_t take_numbers(Piece list_of, uint16_t *out) noexcept nogil:
    """The numbers of a list without GREASE; how many."""
    cdef Piece number
    cdef uint32_t count = 0
    while take(&list_of, 2, &number):
        if not is_grease(number_16(number.at)):
            out[count] = number_16(number.at)
            count += 1
    return count


cdef inline bint is_alphanumeric(uint8_t byte) noexcept nogil:
    return b'0' <= byte <= b'9' or b'a' <= byte <= b'z' or b'A' <= byte <= b'Z'


cdef void put_ja4_head(Text *text, const ClientHello *hello, uint32_t ciphers, uint32_t extensions, bint has_name) noexcept nogil:
    cdef Piece content = hello.alpn_extension, names, name
    cdef uint8_t first, last
    put_char(text, b't')
    if TLS_1_0 <= hello.highest <= TLS_1_3:
        put_char(text, b'1')
        put_char(text, DIGITS[hello.highest - TLS_1_0])
    else:
        put_char(text, b'0')
        put_char(text, b'0')
    put_char(text, b'd' if has_name else b'i')
    put_two_digits(text, ciphers)
    put_two_digits(text, extensions)
    if not take(&content, 2, &names) or not take_sized_8(&content, &name) or name.length == 0:
        put_char(text, b'0')
        put_char(text, b'0')
        return
    first = name.at[0]
    last = name.at[name.length - 1]
    if is_alphanumeric(first) and is_alphanumeric(last):
        put_char(text, first)
        put_char(text, last)
    else:
        put_char(text, DIGITS[first >> 4])
        put_char(text, DIGITS[last & 15])


cdef bytes ja4_hash(const Text *text):
    """Twelve digits of the SHA-256; zeros for nothing."""
    if text.length == 0:
        return b"000000000000"
    return sha256(text.at[:text.length]).hexdigest()[:12].encode()


cdef bytes hello_ja4(const ClientHello *hello):
    """FoxIO's `technical_details/JA4.md`: counts and first ALPN in clear, then sorted ciphers, then sorted extensions (without SNI and ALPN,
    which the first part tells) with the signature algorithms in the client's order."""
    cdef Text head, text
    cdef uint16_t *numbers = NULL
    cdef uint32_t ciphers, extensions = 0, kept = 0, algorithms, number
    cdef Piece rest = hello.extensions, kind, content
    cdef char head_room[16]
    cdef bytes cipher_hash
    cdef bint has_name = False
    text.at = <char *>malloc(text_room(hello))
    numbers = <uint16_t *>malloc(text_room(hello))
    head.at = head_room
    head.length = text.length = 0
    try:
        if text.at == NULL or numbers == NULL:
            raise MemoryError("no room for a fingerprint's text")
        ciphers = take_numbers(hello.ciphers, numbers)
        qsort(numbers, ciphers, sizeof(uint16_t), by_value)
        put_hexes(&text, numbers, ciphers)
        cipher_hash = ja4_hash(&text)
        text.length = 0
        while take(&rest, 2, &kind) and take_sized_16(&rest, &content):
            number = number_16(kind.at)
            if is_grease(number):
                continue
            extensions += 1
            if number == EXTENSION_SERVER_NAME:
                has_name = True
            elif number != EXTENSION_ALPN:
                numbers[kept] = number
                kept += 1
        qsort(numbers, kept, sizeof(uint16_t), by_value)
        put_hexes(&text, numbers, kept)
        content = hello.algorithms
        if content.length >= 4:
            content.at += 2
            content.length -= 2
            algorithms = take_numbers(content, numbers)
            if algorithms:
                put_char(&text, b'_')
                put_hexes(&text, numbers, algorithms)
        put_ja4_head(&head, hello, ciphers, extensions, has_name)
        return b"%b_%b_%b" % (head.at[:head.length], cipher_hash, ja4_hash(&text))
    finally:
        free(text.at)
        free(numbers)
