"""A two-way stream of messages with one peer. Non-blocking, without a loop of its own: it serves poll, gevent and asyncio alike.

The owner watches `fileno()` for reading always and for writing while `want_write`; then calls `receive()` or `flush()`.

What waits for a slow reader is bounded by merging: a Configure has the latest of each name, so the queue cannot outgrow the number of
resources.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Sequence

import msgspec

from meshproxy.clock import monotonic_s
from meshproxy.errors import FrameError
from meshproxy.ipc.fdpass import receive_some, send_some
from meshproxy.ipc.frames import FDS_PER_MESSAGE, MAX_FRAME_BYTES, FrameReader, close_all, encode
from meshproxy.ipc.merge import merge
from meshproxy.ipc.messages import Configure, Message, NodeState, Sockets

READS_PER_TURN = 64
"""4 MiB; then the owner's loop gets its turn, and comes back because the socket is still readable."""
MAX_QUEUED_MESSAGES = 1024
"""Of those that do not merge (orders, answers, adopted connections): a peer that lets a thousand wait is not reading any more."""


class Pending:
    """A message in the queue with its own duplicates of the descriptors."""

    __slots__ = ("fds", "message", "started")

    def __init__(self, message: Message, fds: Sequence[int]) -> None:
        self.message = message
        self.fds = [os.dup(fd) for fd in fds]
        self.started = False
        """Some of its sockets have gone ahead: nothing is merged into it any more."""


class Channel:
    """One end. It owns the socket. `closed` once the peer is gone, something was no message of ours, or `close` was called."""

    def __init__(self, sock: socket.socket, limit_bytes: int = MAX_FRAME_BYTES, decoder: msgspec.msgpack.Decoder | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader(limit_bytes, decoder) if decoder else FrameReader(limit_bytes)
        self._queue: deque[Pending] = deque()
        self._out = memoryview(b"")
        self._out_fds: list[int] = []
        self.closed = False

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Of a descriptor that was inherited; it belongs to the channel from now on."""
        return cls(socket.socket(fileno=fd))

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends that are connected."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._sock.fileno()

    def detach(self) -> int:
        """The descriptor, for a child to inherit; the channel is of no use afterwards."""
        self.closed = True
        return self._sock.detach()

    @property
    def want_write(self) -> bool:
        """Something waits for the socket to take it."""
        return not self.closed and (bool(self._out) or bool(self._queue))

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends now or queues. Descriptors are duplicated: the caller keeps its own. A closed channel takes nothing and says nothing."""
        if self.closed:
            return
        if isinstance(message, Configure | NodeState) and self._merged(message, fds):
            return
        if len(self._queue) >= MAX_QUEUED_MESSAGES:
            raise FrameError(f"a peer does not read: {len(self._queue)} messages wait for it, {type(message).__name__} does not fit")
        self._queue.append(Pending(message, fds))
        self.flush()

    def flush(self) -> None:
        """Writes until all went or the socket is full."""
        while not self.closed and (self._out or self._encode_next()):
            try:
                sent = send_some(self._sock, self._out, self._out_fds)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # The peer is gone; what it still had to say is read first, so the reading side finds the end.
                self._drop_outgoing()
                return
            close_all(self._out_fds)
            self._out_fds = []
            self._out = self._out[sent:]

    def receive(self) -> list[tuple[Message, list[int]]]:
        """All messages that are here; their descriptors belong to the caller. Sets `closed` at the end of the stream.

        Raises FrameError, and closes the channel, when the peer sends what is no message.
        """
        messages: list[tuple[Message, list[int]]] = []
        for _ in range(READS_PER_TURN):
            if self.closed:
                break
            try:
                data, fds = receive_some(self._sock)
                if data:
                    messages += self._reader.feed(data, fds)
                    continue
                close_all(fds)
            except (BlockingIOError, InterruptedError):
                break
            except FrameError:
                self.close()
                close_all(fd for _, carried in messages for fd in carried)
                raise
            except OSError:
                pass
            self.close()
        return messages

    def wait(self, timeout_s: float) -> list[tuple[Message, list[int]]]:
        """For callers without a loop: the next messages; [] when the time is over or the peer is gone (`closed` tells which)."""
        deadline_s = monotonic_s() + timeout_s
        while not self.closed:
            remaining_s = deadline_s - monotonic_s()
            if remaining_s <= 0:
                break
            poll = select.poll()
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self.want_write else 0))
            poll.poll(remaining_s * 1000)
            self.flush()
            if messages := self.receive():
                return messages
        return []

    def close(self) -> None:
        """Ends the stream; what waits is dropped and its descriptors are closed."""
        if not self.closed:
            self.closed = True
            self._sock.close()
        self._reader.close()
        self._drop_outgoing()

    def _merged(self, message: Message, fds: Sequence[int]) -> bool:
        for pending in self._queue:
            if isinstance(message, NodeState) and isinstance(pending.message, NodeState):
                pending.message = message
                return True
            if isinstance(message, Configure) and isinstance(pending.message, Configure) and not pending.started:
                added = [os.dup(fd) for fd in fds]
                pending.message, pending.fds, dropped = merge(pending.message, pending.fds, message, added)
                close_all(dropped)
                return True
        return False

    def _encode_next(self) -> bool:
        if not self._queue:
            return False
        pending = self._queue[0]
        if isinstance(pending.message, Configure) and len(pending.fds) > FDS_PER_MESSAGE:
            # Too many sockets for one message: the first of them go ahead.
            pending.started = True
            message: Message = Sockets(sockets=pending.message.sockets[:FDS_PER_MESSAGE])
            self._out_fds, pending.fds = pending.fds[:FDS_PER_MESSAGE], pending.fds[FDS_PER_MESSAGE:]
            pending.message = msgspec.structs.replace(pending.message, sockets=pending.message.sockets[FDS_PER_MESSAGE:])
        else:
            self._queue.popleft()
            message, self._out_fds = pending.message, pending.fds
        self._out = memoryview(encode(message, len(self._out_fds)))
        return True

    def _drop_outgoing(self) -> None:
        close_all(self._out_fds)
        for pending in self._queue:
            close_all(pending.fds)
        self._out, self._out_fds = memoryview(b""), []
        self._queue.clear()
