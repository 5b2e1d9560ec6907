"""Frames between our own processes: 4 bytes of length, 2 bytes of how many file descriptors come along (both big-endian), msgpack.

Pure bytes in, messages out; the descriptors are numbers that the caller got by `fdpass`.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from meshproxy.errors import FrameError
from meshproxy.ipc.messages import AnyMessage, Message

FDS_PER_MESSAGE = 200
"""The kernel takes 253 in one SCM_RIGHTS; less leaves room for whatever a later kernel counts in."""
MAX_FRAME_BYTES = 64 << 20
"""A configuration of 10,000 routes is 3 MiB; twenty times that is no configuration any more but a mistake."""
MAX_ORDER_BYTES = 64 << 10
"""What a command may send: an order is some words, and the largest has a list of listeners."""
HEADER = struct.Struct(">IH")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)


def encode(message: Message, fd_count: int = 0) -> bytes:
    """One frame. Raises FrameError for what no reader would take: too long, or too many descriptors."""
    if fd_count > FDS_PER_MESSAGE:
        raise FrameError(f"{type(message).__name__} with {fd_count} file descriptors: one takes {FDS_PER_MESSAGE}; send the rest before it")
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"{type(message).__name__} of {len(body)} bytes: a message takes {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body), fd_count) + body


class FrameReader:
    """Bytes and descriptors as they come, messages out. After a FrameError all descriptors it held are closed and it is of no use."""

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES, decoder: msgspec.msgpack.Decoder = _decoder) -> None:
        self._limit_bytes = limit_bytes
        self._decoder = decoder
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> list[tuple[Message, list[int]]]:
        """All messages that are whole now; their descriptors belong to the caller."""
        self._buffer += data
        self._fds += fds
        messages: list[tuple[Message, list[int]]] = []
        try:
            while (message := self._next()) is not None:
                messages.append(message)
            self._refuse_stray_fds()
        except FrameError:
            self.close()
            close_all(fd for _, carried in messages for fd in carried)
            raise
        return messages

    def close(self) -> None:
        """Closes descriptors of a message that never became whole."""
        close_all(self._fds)
        self._fds.clear()
        self._buffer.clear()

    def _next(self) -> tuple[Message, list[int]] | None:
        if len(self._buffer) < HEADER.size:
            return None
        length, fd_count = HEADER.unpack_from(self._buffer)
        if length > self._limit_bytes or fd_count > FDS_PER_MESSAGE:
            raise FrameError(
                f"a frame of {length} bytes with {fd_count} file descriptors: at most {self._limit_bytes} and {FDS_PER_MESSAGE} are taken"
            )
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        # Descriptors come with a frame's first byte, so they are all here by its last.
        if len(self._fds) < fd_count:
            raise FrameError(
                f"a frame promised {fd_count} file descriptors and {len(self._fds)} came (is the limit of open files reached?)"
            )
        message = self._decode(end)
        del self._buffer[:end]
        return message, [self._fds.popleft() for _ in range(fd_count)]

    def _decode(self, end: int) -> Message:
        with memoryview(self._buffer) as view:
            try:
                return self._decoder.decode(view[HEADER.size : end])
            except msgspec.MsgspecError as error:
                raise FrameError(f"a frame of {end - HEADER.size} bytes is no message of ours: {error}") from None

    def _refuse_stray_fds(self) -> None:
        if self._fds and not self._buffer:
            raise FrameError(f"{len(self._fds)} file descriptors came that no frame announced")
        if len(self._fds) > 2 * FDS_PER_MESSAGE:
            raise FrameError(f"{len(self._fds)} file descriptors came for one frame: a message takes {FDS_PER_MESSAGE}")


def close_all(fds: Iterable[int] | Sequence[int]) -> None:
    """Closes descriptors; one that is closed already is passed over, because cleaning up must reach the end."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
