"""PROXY headers: as proxies send them, and what must be refused."""

from __future__ import annotations

from ipaddress import ip_address

from tests.oracles.proxyproto import SIGNATURE, compose_v2, with_checksum

V4 = (bytes(10) + b"\xff\xff" + ip_address("192.0.2.1").packed, 56324)
V4_TO = (bytes(10) + b"\xff\xff" + ip_address("198.51.100.7").packed, 443)
V6 = (ip_address("2001:db8::1").packed, 1)
V6_TO = (ip_address("2001:db8::2").packed, 65535)
AUTHORITY = (2, b"a.test")
NOOP = (4, b"\0\0\0")


def head(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2) + rest


PLAIN = compose_v2(4, V4, V4_TO, [])

GOOD: dict[str, bytes] = {
    "TCP4": b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
    "TCP4, ports at their ends": b"PROXY TCP4 255.255.255.254 1.0.0.0 0 65535\r\n",
    "TCP6": b"PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 56324 443\r\n",
    "TCP6, mapped": b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
    "UNKNOWN": b"PROXY UNKNOWN\r\n",
    "UNKNOWN with addresses": b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
    "the longest line": b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
    "v2, IPv4": PLAIN,
    "v2, IPv6": compose_v2(6, V6, V6_TO, []),
    "v2, TLVs": compose_v2(4, V4, V4_TO, [AUTHORITY, NOOP, (0xE2, b"")]),
    "v2, checksum": with_checksum(compose_v2(6, V6, V6_TO, [AUTHORITY])),
    "v2, datagrams": head(0x21, 0x12, PLAIN[16:]),
    "v2, LOCAL": head(0x20, 0x00, b""),
    "v2, LOCAL with things to ignore": head(0x20, 0xFF, b"anything"),
    "v2, UNSPEC": head(0x21, 0x00, b""),
    "v2, UNSPEC transport": head(0x21, 0x10, PLAIN[16:]),
    "v2, UNSPEC with a TLV": head(0x21, 0x00, b"\2\0\1a"),
    "v2, UNIX": head(0x21, 0x31, b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")),
    "v2, UNIX with a TLV": head(0x21, 0x31, bytes(216) + b"\2\0\1a"),
    "v2, as long as may be": compose_v2(4, V4, V4_TO, [(4, bytes(16384 - 31))]),
}

BAD: dict[str, bytes] = {
    "two spaces": b"PROXY  TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
    "space at the end": b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
    "no CR": b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n",
    "bare feed early": b"PROXY \n",
    "a port too many": b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n",
    "a port missing": b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
    "leading zero": b"PROXY TCP4 192.0.2.1 198.51.100.7 056324 443\r\n",
    "port too high": b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
    "port of a sign": b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 443\r\n",
    "port of six digits": b"PROXY TCP4 192.0.2.1 198.51.100.7 563240 443\r\n",
    "IPv6 as TCP4": b"PROXY TCP4 ::1 ::2 1 2\r\n",
    "IPv4 as TCP6": b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
    "NUL in an address": b"PROXY TCP6 ::1\0 ::2 1 2\r\n",
    "no address": b"PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n",
    "multicast": b"PROXY TCP4 224.0.0.1 198.51.100.7 1 2\r\n",
    "unspecified": b"PROXY TCP4 0.0.0.0 198.51.100.7 1 2\r\n",
    "unspecified, IPv6": b"PROXY TCP6 :: ::1 1 2\r\n",
    "broadcast": b"PROXY TCP4 192.0.2.1 255.255.255.255 1 2\r\n",
    "another word": b"PROXY TCP5 192.0.2.1 198.51.100.7 1 2\r\n",
    "a longer UNKNOWN": b"PROXY UNKNOWNS\r\n",
    "lower case": b"PROXY tcp4 192.0.2.1 198.51.100.7 1 2\r\n",
    "no end": b"PROXY TCP4 " + b"1" * 107,
    "a line of 108 bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "v2, version 1": head(0x11, 0x11, PLAIN[16:]),
    "v2, command 2": head(0x22, 0x11, PLAIN[16:]),
    "v2, family 4": head(0x21, 0x41, bytes(216)),
    "v2, transport 3": head(0x21, 0x13, PLAIN[16:]),
    "v2, no room for addresses": head(0x21, 0x11, PLAIN[16:-1]),
    "v2, no room for paths": head(0x21, 0x31, bytes(215)),
    "v2, multicast": head(0x21, 0x11, b"\xe0" + PLAIN[17:]),
    "v2, unspecified": head(0x21, 0x21, bytes(36)),
    "v2, TLV without length": head(0x21, 0x11, PLAIN[16:] + b"\2\0"),
    "v2, TLV beyond the end": head(0x21, 0x11, PLAIN[16:] + b"\2\0\2a"),
    "v2, wrong checksum": with_checksum(PLAIN)[:-1] + b"\0",
    "v2, short checksum": compose_v2(4, V4, V4_TO, [(3, b"abc")]),
    "v2, too long": SIGNATURE + b"\x21\x11\x3f\xf1",
}

OTHER = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1", b"PROXY\r\n", b"PROXX TCP4", b"\r\n\r\n\0\r\nQUIT\r", b"\r\n\r\nx", b"PUT / HTTP/1.1\r\n"]
