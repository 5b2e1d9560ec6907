"""Questions to a Consul server by HTTP over gevent's sockets: one connection, kept open, one question at a time.

The standard library parses the answers; what it reads from is a gevent socket, so a question that waits for minutes holds up nobody.
"""

from __future__ import annotations

import http.client
import json
import socket as constants
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gevent
from gevent import socket, ssl

from meshproxy.discovery.source import SourceError
from meshproxy.model import ConsulServer, SocketAddress

CONNECT_LIMIT_S = 5.0
GRACE_S = 10.0
"""For an answer, on top of the time that the server was allowed to wait."""
MOST_BYTES = 64 << 20
"""An instance is 1 to 2 KiB: some 30,000 of them."""
SHOWN = 200
"""Bytes of an error's text."""
# A server whose machine is gone is noticed within half a minute, though nothing is sent while a question waits.
KEEP_ALIVE = ((constants.TCP_KEEPIDLE, 15), (constants.TCP_KEEPINTVL, 5), (constants.TCP_KEEPCNT, 3))


class Told(NamedTuple):
    """An answer. `body` is JSON as data; headers' names in any case."""

    body: Any
    headers: http.client.HTTPMessage


class RefusedError(SourceError):
    """It answered, and not with 200. `index` is what it told of the state all the same; "" = nothing."""

    def __init__(self, text: str, status: int, index: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.index = index


class ConsulClient:
    """Closed by `close`; opens itself again for the next question."""

    def __init__(self, server: ConsulServer, grace_s: float = GRACE_S) -> None:
        self._server = server
        self._grace_s = grace_s
        self._link: _Link | None = None

    def get(self, path: str, query: list[tuple[str, str]], wait_s: float = 0.0) -> Told:
        """Ask, and wait `wait_s` longer than for another. Raises SourceError for whatever is no good answer; then it is closed. It is a
        RefusedError when the server said no; then it stays open."""
        return self._insist("GET", path, query, None, wait_s)

    def put(self, path: str, query: list[tuple[str, str]] | None = None, body: Any = None) -> Told:
        """Have it do something; `body` becomes JSON. Raises as `get` does. It is told twice when the connection broke at the first time."""
        return self._insist("PUT", path, query or [], body, 0.0)

    def _insist(self, method: str, path: str, query: list[tuple[str, str]], content: Any, wait_s: float) -> Told:
        # A connection that was kept open may have been closed at the other end for no reason: then it is asked again, once.
        for is_last in (self._link is None, True):
            try:
                return self._ask(method, path, query, content, wait_s)
            except _GoneError as error:
                self.close()
                if is_last:
                    raise SourceError(str(error)) from error
            except RefusedError:
                raise
            except BaseException:
                self.close()
                raise
        raise AssertionError("the last try gives or raises")

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _ask(self, method: str, path: str, query: list[tuple[str, str]], content: Any, wait_s: float) -> Told:
        headers = {"Accept": "application/json", "User-Agent": "meshproxy"}
        if token := self._token():
            headers["X-Consul-Token"] = token
        limit_s = CONNECT_LIMIT_S + wait_s + self._grace_s
        try:
            with gevent.Timeout(limit_s, TimeoutError(f"no answer within {limit_s:g} s")):
                if self._link is None:
                    self._link = _Link(self._server)
                    self._link.connect()
                asked = None if content is None else json.dumps(content)
                self._link.request(method, f"{path}?{urlencode(query)}" if query else path, asked, headers)
                answer = self._link.getresponse()
                body = answer.read(MOST_BYTES + 1)
        except TimeoutError as error:
            raise SourceError(f"{self._place()}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _GoneError(f"{self._place()}: {error or type(error).__name__}") from error
        except ValueError as error:  # a header that is no header
            raise SourceError(f"{self._place()}: {error}") from error
        if len(body) > MOST_BYTES:
            raise SourceError(f"{self._place()}: the answer has more than {MOST_BYTES >> 20} MiB")
        if answer.status != 200:
            raise RefusedError(f"{self._place()}: {answer.status} {_shown(body)}", answer.status, answer.headers.get("X-Consul-Index", ""))
        try:
            return Told(json.loads(body) if body or method == "GET" else None, answer.headers)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self._place()}: the answer is no JSON: {_shown(body)}") from error

    def _token(self) -> str:
        if not self._server.token_file:
            return self._server.token
        try:
            with open(self._server.token_file, encoding="ascii") as file:
                token = file.read(4096).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"token file {self._server.token_file}: {error}") from error
        if not token.isprintable():
            raise SourceError(f"token file {self._server.token_file}: it has more than one line")
        return token

    def _place(self) -> str:
        return f"consul at {self._server.address}"


class _GoneError(Exception):
    """The connection broke or could not be made."""


class _Link(http.client.HTTPConnection):
    """A connection on a gevent socket, in TLS or not, by TCP or a UNIX socket."""

    auto_open = 0

    def __init__(self, server: ConsulServer) -> None:
        address = server.address
        super().__init__(address.host if isinstance(address, SocketAddress) else "localhost", getattr(address, "port", 80))
        self._server = server

    def connect(self) -> None:
        address = self._server.address
        if isinstance(address, SocketAddress):
            opened = socket.create_connection((address.host, address.port), CONNECT_LIMIT_S)
            opened.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
            opened.setsockopt(constants.SOL_SOCKET, constants.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE:
                opened.setsockopt(constants.IPPROTO_TCP, option, value)
        else:
            opened = socket.socket(constants.AF_UNIX, constants.SOCK_STREAM)
            try:
                opened.settimeout(CONNECT_LIMIT_S)
                opened.connect("\0" + address.path[1:] if address.path.startswith("@") else address.path)
            except BaseException:
                opened.close()
                raise
        try:
            self.sock = self._secured(opened)
        except BaseException:
            opened.close()
            raise
        self.sock.settimeout(None)  # the whole question has a limit

    def _secured(self, opened: socket.socket) -> Any:
        server = self._server
        if server.scheme == "http":
            return opened
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if server.ca_file:
            context.load_verify_locations(server.ca_file)
        else:
            context.load_default_certs()
        if server.cert_file:
            context.load_cert_chain(server.cert_file, server.key_file or None)
        return context.wrap_socket(opened, server_hostname=server.server_name or self.host)


def _shown(body: bytes) -> str:
    return body[:SHOWN].decode("utf-8", "replace").strip()
