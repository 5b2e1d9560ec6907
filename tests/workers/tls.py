"""Both ends of a TLS conversation in one thread: a transport on a loop, and Python's own OpenSSL client or server over a socket pair."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

import gevent
from meshproxy.workers.loop import Loop

from meshproxy.model import Certificate, DownstreamTls, TrustedCa, UpstreamTls
from meshproxy.scoreboard.region import Region
from meshproxy.workers.tls_context import SessionStore, TlsContext, client_context, server_context
from meshproxy.workers.tls_ticket_keys import TicketKeys
from meshproxy.workers.tls_try import End
from tests.support.certificates import Authority, Issued

MOST_TURNS = 2000


class Worker:
    """A loop that turns when it is told to."""

    def __init__(self) -> None:
        self.region = Region.create(1)
        self.loop = Loop(gevent.get_hub(), self.region, 0, 1 << 30, logging.getLogger("test"))
        self.authority = Authority()
        self.basic = self.secrets(server=self.authority.issue("mesh.test"))

    def turn(self) -> None:
        self.loop.run_turn()

    def secrets(self, **issued: Issued) -> dict[str, object]:
        """Certificates by name, and the authority as `ca`."""
        made = {name: Certificate(chain_pem=one.pem, key_pem=one.key_pem()) for name, one in issued.items()}
        return {**made, "ca": TrustedCa(pem=self.authority.pem)}

    def context(self, model: DownstreamTls | None = None, secrets: dict[str, object] | None = None, root: bytes = b"r" * 32) -> TlsContext:
        """A server's context; without more, for one certificate of `mesh.test`."""
        return server_context(model or DownstreamTls(certificates=("server",)), secrets or self.basic, TicketKeys((), root))

    def upstream(self, model: UpstreamTls, secrets: dict[str, object] | None = None) -> TlsContext:
        """A client's context of ours."""
        return client_context(model, secrets or self.secrets())

    def server(
        self, issued: Issued | None = None, *, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, alpn: tuple[str, ...] = (),
        asks: bool = False,
    ) -> ssl.SSLContext:
        """Python's server; `asks`: it demands a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = maximum
        load(context, issued or self.authority.issue("mesh.test"))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if asks:
            context.load_verify_locations(cadata=self.authority.pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(
        self, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        alpn: tuple[str, ...] = (), own: Issued | None = None,
    ) -> ssl.SSLContext:
        """Python's client, which trusts the authority."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        context.minimum_version, context.maximum_version = minimum, maximum
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if own is not None:
            load(context, own)
        return context


def load(context: ssl.SSLContext, issued: Issued) -> None:
    """Python reads certificates from files only."""
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*issued.write(Path(folder), "own"))


class Peer:
    """Python's end: its records go through a socket that does not block."""

    def __init__(
        self, worker: Worker, sock: socket.socket, context: ssl.SSLContext, *, server: bool = False, name: str | None = "mesh.test",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.worker = worker
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server, None if server else name, session)
        self.ended = False

    def move(self) -> None:
        """Send what waits, let the worker turn, take what came."""
        data = self.outgoing.read()
        if data:
            with contextlib.suppress(BrokenPipeError):           # the worker has closed; what it said is read below
                self.sock.sendall(data)
        self.worker.turn()
        try:
            while not self.ended:
                data = self.sock.recv(1 << 20)
                self.ended = not data
                self.incoming.write(data) if data else self.incoming.write_eof()
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True
            self.incoming.write_eof()

    def run(self, step: Callable[[], object]) -> object:
        """Repeat a step of Python's TLS until it is done."""
        for _ in range(MOST_TURNS):
            try:
                result = step()
            except ssl.SSLWantReadError:
                self.move()
                continue
            self.move()
            return result
        raise AssertionError("the other side says nothing more")

    def shake(self) -> Peer:
        self.run(self.tls.do_handshake)
        return self

    def send(self, data: bytes) -> None:
        self.run(lambda: self.tls.write(data))

    def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        while len(data) < count:
            more = self.run(functools.partial(self.tls.read, count - len(data)))
            assert more, f"the end after {len(data)} of {count} bytes"
            data += more
        return data

    def close(self) -> None:
        self.sock.close()


class Conversation:
    """A transport of ours and a peer: a client of our server, or with `server` Python's server of our client.

    Without `python` the peer is just a socket.
    """

    def __init__(
        self, worker: Worker, context: TlsContext, python: ssl.SSLContext | None = None, *, server: bool = False, echoes: bool = False,
        sni: bytes | None = b"mesh.test", sessions: SessionStore | None = None, **of_peer: object,
    ) -> None:
        ours, theirs = pair()
        self.worker = worker
        self.end = End(worker.loop, ours.detach(), context, sni, sessions, not server, echoes)
        self.sock = theirs
        self.peer = Peer(worker, theirs, python, server=server, **of_peer) if python is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        self.end.close()

    def events(self, *kinds: str) -> list[tuple]:
        """What the protocol was told, of some kinds or all."""
        return [event for event in self.end.events if not kinds or event[0] in kinds]

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn until something holds."""
        for _ in range(MOST_TURNS):
            if condition():
                return
            if self.peer is not None:
                self.peer.move()
            else:
                self.worker.turn()
        raise AssertionError(f"it never held; events: {self.end.events[-5:]}")

    def until_closed(self) -> tuple:
        """(why, errno, failure) of our transport's end."""
        self.until(lambda: bool(self.events("closed")))
        return self.end.events[-1][1:]


class Both:
    """Our client and our server."""

    def __init__(self, worker: Worker, server: TlsContext, client: TlsContext, **of_client: object) -> None:
        self.worker = worker
        a, b = pair()
        self.server = End(worker.loop, a.detach(), server, server=True)
        self.client = End(worker.loop, b.detach(), client, b"mesh.test", None, False, **of_client)

    def turns(self, condition: Callable[[], bool]) -> None:
        """Turn until something holds."""
        for _ in range(200):
            if condition():
                return
            self.worker.turn()
        raise AssertionError((self.server.events, self.client.events))

    def shake(self) -> Self:
        self.turns(lambda: bool(self.client.events and self.server.events))
        return self


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends
