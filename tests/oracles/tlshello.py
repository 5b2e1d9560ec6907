"""What the ClientHello codec must say, written to be read and not to be fast: slices that raise where bytes are missing."""

from __future__ import annotations

import hashlib

FOUND, MORE, NOT_TLS, BROKEN, TOO_LARGE = 0, 1, -1, -2, -3
GREASE = {value * 0x1010 + 0x0A0A for value in range(16)}


class Broken(Exception):
    """The message does not hold what it says."""


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, length: int) -> bytes:
        if length > len(self.data):
            raise Broken
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def sized(self, width: int) -> bytes:
        return self.take(self.number(width))

    def end(self) -> None:
        if self.data:
            raise Broken


def parse(data: bytes, limit: int = 16384) -> dict | int:
    message = message_of(data, limit)
    if isinstance(message, int):
        return message
    try:
        return read_message(message)
    except Broken:
        return BROKEN


def message_of(data: bytes, limit: int) -> bytes | int:
    """The handshake message without its head, gathered from the records; or the verdict."""
    gathered, rest = b"", data
    more = TOO_LARGE if len(data) >= limit else MORE
    while True:
        bad = BROKEN if len(rest) < len(data) else NOT_TLS
        if not rest.startswith((b"\x16\x03", b"\x16")[: 2 if len(rest) == 1 else 1]) and rest:
            return bad
        if len(rest) < 5:
            return more
        length = int.from_bytes(rest[3:5])
        if length > 16384:
            return bad
        gathered += rest[5:5 + length]
        if gathered and gathered[0] != 1:
            return NOT_TLS
        if len(gathered) >= 4:
            wanted = 4 + int.from_bytes(gathered[1:4])
            if wanted > limit:
                return TOO_LARGE
            if len(gathered) >= wanted:
                return gathered[4:wanted]
        if len(rest) < 5 + length:
            return more
        rest = rest[5 + length:]


def read_message(message: bytes) -> dict:
    reader = Reader(message)
    version = reader.number(2)
    reader.take(32)
    if len(reader.sized(1)) > 32:
        raise Broken
    ciphers = reader.sized(2)
    if not ciphers or len(ciphers) % 2 or not reader.sized(1):
        raise Broken
    extensions: list[tuple[int, bytes]] = []
    if reader.data:
        block = Reader(reader.sized(2))
        reader.end()
        while block.data:
            extensions.append((block.number(2), block.sized(2)))
    kinds = [kind for kind, _ in extensions]
    if any(kinds.count(kind) > 1 for kind in (0, 10, 11, 13, 16, 43)):
        raise Broken
    found = dict(extensions)
    sni = server_name(found[0]) if 0 in found else None
    if version < 0x0301 and 43 not in found:
        raise Broken
    highest = max(versions(found.get(43, b"")), default=0) or version
    return {
        "version": version, "highest": highest, "sni": sni, "alpn": alpn(found.get(16)),
        "ja3": ja3(version, numbers(ciphers), kinds, found), "ja4": ja4(highest, numbers(ciphers), extensions),
    }


def server_name(content: bytes) -> bytes:
    outer = Reader(content)
    names = Reader(outer.sized(2))
    outer.end()
    kind, name = names.number(1), names.sized(2)
    names.end()
    if kind != 0 or not 1 <= len(name) <= 255 or b"\0" in name:
        raise Broken
    return name.lower()


def versions(content: bytes) -> list[int]:
    """Those of a list that ends where it says, without GREASE."""
    if not content or len(content) <= content[0]:
        return []
    return numbers(content[1:1 + content[0]])


def alpn(content: bytes | None) -> list[bytes]:
    try:
        outer = Reader(content or b"")
        names = Reader(outer.sized(2))
        outer.end()
        found = []
        while names.data:
            found.append(names.sized(1))
        return found if all(found) else []
    except Broken:
        return []


def numbers(data: bytes) -> list[int]:
    """16 bits each, without GREASE."""
    found = [int.from_bytes(data[at:at + 2]) for at in range(0, len(data) - 1, 2)]
    return [number for number in found if number not in GREASE]


def ja3(version: int, ciphers: list[int], kinds: list[int], found: dict[int, bytes]) -> str:
    lists = [ciphers, [kind for kind in kinds if kind not in GREASE], numbers(found.get(10, b"")[2:]), list(found.get(11, b"")[1:])]
    text = ",".join([str(version), *("-".join(map(str, listed)) for listed in lists)])
    return hashlib.md5(text.encode()).hexdigest()


def ja4(highest: int, ciphers: list[int], extensions: list[tuple[int, bytes]]) -> str:
    kept = [(kind, content) for kind, content in extensions if kind not in GREASE]
    found = dict(kept)
    shown = {0x0301: "10", 0x0302: "11", 0x0303: "12", 0x0304: "13"}.get(highest, "00")
    head = f"t{shown}{'d' if 0 in found else 'i'}{min(len(ciphers), 99):02}{min(len(kept), 99):02}{ja4_alpn(found.get(16, b''))}"
    text = hexes(sorted(kind for kind, _ in kept if kind not in (0, 16)))
    algorithms = numbers(found.get(13, b"")[2:])
    if algorithms:
        text += "_" + hexes(algorithms)
    return f"{head}_{digest(hexes(sorted(ciphers)))}_{digest(text)}"


def ja4_alpn(content: bytes) -> str:
    if len(content) < 3 or not content[2] or len(content) < 3 + content[2]:
        return "00"
    first, last = content[3:4], content[2 + content[2]:][:1]
    if first.isalnum() and last.isalnum():
        return (first + last).decode()
    return first.hex()[0] + last.hex()[1]


def hexes(values: list[int]) -> str:
    return ",".join(f"{value:04x}" for value in values)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0" * 12
