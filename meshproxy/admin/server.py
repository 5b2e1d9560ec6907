"""The admin API's server: connections in greenlets, each with bounds, on the socket that the master bound."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection

import gevent
from gevent import socket
from gevent.pool import Pool

from meshproxy.admin.access_log import Entry
from meshproxy.admin.guard import refusal
from meshproxy.admin.http import LAST_CHUNK, BadRequest, Request, Response, chunk, gathered, head_length, parse_head, render, text
from meshproxy.master.journal import Journal

Answering = Callable[[Request], Response]
Logging = Callable[[Entry], None]

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
    """Serves until `stop`. `answering` is called for each request that the guard lets through and may take its time.

    `logging` gets each request, refused ones too, when its response is out.
    """

    def __init__(
        self, listener_fd: int, answering: Answering, journal: Journal, names: Collection[str] = (), logging: Logging | None = None
    ) -> None:
        self._listener = socket.socket(fileno=listener_fd)
        self._over_unix = self._listener.family == socket.AF_UNIX
        self._answering = answering
        self._journal = journal
        self._logging = logging or (lambda entry: None)
        self._connections = 0
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
            self._pool.spawn(self._serve, peer, self._connections)
            self._connections += 1

    def _serve(self, peer: socket.socket, number: int) -> None:
        try:
            self._converse(peer, number)
        except (OSError, gevent.Timeout):
            # The client went away or took too long; there is nobody to tell.
            pass
        finally:
            peer.close()

    def _converse(self, peer: socket.socket, number: int) -> None:
        data = bytearray()
        remote, local = _address(peer.getpeername()), _address(peer.getsockname())
        while True:
            entry = Entry(number, remote, local)
            try:
                request = self._read(peer, data, entry)
            except BadRequest as error:
                entry.refused(len(data))
                self._respond(peer, entry, None, text(f"{error.status}: {error}", error.status))
                self._linger(peer)
                return
            if request is None:
                return
            self._respond(peer, entry, request, self._answer(request))
            if not request.keep_alive:
                return

    def _read(self, peer: socket.socket, data: bytearray, entry: Entry) -> Request | None:
        """The next request, its body thrown away; None at the end of the connection."""
        with gevent.Timeout(IDLE_S):
            if not data and not self._more(peer, data):
                return None
        entry.begin()
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
        entry.came(request, length)
        return request

    def _more(self, peer: socket.socket, data: bytearray) -> bool:
        more = peer.recv(READ_BYTES)
        data += more
        return bool(more)

    def _respond(self, peer: socket.socket, entry: Entry, request: Request | None, response: Response) -> None:
        """Send the answer and log it, whatever became of it. `request` None: it could not be read, and the connection ends."""
        try:
            self._send_response(peer, entry, request, response)
        except (OSError, gevent.Timeout, gevent.GreenletExit):
            entry.gone()
            raise
        finally:
            self._logging(entry)

    def _send_response(self, peer: socket.socket, entry: Entry, request: Request | None, response: Response) -> None:
        if response.pieces is not None and request is not None and request.version_minor == 0:
            # HTTP/1.0 knows no chunks.
            response = Response("".join(response.pieces).encode(), response.status, response.content_type, response.headers)
        head_only = request is not None and request.method == "HEAD"
        data = render(response, request is not None and request.keep_alive, head_only)
        head_bytes = len(data) - (0 if head_only else len(response.body))
        entry.answers(response.status, data[:head_bytes])
        self._send(peer, data)
        entry.sent(len(data), len(data) - head_bytes)
        if response.pieces is None or head_only:
            return
        for piece in gathered(response.pieces):
            framed = chunk(piece)
            self._send(peer, framed)
            entry.sent(len(framed), len(piece))
            gevent.sleep(0)  # the rings must not fill up while a long page is made
        self._send(peer, LAST_CHUNK)
        entry.sent(len(LAST_CHUNK))

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


def _address(name: tuple | str | bytes) -> str:
    """Of a socket, as logs have it; a UNIX socket's path, "" for one without."""
    if isinstance(name, bytes):  # of Linux' abstract names
        return name.replace(b"\0", b"@", 1).decode(errors="replace")
    if isinstance(name, str):
        return name
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
