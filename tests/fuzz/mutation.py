"""How the fuzz targets spoil good input."""

from __future__ import annotations

import random


def mutate(data: bytes, other: bytes, words: list[bytes], chance: random.Random) -> bytes:
    """A byte set, put in or taken out, a word put in or over, a piece repeated, or the tail of `other`."""
    at = chance.randrange(len(data) + 1)
    end = min(at + chance.choice((1, 1, 2, 4, 16)), len(data))
    match chance.randrange(7):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[end:]
        case 1:
            return data[:at] + bytes([chance.randrange(256)]) + data[at:]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + chance.choice(words) + data[at:]
        case 4:
            return data[:at] + chance.choice(words) + data[end:]
        case 5:
            return data[:end] + data[at:]
        case _:
            return data[:at] + other[chance.randrange(len(other) + 1):]


def overwrite(data: bytes, words: list[bytes], chance: random.Random) -> bytes:
    """A byte or a word over what was there: the length stays."""
    word = chance.choice((bytes([chance.randrange(256)]), chance.choice(words)))
    at = chance.randrange(max(len(data) - len(word), 0) + 1)
    return (data[:at] + word + data[at + len(word):])[:len(data)]
