"""Stand-ins for worker, agent and loader, so that the master is tested alone. Plain Python, no gevent.

The worker answers one line for each line: `who` with its slot, pid and version; `hold` with `held`, and keeps the connection; `hang`,
`abort` and `exit N` do what they say. A cluster whose name begins with `refuse`, `boot-error`, `config-error`, `crash` or `slow` makes it
do that.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from meshproxy import priority
from meshproxy.errors import ConfigError, Problem
from meshproxy.ipc.boot import AgentBoot, WorkerBoot
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import (
    AdoptConnections,
    Applied,
    Configure,
    Drain,
    LetGo,
    NodeState,
    Order,
    PutAnswer,
    PutResource,
    PutResources,
    Ready,
    Refusal,
    ReopenLogs,
    Sockets,
    Stop,
    Warm,
)
from meshproxy.model import Cluster, EndpointSet, Node, Resource, ResourceKind, Secret, Snapshot, TicketKeys
from meshproxy.model.snapshot import pack

READY = 2


class Found(NamedTuple):
    """What a loader's entry gives."""

    snapshot: Snapshot
    warnings: list[Problem]


def load(path: str, env: Mapping[str, str]) -> Found:
    """A Snapshot as JSON; one whose node is called "odd" gets a warning."""
    try:
        with open(path, "rb") as file:
            found = msgspec.json.decode(file.read(), type=Snapshot)
            return Found(found, [Problem("an odd name", file=path)] if found.node.id == "odd" else [])
    except OSError as error:
        raise ConfigError([Problem(error.strerror or "", file=path)]) from None
    except msgspec.MsgspecError as error:
        second = Problem("and a second thing", path="clusters[0]", file=path, line=2)
        raise ConfigError([Problem(str(error), file=path, line=1), second]) from None


def load_and_die(path: str, env: Mapping[str, str]) -> Found:
    os.abort()


def load_and_tell_policy(path: str, env: Mapping[str, str]) -> Found:
    """The node is called by the number of the scheduling policy that the loader runs under."""
    return Found(Snapshot(node=Node(id=str(os.sched_getscheduler(0)))), [])


def load_unless_idle(path: str, env: Mapping[str, str]) -> Found:
    """As on a host whose processors are never idle."""
    if os.sched_getscheduler(0) == os.SCHED_IDLE:
        time.sleep(3600)
    return load(path, env)


def run_worker(boot: WorkerBoot) -> int:
    return StubWorker(boot).run()


def import_nothing(boot: object) -> int:
    raise ImportError("no compiled module")


class StubWorker:
    def __init__(self, boot: WorkerBoot) -> None:
        self.boot = boot
        self.version = boot.version
        self.channel = Channel.from_fd(boot.channel_fd)
        self.names = {(each.kind, each.name): each for each in boot.resources}
        self.listening: dict[tuple[str, int], socket.socket] = {}
        self.connections: dict[int, socket.socket] = {}
        self.early: list = []
        self.draining = False
        self.take(zip(boot.sockets, boot.fds, strict=True))

    def run(self) -> int:
        for code, prefix in ((3, "boot-error"), (4, "config-error")):
            if self.has(prefix):
                return code
        if self.has("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.has("slow"):
            time.sleep(3600)
        if self.boot.idle:
            priority.come_back()
        self.boot.region.add_cell(self.boot.slot, 0, 1)
        odd = [each for each in self.boot.resources if each.name.startswith("refuse") and each.origin == "xds"]
        self.channel.send(Ready(version=self.version, refused=[Refusal(each.kind, each.name, "born without it") for each in odd]))
        while True:
            self.boot.region.set_heartbeat_ms(self.boot.slot, int(time.monotonic() * 1000))
            if self.draining and not self.connections:
                return 0
            self.turn()

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for _, name in self.names)

    def turn(self) -> None:
        poll = select.poll()
        sources = {each.fileno(): each for each in [self.channel, *self.listening.values(), *self.connections.values()]}
        for fd in sources:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(200):
            source = sources[fd]
            if source is self.channel:
                self.hear()
            elif source in self.listening.values():
                self.accept(source)
            elif fd in self.connections:
                self.answer(source)

    def accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self.connections[connection.fileno()] = connection

    def answer(self, connection: socket.socket) -> None:
        try:
            words = connection.recv(100).decode().split()
        except OSError:
            words = []
        if not words:
            del self.connections[connection.fileno()]
            connection.close()
            return
        self.boot.region.set_last_exchange(self.boot.slot, " ".join(words).encode())
        if words[0] == "hang":
            time.sleep(3600)
        elif words[0] == "abort":
            os.abort()
        elif words[0] == "exit":
            os._exit(int(words[1]))
        elif words[0] == "hold":
            connection.sendall(b"held\n")
            return
        connection.sendall(f"{self.boot.slot} {os.getpid()} {self.version}\n".encode())
        del self.connections[connection.fileno()]
        connection.close()

    def hear(self) -> None:
        for message, fds in self.channel.receive():
            if isinstance(message, Sockets):
                self.early += zip(message.sockets, fds, strict=True)
            elif isinstance(message, Configure):
                self.configure(message, fds)
            elif isinstance(message, AdoptConnections):
                for fd in fds:
                    self.connections[fd] = socket.socket(fileno=fd)
            elif isinstance(message, Drain):
                self.stop_listening(list(self.listening))
                self.draining = True
            elif isinstance(message, Stop):
                os._exit(0)
        if self.channel.closed:
            os._exit(0)

    def configure(self, message: Configure, fds: list[int]) -> None:
        sockets = self.early + list(zip(message.sockets, fds, strict=True))
        self.early = []
        if odd := [each for each in message.upserts if each.name.startswith("refuse")]:
            for _, fd in sockets:
                os.close(fd)
            blamed = [Refusal(each.kind, each.name, "this name is refused") for each in odd if not each.name.startswith("refuse-all")]
            self.channel.send(Applied(version=message.version, error="this name is refused", refused=blamed))
            return
        self.names.update({(each.kind, each.name): each for each in message.upserts})
        for key in message.removes:
            self.names.pop(tuple(key), None)
        self.stop_listening([key for key in self.listening if (ResourceKind.LISTENER, key[0]) in {tuple(each) for each in message.removes}])
        self.take(sockets)
        self.version = message.version
        self.channel.send(Applied(version=message.version))
        self.channel.send(LetGo(version=message.version))

    def take(self, sockets) -> None:
        sockets = list(sockets)
        names = {each.listener for each, _ in sockets}
        self.stop_listening([key for key in self.listening if key[0] in names])
        for each, fd in sockets:
            self.listening[each.listener, each.address_index] = socket.socket(fileno=fd)

    def stop_listening(self, keys) -> None:
        for key in keys:
            self.accept(self.listening[key])
            self.listening.pop(key).close()


