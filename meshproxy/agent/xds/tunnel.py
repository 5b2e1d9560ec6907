"""Between gRPC's own threads and a cluster's endpoints: gRPC speaks plain HTTP/2 to an abstract UNIX socket of this process, and what comes
there goes on by `dial`. So one place decides about addresses, names and TLS, and gRPC needs to know none of it."""

from __future__ import annotations

import os
import secrets
import socket as constants
import struct
from typing import Any

import gevent
from gevent import socket
from gevent.server import StreamServer

from meshproxy.agent.xds.dial import DialError, Dialler

CHUNK = 64 << 10
_CREDENTIALS = struct.Struct("iII")


class Tunnel:
    """To one cluster, until it is closed."""

    def __init__(self, dialler: Dialler, cluster: str) -> None:
        self._dialler = dialler
        self._cluster = cluster
        self.error = ""
        """Why the last connection could not be made; gRPC would only tell that it was closed."""
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
        onward = None
        try:
            # An abstract socket has no permissions: nobody else may use this node's certificate.
            pid, _, _ = _CREDENTIALS.unpack(link.getsockopt(constants.SOL_SOCKET, constants.SO_PEERCRED, _CREDENTIALS.size))
            if pid != os.getpid():
                return
            onward = self._dialler.connect(self._cluster, "h2")
            self.error = ""
            back = gevent.spawn(_copy, onward, link)
            try:
                _copy(link, onward)
            finally:
                back.kill()
        except DialError as error:
            self.error = str(error)
        finally:
            self._links.discard(me)
            link.close()
            if onward is not None:
                onward.close()


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
