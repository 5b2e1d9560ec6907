"""Network namespaces (ip-netns(8)): a client's host and a proxy's, joined by a cable, to be filled with netfilter's rules."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tests.peers.process import program

_CLONE_NEWNET = 0x40000000
CLIENT_V4, PROXY_V4 = "10.77.0.2", "10.77.0.1"
CLIENT_V6, PROXY_V6 = "fd77::2", "fd77::1"


class CannotError(Exception):
    """This machine lets us make no namespaces, or rules in them; the text says why."""


def _path(name: str) -> str:
    return program(name, "iproute2" if name == "ip" else "iptables")


def _run(*command: str) -> None:
    done = subprocess.run([_path(command[0]), *command[1:]], capture_output=True, text=True)
    if done.returncode:
        raise CannotError(f"{' '.join(command)}: {done.stderr.strip()}")


class Hosts:
    """Two hosts for one test; all that the client sends to elsewhere goes to the proxy's. Raises CannotError or PeerMissingError."""

    def __init__(self) -> None:
        self.client = f"meshproxy-c{os.getpid()}"
        self.proxy = f"meshproxy-p{os.getpid()}"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise CannotError("network namespaces need root")
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def _build(self) -> None:
        for name in (self.client, self.proxy):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", self.client, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", self.proxy)
        for name, v4, v6 in ((self.client, CLIENT_V4, CLIENT_V6), (self.proxy, PROXY_V4, PROXY_V6)):
            _run("ip", "-n", name, "addr", "add", f"{v4}/24", "dev", "cable")
            _run("ip", "-n", name, "addr", "add", f"{v6}/64", "dev", "cable", "nodad")
            _run("ip", "-n", name, "link", "set", "cable", "up")
        _run("ip", "-n", self.client, "route", "add", "default", "via", PROXY_V4)
        _run("ip", "-n", self.client, "-6", "route", "add", "default", "via", PROXY_V6)

    def rule(self, *command: str) -> None:
        """A command in the proxy's namespace: `iptables ...`, `ip rule ...`."""
        _run("ip", "netns", "exec", self.proxy, _path(command[0]), *command[1:])

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection of the client's host."""
        # A namespace is a thread's: one of its own makes the socket, which stays in the namespace that it was made in.
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(self._connect, host, port).result()

    def _connect(self, host: str, port: int) -> socket.socket:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.client}") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise CannotError(f"setns: {os.strerror(ctypes.get_errno())}")
        return socket.create_connection((host, port), timeout=20)

    def _remove(self) -> None:
        for name in (self.client, self.proxy):
            subprocess.run([_path("ip"), "netns", "del", name], capture_output=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()
