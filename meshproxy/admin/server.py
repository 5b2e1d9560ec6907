"""The admin API's server: connections in greenlets, each with bounds, on the socket that the master bound."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection

import gevent
from gevent import socket
from gevent.pool import Pool

from meshproxy.admin.guard import refusal
from meshproxy.admin.http import BadRequest, Request, Response, chunks, head_length, parse_head, render, text
from meshproxy.master.journal import Journal

Answering = Callable[[Request], Response]

MAX_CONNECTIONS = 64
"""A handful of people, scripts and scrapers; more is a mistake, and each costs a greenlet of 64 KiB at most."""
IDLE_S = 60.0
"""For the next request of a kept connection."""
REQUEST_S = 10.0
"""For a head and body to come, and for a response to be taken: loopback needs none of it."""
READ_BYTES = 16 << 10
# accept() fails for want of descriptors: the queue stays, so a wait and another try are right.
ACCEPT_PAUSE_S = 0.1


class AdminServer:
    """Serves until `stop`. `answering` is called for each request that the guard lets through and may take its time."""

    def __init__(self, listener_fd: int, answering: Answering, journal: Journal, names: Collection[str] = ()) -> None:
        self._listener = socket.socket(fileno=listener_fd)
        self._over_unix = self._listener.family == socket.AF_UNIX
        self._answering = answering
        self._journal = journal
        self._names = frozenset(name.lower() for name in names)
        self._pool = Pool(MAX_CONNECTIONS)
        self._accepting: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._accepting = gevent.spawn(self._accept)

    def stop(self) -> None:
        """Stop accepting and cut what is open. The socket itself is closed here; the master has its own."""
        if self._accepting is not None:
            self._accepting.kill()
        self._pool.kill()
        self._listener.close()

    def _accept(self) -> None:
        told = False
        while True:
            self._pool.wait_available()
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if not told:
                    self._journal.warning("admin cannot accept", error=error)
                told = True
                gevent.sleep(ACCEPT_PAUSE_S)
                continue
            told = False
            self._pool.spawn(self._serve, peer)

    def _serve(self, peer: socket.socket) -> None:
        try:
            self._converse(peer)
        except (OSError, gevent.Timeout):
            # The client went away or took too long; there is nobody to tell.
            pass
        finally:
            peer.close()

    def _converse(self, peer: socket.socket) -> None:
        data = bytearray()
        while True:
            try:
                request = self._read(peer, data)
            except BadRequest as error:
                self._send(peer, render(text(f"{error.status}: {error}", error.status), keep_alive=False))
                self._linger(peer)
                return
            if request is None:
                return
            response = self._answer(request)
            self._send_response(peer, request, response)
            if not request.keep_alive:
                return

    def _read(self, peer: socket.socket, data: bytearray) -> Request | None:
        """The next request, its body thrown away; None at the end of the connection."""
        with gevent.Timeout(IDLE_S):
            if not data and not self._more(peer, data):
                return None
        with gevent.Timeout(REQUEST_S):
            while not (length := head_length(data)):
                if not self._more(peer, data):
                    return None
            request = parse_head(bytes(data[:length]))
            if request.headers.get("expect", "").lower() == "100-continue":
                peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while len(data) < length + request.body_bytes:
                if not self._more(peer, data):
                    return None
            del data[: length + request.body_bytes]
        return request

    def _more(self, peer: socket.socket, data: bytearray) -> bool:
        chunk = peer.recv(READ_BYTES)
        data += chunk
        return bool(chunk)

    def _send_response(self, peer: socket.socket, request: Request, response: Response) -> None:
        if response.pieces is not None and request.version_minor == 0:
            # HTTP/1.0 knows no chunks.
            response = Response("".join(response.pieces).encode(), response.status, response.content_type, response.headers)
        head_only = request.method == "HEAD"
        self._send(peer, render(response, request.keep_alive, head_only))
        if response.pieces is None or head_only:
            return
        for chunk in chunks(response.pieces):
            self._send(peer, chunk)
            gevent.sleep(0)  # the rings must not fill up while a long page is made

    def _send(self, peer: socket.socket, data: bytes) -> None:
        with gevent.Timeout(REQUEST_S):
            peer.sendall(data)

    def _linger(self, peer: socket.socket) -> None:
        """A close with unread bytes is a reset, and the client may lose the answer: read to the end, within limits (RFC 9112 9.6)."""
        peer.shutdown(socket.SHUT_WR)
        with gevent.Timeout(1.0):
            while peer.recv(READ_BYTES):
                pass

    def _answer(self, request: Request) -> Response:
        """Never raises: one broken page must not look like a dead node."""
        refused = refusal(request, self._names, self._over_unix)
        if refused is not None:
            return refused
        try:
            return self._answering(request)
        except Exception:
            self._journal.error("admin page failed", method=request.method, path=request.path, trace=traceback.format_exc())
            return text("500: this page failed; the agent's log on stderr has the trace. Please report it.", 500)
