"""ClientHellos: made piece by piece, so that each piece can be wrong; and those of real clients."""

from __future__ import annotations

import ssl

Extensions = list[tuple[int, bytes]]

GREASE = 0x3A3A


def sized(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width) + data


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(2) for value in values)


def server_name(name: bytes) -> tuple[int, bytes]:
    return 0, sized(2, b"\0" + sized(2, name))


def alpn(*names: bytes) -> tuple[int, bytes]:
    return 16, sized(2, b"".join(sized(1, name) for name in names))


def versions(*values: int) -> tuple[int, bytes]:
    return 43, sized(1, numbers(*values))


def message(
    extensions: Extensions | None, *, version: int = 0x0303, ciphers: bytes = numbers(0x1301, 0xC02F, 0x009C), session: bytes = b"\7" * 32,
    compression: bytes = b"\0",
) -> bytes:
    """A handshake message; `extensions` None = without the block."""
    body = version.to_bytes(2) + bytes(range(32)) + sized(1, session) + sized(2, ciphers) + sized(1, compression)
    if extensions is not None:
        body += sized(2, b"".join(kind.to_bytes(2) + sized(2, content) for kind, content in extensions))
    return b"\1" + sized(3, body)


def records(handshake: bytes, *cuts: int, version: bytes = b"\3\1") -> bytes:
    """The message in one record, or cut into several."""
    begins = [0, *cuts]
    return b"".join(
        b"\x16" + version + sized(2, handshake[begin:end]) for begin, end in zip(begins, [*cuts, len(handshake)], strict=True)
    )


def browser_like(name: bytes = b"www.example.com", *protocols: bytes) -> Extensions:
    """What a browser sends, GREASE in every list that may have it."""
    return [
        (GREASE, b""),
        server_name(name),
        (23, b""),
        (0xFF01, b"\0"),
        (10, sized(2, numbers(GREASE, 29, 23, 24))),
        (11, sized(1, b"\0")),
        (35, b""),
        alpn(*(protocols or (b"h2", b"http/1.1"))),
        (5, b"\1\0\0\0\0"),
        (13, sized(2, numbers(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601))),
        (51, sized(2, numbers(GREASE, 1) + b"\0" + numbers(29, 32) + bytes(32))),
        (45, sized(1, b"\1")),
        versions(GREASE, 0x0304, 0x0303),
        (GREASE + 0x1010, b"\0"),
    ]


BROWSER_CIPHERS = numbers(
    GREASE, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035,
)

NAMED = [server_name(b"a.example.com")]

GOOD: dict[str, bytes] = {
    "of a browser": records(message(browser_like(), ciphers=BROWSER_CIPHERS)),
    "in two records": records(message(browser_like(), ciphers=BROWSER_CIPHERS), 100),
    "cut within the message's head": records(message(browser_like()), 2),
    "in many records": records(message(browser_like()), *range(7, 200, 7)),
    "name only": records(message(NAMED)),
    "name in capitals": records(message([server_name(b"A.Example.COM")])),
    "no extensions": records(message(None)),
    "an empty block of extensions": records(message([])),
    "no session": records(message(NAMED, session=b"")),
    "an ALPN that is binary": records(message([*NAMED, alpn(b"\xab\xcd")])),
    "an ALPN of one letter": records(message([*NAMED, alpn(b"x")])),
    "an ALPN that begins binary": records(message([*NAMED, alpn(b"\xabc")])),
    "an ALPN list that is broken": records(message([*NAMED, (16, b"\0\5\2h2")])),
    "an ALPN with an empty name": records(message([*NAMED, alpn(b"h2", b"")])),
    "an ALPN without names": records(message([*NAMED, alpn()])),
    "only SNI and ALPN": records(message([*NAMED, alpn(b"http/1.1")])),
    "TLS 1.0": records(message(NAMED, version=0x0301)),
    "TLS 1.1": records(message(NAMED, version=0x0302)),
    "an older version in the head": records(message([*NAMED, versions(0x0304)], version=0x0301)),
    "a hundred ciphers": records(message(NAMED, ciphers=numbers(0x1301, *range(1, 130)))),
    "unknown extensions": records(message([*NAMED, (0x4469, b"abc"), (0x1234, b"")])),
    "only unknown versions": records(message([*NAMED, versions(0x0305, 0x7F12)])),
    "no versions in the list": records(message([*NAMED, versions()])),
    "an empty record": records(message(NAMED), 20, 20),
    "data behind it": records(message(NAMED)) + b"\x14\3\3\0\1\1",
}

BAD: dict[str, bytes] = {
    "two names": records(message([server_name(b"a"), server_name(b"b")])),
    "two ALPN lists": records(message([alpn(b"h2"), alpn(b"http/1.1")])),
    "a name list of two": records(message([(0, sized(2, b"\0" + sized(2, b"a") + b"\0" + sized(2, b"b")))])),
    "an empty name": records(message([server_name(b"")])),
    "a name of another type": records(message([(0, sized(2, b"\1" + sized(2, b"a")))])),
    "a name with NUL": records(message([server_name(b"a\0b")])),
    "a name of 256 bytes": records(message([server_name(b"a" * 256)])),
    "a name that ends early": records(message([(0, b"\0\7\0\0\7a")])),
    "no ciphers": records(message(NAMED, ciphers=b"")),
    "half a cipher": records(message(NAMED, ciphers=b"\1\2\3")),
    "no compression": records(message(NAMED, compression=b"")),
    "a session of 33 bytes": records(message(NAMED, session=b"x" * 33)),
    "SSL 3": records(message(NAMED, version=0x0300)),
    "bytes behind the extensions": records(b"\1" + sized(3, message(NAMED)[4:] + b"x")),
    "a record of another type within": records(message(NAMED), 20).replace(b"\x16\3\1", b"\x15\3\1").replace(b"\x15\3\1", b"\x16\3\1", 1),
    "another message": records(b"\2" + message(NAMED)[1:]),
    "a record that is too long": b"\x16\3\1\x40\1" + message(NAMED),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "SSL 2": b"\x80\x2e\1\3\1\0\x15\0\0\0\x10",
    "zeros": bytes(20),
}


def of_openssl(name: str | None, *protocols: str) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()
