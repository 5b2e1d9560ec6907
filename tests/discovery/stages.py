"""What the sources' conformance suite is run on: for each kind of source a real peer that can be changed, broken and mended."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import gevent
from gevent.queue import Queue
from gevent.server import DatagramServer, StreamServer
from gevent.socket import create_connection

from meshproxy.discovery.consul import ConsulSource
from meshproxy.discovery.endpoint_files import FileSource
from meshproxy.discovery.name_servers import NameServers
from meshproxy.discovery.srv import Lookups, SrvSource
from meshproxy.model import ConsulServer, ConsulService, DnsSrv, Endpoint, EndpointFiles, SocketAddress
from tests.peers.consul import Consul
from tests.peers.dnsmasq import Dnsmasq
from tests.peers.process import free_ports

PATIENCE_S = 30


class Heard:
    """A sink: whole sets as lists of addresses in `sets`, errors in `errors`, and one entry in `same` for each unchanged answer."""

    def __init__(self) -> None:
        self.sets: Queue = Queue()
        self.errors: Queue = Queue()
        self.same: Queue = Queue()
        self.last: tuple[Endpoint, ...] = ()

    def found(self, endpoints: tuple[Endpoint, ...]) -> None:
        self.last = endpoints
        self.sets.put([str(endpoint.address) for endpoint in endpoints])

    def unchanged(self) -> None:
        self.same.put(True)

    def failed(self, error: str) -> None:
        self.errors.put(error)

    def next_set(self) -> list[str]:
        return self.sets.get(timeout=PATIENCE_S)

    def next_error(self) -> str:
        return self.errors.get(timeout=PATIENCE_S)


class QuickClock:
    """A clock whose waits are short."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._at_s = 0.0

    def now_s(self) -> float:
        self._at_s += 1
        return self._at_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        gevent.sleep(min(seconds, 0.01))

    def random(self) -> float:
        return 0.5


class Stage(Protocol):
    """`ports` are the endpoints' on 127.0.0.1."""

    source: object

    def set(self, *ports: int) -> None:
        """From now on these are the endpoints."""

    def touch(self) -> None:
        """Something changes, and not the endpoints."""

    def fail(self) -> None:
        """It cannot be asked."""

    def garble(self) -> None:
        """It answers nonsense."""

    def mend(self) -> None:
        """After `fail` or `garble`: it answers as before."""


class Relay:
    """A TCP relay that can refuse, be silent, or answer by itself."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.answer: bytes | None = None
        """Instead of relaying; b"" = nothing at all."""
        self._handlers: set[gevent.Greenlet] = set()
        self._server = StreamServer(("127.0.0.1", 0), self._take)
        self._server.start()
        self.port = self._server.server_port

    @property
    def links(self) -> int:
        return len(self._handlers)

    def _take(self, link: socket.socket, address: object) -> None:
        me = gevent.getcurrent()
        self._handlers.add(me)
        try:
            if self.answer is not None:
                while link.recv(65536):
                    if self.answer:
                        link.sendall(self.answer)
                        return
                return
            with create_connection(("127.0.0.1", self._to)) as onward:
                back = gevent.spawn(self._copy, onward, link)
                try:
                    self._copy(link, onward)
                finally:
                    back.kill()
        except OSError:
            pass
        finally:
            self._handlers.discard(me)
            link.close()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self) -> None:
        gevent.killall(list(self._handlers))

    def close(self) -> None:
        self._server.stop()
        self.cut()

    def refuse(self) -> None:
        self._server.close()
        self.cut()

    def open(self) -> None:
        self._server = StreamServer(("127.0.0.1", self.port), self._take)
        self._server.start()


class ConsulStage:
    _numbers = itertools.count()

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self.service = f"web-{next(self._numbers)}"
        self.relay = Relay(consul.port)
        self.wanted = ConsulService(service=self.service, server=ConsulServer(address=SocketAddress("127.0.0.1", self.relay.port)))
        self.source = ConsulSource(self.wanted)
        self._ports: list[int] = []
        self._refused = False

    def set(self, *ports: int) -> None:
        for port in set(ports) - set(self._ports):
            self._consul.register(self.service, port)
        for port in set(self._ports) - set(ports):
            self._consul.deregister(f"{self.service}-{port}")
        self._ports = list(ports)

    def touch(self) -> None:
        self._consul.register(self.service, self._ports[0], Meta={"touched": str(next(self._numbers))})

    def fail(self) -> None:
        self._refused = True
        self.relay.refuse()

    def garble(self) -> None:
        self.relay.answer = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 9\r\n\r\n{garbage}"
        self.relay.cut()

    def mend(self) -> None:
        self.relay.answer = None
        if self._refused:
            self.relay.open()

    def close(self) -> None:
        self.relay.close()
        self.set()


class SrvStage:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_ports(1)[0]
        (directory / "resolv.conf").write_text("search sub.test\nnameserver 127.0.0.1\noptions timeout:1\n")
        servers = NameServers(str(directory / "resolv.conf"), "/dev/null", self._port)
        self.source = SrvSource(DnsSrv(name="_web._tcp"), lambda: Lookups(servers.srv, servers))
        self._dnsmasq: Dnsmasq | None = None
        self._garbage: DatagramServer | None = None
        self.records: list[str] = []

    def set(self, *ports: int) -> None:
        self.set_records(*(f"_web._tcp.sub.test,a.test,{port},1,{port % 100}" for port in ports))

    def set_records(self, *records: str) -> None:
        self.records = list(records)
        self._stop()
        self._start()

    def _start(self) -> None:
        self._dnsmasq = Dnsmasq(self._directory, self._port, {"a.test": "127.0.0.1"}, ttl_s=0)
        self._dnsmasq.more = ["--local=/_tcp/", *(f"--srv-host={record}" for record in self.records)]
        self._dnsmasq.start()

    def _stop(self) -> None:
        if self._dnsmasq is not None:
            self._dnsmasq.stop()
            self._dnsmasq = None
        if self._garbage is not None:
            self._garbage.stop()
            self._garbage = None

    def touch(self) -> None:
        """It is asked again and again."""

    def fail(self) -> None:
        self._stop()

    def garble(self) -> None:
        self._stop()
        self._garbage = DatagramServer(("127.0.0.1", self._port), lambda data, address: self._garbage.sendto(data[:5], address))
        self._garbage.start()

    def mend(self) -> None:
        self._stop()
        self._start()

    def close(self) -> None:
        self._stop()


class FilesStage:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.source = FileSource(EndpointFiles(globs=(str(directory / "*.json"), str(directory / "*.yaml"))))
        self._text = ""
        (directory / "not.txt").write_text("[10.0.0.1:80]")

    def set(self, *ports: int) -> None:
        self.write(json.dumps([f"127.0.0.1:{port}" for port in ports]))

    def write(self, text: str, name: str = "web.yaml") -> None:
        self._text = text
        (self._directory / name).write_text(text)

    def touch(self) -> None:
        self.write(self._text + " ")

    def fail(self) -> None:
        """A file that cannot be read, whoever reads it."""
        (self._directory / "web.yaml").write_bytes(b"\xff\xfe")

    def garble(self) -> None:
        (self._directory / "web.yaml").write_text("- {address: nowhere}\n")

    def mend(self) -> None:
        self.write(self._text)

    def close(self) -> None:
        """Nothing runs."""


@contextmanager
def watched(source: object) -> Iterator[tuple[Heard, QuickClock]]:
    """Watched in a greenlet for as long as the block lasts."""
    heard, clock = Heard(), QuickClock()
    running = gevent.spawn(source.watch, heard, clock)  # type: ignore[attr-defined]
    try:
        yield heard, clock
        assert not running.ready(), running.exception
    finally:
        running.kill()
