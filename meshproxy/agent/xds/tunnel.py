"""Between gRPC's own threads and a cluster's endpoints: gRPC speaks plain HTTP/2 to an abstract UNIX socket of this process, and what comes
there goes on by `agent.xds.dial`. So one place decides about addresses, names and TLS, and gRPC needs to know none of it."""

from __future__ import annotations

import os
import secrets
import socket as constants
import struct
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.server import StreamServer

from meshproxy.agent.xds.dial import DialError

CHUNK = 64 << 10
FRAME_HEAD, SETTINGS = 9, 4
"""A server's first frame (RFC 9113, 3.4)."""
_CREDENTIALS = struct.Struct("iII")


class Tunnel:
    """Until it is closed. `dial` gives a connected socket or raises DialError; `spoken` hears that the server speaks HTTP/2, `ended` why a
    connection could not be made, or that it is over."""

    def __init__(self, dial: Callable[[], Any], spoken: Callable[[], None], ended: Callable[[str], None]) -> None:
        self._dial = dial
        self._spoken = spoken
        self._ended = ended
        self._name = f"meshproxy-{os.getpid()}-{secrets.token_hex(8)}"
        listener = socket.socket(constants.AF_UNIX, constants.SOCK_STREAM)
        listener.bind("\0" + self._name)
        listener.listen(8)
        self._links: set[gevent.Greenlet] = set()
        self._server = StreamServer(listener, self._take)
        self._server.start()

    @property
    def target(self) -> str:
        """As gRPC names it."""
        return f"unix-abstract:{self._name}"

    def close(self) -> None:
        self._server.stop()
        gevent.killall(list(self._links), block=False)

    def _take(self, link: Any, address: object) -> None:
        me = gevent.getcurrent()
        self._links.add(me)
        onward, told = None, "the connection was closed"
        try:
            # An abstract socket has no permissions: nobody else may use this node's certificate.
            pid, _, _ = _CREDENTIALS.unpack(link.getsockopt(constants.SOL_SOCKET, constants.SO_PEERCRED, _CREDENTIALS.size))
            if pid != os.getpid():
                return
            onward = self._dial()
            back = gevent.spawn(self._back, onward, link)
            try:
                _copy(link, onward)
            finally:
                back.kill()
                told = back.value or told
        except DialError as error:
            told = str(error)
        finally:
            self._links.discard(me)
            link.close()
            if onward is not None:
                onward.close()
            # Also when it is killed: then nobody listens any more.
            self._ended(told)

    def _back(self, onward: Any, link: Any) -> str:
        """From the server; gives what is wrong with it, "" when nothing is."""
        first = b""
        try:
            while len(first) < FRAME_HEAD and (data := onward.recv(CHUNK)):
                first += data
            if len(first) < FRAME_HEAD or first[3] != SETTINGS:
                link.shutdown(constants.SHUT_RDWR)
                return "the server does not speak HTTP/2" if first else "the server closed the connection"
            self._spoken()
            link.sendall(first)
        except (OSError, ValueError):
            return ""
        _copy(onward, link)
        return ""


def _copy(one: Any, other: Any) -> None:
    """Until either side ends: then both do, because HTTP/2 has no use for half a connection."""
    try:
        while data := one.recv(CHUNK):
            other.sendall(data)
    except (OSError, ValueError):
        pass
    finally:
        for each in (one, other):
            try:
                each.shutdown(constants.SHUT_RDWR)
            except (OSError, ValueError):
                pass
