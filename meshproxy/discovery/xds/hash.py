"""XXH64 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), by which Envoy makes numbers of versions."""

from __future__ import annotations

_1, _2, _3, _4, _5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = (1 << 64) - 1


def xxh64(data: bytes) -> int:
    """With seed 0."""
    at, size = 0, len(data)
    if size >= 32:
        lanes = [(_1 + _2) & _MASK, _2, 0, -_1 & _MASK]
        while at + 32 <= size:
            lanes = [_round(lane, _number(data, at + 8 * index, 8)) for index, lane in enumerate(lanes)]
            at += 32
        value = sum(_rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _1 + _4) & _MASK
    else:
        value = _5
    value = (value + size) & _MASK
    while at + 8 <= size:
        value = (_rotated(value ^ _round(0, _number(data, at, 8)), 27) * _1 + _4) & _MASK
        at += 8
    if at + 4 <= size:
        value = (_rotated(value ^ (_number(data, at, 4) * _1 & _MASK), 23) * _2 + _3) & _MASK
        at += 4
    for byte in data[at:]:
        value = _rotated(value ^ (byte * _5 & _MASK), 11) * _1 & _MASK
    value = (value ^ (value >> 33)) * _2 & _MASK
    value = (value ^ (value >> 29)) * _3 & _MASK
    return value ^ (value >> 32)


def _round(lane: int, number: int) -> int:
    return _rotated((lane + number * _2) & _MASK, 31) * _1 & _MASK


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
