"""What is said to systemd, and the sockets that it gives (sd_notify(3), sd_listen_fds(3)). Without systemd all of it does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

from meshproxy.clock import monotonic_ns
from meshproxy.errors import MeshproxyError

FIRST_FD = 3


class Notifier:
    """Speaks to $NOTIFY_SOCKET. `watchdog_interval_s` is how often `alive` must be called, 0 = never."""

    def __init__(self, env: Mapping[str, str], pid: int) -> None:
        self._address = env.get("NOTIFY_SOCKET", "")
        self.watchdog_interval_s = 0.0
        watched = env.get("WATCHDOG_PID", "")
        if self._address and env.get("WATCHDOG_USEC", "").isdigit() and watched in ("", str(pid)):
            # Half of it, as sd_watchdog_enabled(3) advises.
            self.watchdog_interval_s = int(env["WATCHDOG_USEC"]) / 1e6 / 2

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def reloading(self) -> None:
        """Must be followed by `ready`, whichever way the reload ends."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, text: str) -> None:
        self._send("STOPPING=1", f"STATUS={text}")

    def main_pid(self, pid: int) -> None:
        """Another process is the service's main one from now on."""
        self._send(f"MAINPID={pid}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # "@" stands for the NUL of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(lines).encode(), address)
            except OSError:
                # A service manager that does not listen must not stop the service.
                pass


def listen_fds(env: MutableMapping[str, str], pid: int) -> list[int]:
    """Sockets that systemd gave to this process; the variables are removed, so that no child takes them for its own.

    Raises MeshproxyError for one that is no listening stream socket.
    """
    count, owner = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_PID", "")
    env.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or owner != str(pid):
        return []
    fds = list(range(FIRST_FD, FIRST_FD + int(count)))
    for fd in fds:
        os.set_inheritable(fd, False)
        _check(fd)
    return fds


def _check(fd: int) -> None:
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            good = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        good = False
    if not good:
        raise MeshproxyError(
            f"descriptor {fd} of LISTEN_FDS is not a listening stream socket. Use ListenStream= and Accept=no in the .socket unit."
        )
