"""What the PROXY codec must say, written to be read and not to be fast."""

from __future__ import annotations

import ipaddress
import re
import struct

MORE, NONE, BROKEN = 1, -1, -2
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST_V1, LONGEST = 107, 16384

PORT = rb"(0|[1-9][0-9]{0,4})"
IP = rb"([0-9a-fA-F:.]{1,45})"
V1 = re.compile(rb"PROXY (?:(UNKNOWN)(?: [^\n]*)?|TCP([46]) %b %b %b %b)\r\n" % (IP, IP, PORT, PORT), re.DOTALL)


def parse(data: bytes) -> dict | int:
    if data[:12] == SIGNATURE[: len(data)]:
        return parse_v2(data) if len(data) >= 16 else MORE
    if data[:6] == b"PROXY "[: len(data)]:
        return parse_v1(data)
    return NONE


def parse_v1(data: bytes) -> dict | int:
    line, feed, _ = data[:LONGEST_V1].partition(b"\n")
    if not feed:
        return BROKEN if len(line) == LONGEST_V1 else MORE
    found = V1.fullmatch(line + feed)
    if not found:
        return BROKEN
    said = header(len(found.group()), 1)
    if found[1]:
        return said
    try:
        wanted = ipaddress.IPv4Address if found[2] == b"4" else ipaddress.IPv6Address
        addresses = [wanted(text.decode()) for text in (found[3], found[4])]
    except ValueError:
        return BROKEN
    return with_addresses(said, addresses, [int(found[5]), int(found[6])])


def parse_v2(data: bytes) -> dict | int:
    version, family, rest = data[12], data[13], int.from_bytes(data[14:16])
    length = 16 + rest
    if version not in (0x20, 0x21) or length > LONGEST:
        return BROKEN
    if version == 0x20:
        return header(length, 2, local=True) if len(data) >= length else MORE
    if family >> 4 > 3 or family & 15 > 2:
        return BROKEN
    form = {0: "", 1: "4s4sHH", 2: "16s16sHH", 3: "216s"}[family >> 4]
    room = struct.calcsize(f"!{form}")
    if rest < room:
        return BROKEN
    if len(data) < length:
        return MORE
    tlvs = tlvs_of(data[:length], 16 + room)
    if tlvs is None:
        return BROKEN
    said = header(length, 2, tlvs=tlvs)
    if family >> 4 not in (1, 2) or family & 15 == 0:
        return said
    source, destination, *ports = struct.unpack(f"!{form}", data[16:16 + room])
    return with_addresses(said, [ipaddress.ip_address(source), ipaddress.ip_address(destination)], ports)


def tlvs_of(whole: bytes, at: int) -> list[tuple[int, bytes]] | None:
    """None when they do not fill their room, or a checksum is wrong."""
    found = []
    while at < len(whole):
        if len(whole) - at < 3:
            return None
        length = int.from_bytes(whole[at + 1:at + 3])
        if len(whole) - at - 3 < length:
            return None
        value = whole[at + 3:at + 3 + length]
        if whole[at] == 3 and value != crc32c(whole[:at + 3] + bytes(4) + whole[at + 7:]).to_bytes(4):
            return None
        found.append((whole[at], value))
        at += 3 + length
    return found


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def header(length: int, version: int, *, local: bool = False, tlvs: list[tuple[int, bytes]] | None = None) -> dict:
    return {
        "length": length, "version": version, "family": 0, "local": local, "tlvs": tlvs or [], "source": None, "destination": None,
    }  # fmt: skip


def with_addresses(said: dict, addresses: list, ports: list[int]) -> dict | int:
    if any(port > 65535 for port in ports) or not all(map(is_of_one_host, addresses)):
        return BROKEN
    mapped = [address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed for address in addresses]
    source, destination = zip(mapped, ports, strict=True)
    return said | {"family": addresses[0].version, "source": source, "destination": destination}


def is_of_one_host(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    return not (address.is_unspecified or address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"))


def compose_v2(family: int, source: tuple[bytes, int], destination: tuple[bytes, int], tlvs: list[tuple[int, bytes]]) -> bytes:
    """A header with addresses, IPv4 ones as their last four bytes."""
    begin = 12 if family == 4 else 0
    addresses = source[0][begin:] + destination[0][begin:] + struct.pack("!HH", source[1], destination[1])
    rest = addresses + b"".join(bytes([kind]) + struct.pack("!H", len(value)) + value for kind, value in tlvs)
    return SIGNATURE + bytes([0x21, 0x11 if family == 4 else 0x21]) + struct.pack("!H", len(rest)) + rest


def with_checksum(whole: bytes) -> bytes:
    """A header of version 2 with the checksum's TLV behind all others."""
    rest = int.from_bytes(whole[14:16]) + 7
    whole = whole[:14] + rest.to_bytes(2) + whole[16:] + b"\3\0\4"
    return whole + crc32c(whole + bytes(4)).to_bytes(4)
