"""Bytes and file descriptors over a UNIX stream socket (SCM_RIGHTS, unix(7)). Never blocks: the sockets are non-blocking."""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence

from meshproxy.errors import FrameError
from meshproxy.ipc.frames import FDS_PER_MESSAGE, close_all

READ_BYTES = 64 << 10
_INT = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(FDS_PER_MESSAGE * _INT)


def send_some(sock: socket.socket, data: bytes | memoryview, fds: Sequence[int]) -> int:
    """How many bytes went. The descriptors go with the first byte: after any success they must not be sent again.

    Raises BlockingIOError when nothing went, OSError (EPIPE, ECONNRESET) when the peer is gone.
    """
    if not fds:
        return sock.send(data, socket.MSG_NOSIGNAL)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    return sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive_some(sock: socket.socket) -> tuple[bytes, list[int]]:
    """What is there; no bytes means the end. A read stops where descriptors begin, so their order is the frames' order.

    Raises BlockingIOError when there is nothing, FrameError when descriptors were lost on the way (all that came are closed).
    """
    data, ancillary, flags, _ = sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _INT])
    if flags & socket.MSG_CTRUNC:
        close_all(fds)
        raise FrameError("file descriptors were lost on the way: more than a message takes, or the limit of open files is reached")
    return data, list(fds)