def run_agent(boot: AgentBoot) -> int:
    """Says what it hears on stderr; on its admin socket `put CLUSTER` puts endpoints, `secret NAME` a secret, `bring` and a PutResources as
    JSON puts that and answers with what was refused, any other word is an order to the master. A configuration is warm at
    once, or when endpoints of each cluster whose name begins with `cold` were put."""
    channel = Channel.from_fd(boot.channel_fd)
    admin = socket.socket(fileno=boot.admin_fd) if boot.admin_fd >= 0 else None
    if boot.idle:
        priority.come_back()
    channel.send(Ready(version=boot.version))
    version, cold = boot.version, _cold(boot.resources)
    if not cold:
        channel.send(Warm(version=version))
    rows = {(kind, name) for kind, name, _ in boot.directory.rows}
    say("has " + " ".join(sorted(f"{each.origin}:{each.name}" for each in boot.resources)))
    waiting: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([channel, *([admin] if admin else [])], [], [])
        if channel in readable:
            for message, _ in channel.receive():
                if isinstance(message, Stop):
                    return 0
                if isinstance(message, ReopenLogs):
                    say("reopen")
                elif isinstance(message, Configure):
                    rows |= {(kind, name) for kind, name, _ in message.directory_rows}
                    rows -= {tuple(key) for key in message.directory_removed}
                    say(f"configure {message.version} rows={len(rows)}")
                    version, cold = message.version, cold | _cold(message.upserts)
                    if not cold:
                        channel.send(Warm(version=version))
                elif isinstance(message, NodeState):
                    say(f"state live={message.live} workers={','.join(row.state for row in message.workers)}")
                elif isinstance(message, PutAnswer):
                    with waiting.pop(message.id) as client:
                        client.sendall(msgspec.json.encode(message.refused) + b"\n")
                elif message.id in waiting:
                    with waiting.pop(message.id) as client:
                        client.sendall(msgspec.json.encode([message.ok, message.errors]) + b"\n")
            if channel.closed:
                return 0
        if admin in readable:
            client, _ = admin.accept()
            text = client.recv(1 << 20)
            words = text.decode().split()
            if words[0] == "bring":
                put = msgspec.json.decode(text.partition(b" ")[2], type=PutResources)
                waiting[put.id] = client
                channel.send(put)
            elif words[0] == "put":
                channel.send(PutResource(resource=pack(ResourceKind.ENDPOINTS, words[1], EndpointSet(cluster=words[1]))))
                if words[1] in cold:
                    cold.remove(words[1])
                    channel.send(Warm(version=version))
                client.close()
            elif words[0] == "secret":
                secret = Secret(name=words[1], value=TicketKeys(keys=(b"k" * 80,)))
                channel.send(PutResource(resource=pack(ResourceKind.SECRET, words[1], secret)))
                client.close()
            elif words[0] == "exit":
                os._exit(int(words[1]))
            else:
                number = len(waiting) + 1
                waiting[number] = client
                channel.send(Order(id=number, verb=words[0], listeners=words[1:]))


def run_bringing_agent(boot: AgentBoot) -> int:
    """Before there is a worker it puts a cluster that none takes; then it is an agent as the other, without an admin socket's words."""
    channel = Channel.from_fd(boot.channel_fd)
    channel.send(Ready(version=boot.version))
    odd = pack(ResourceKind.CLUSTER, "refuse-later", Cluster(name="refuse-later"))
    channel.send(PutResources(id=1, upserts=[odd]))
    while not channel.closed:
        for message, _ in channel.wait(1.0):
            if isinstance(message, PutAnswer):
                channel.send(Warm(version="1.1"))
            elif isinstance(message, Stop):
                return 0
    return 0


def _cold(resources: list[Resource]) -> set[str]:
    return {each.name for each in resources if each.kind is ResourceKind.CLUSTER and each.name.startswith("cold")}


def say(text: str) -> None:
    print(f"stub agent: {text}", file=sys.stderr, flush=True)
