"""One listening socket: made, or refused in words that name listener, address, cause and remedy."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass

from meshproxy.errors import BindError
from meshproxy.model import Address, PipeAddress, SocketAddress

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75


@dataclass(frozen=True)
class Wish:
    """An address that somebody wants to listen on. `owner` is how messages call him: `listener "ingress"`, `admin`."""

    owner: str
    address: Address
    backlog: int = 4096
    ipv6_only: bool = True
    freebind: bool = False
    place: str = ""
    """File of the configuration, for messages."""
    transparent: bool = False
    """Take connections for addresses that the host does not have (TPROXY): needs CAP_NET_RAW or CAP_NET_ADMIN."""


def bind(wish: Wish, shares_port: bool = False) -> tuple[int, Address]:
    """A non-blocking listening descriptor, and its address with the port that the kernel picked. Raises BindError.

    `shares_port`: with SO_REUSEPORT, for the sockets of one group; who else may be there is checked by `refuse_taken` before.
    """
    try:
        with _unbound(wish, shares_port) as sock:
            if isinstance(wish.address, PipeAddress):
                _bind_pipe(sock, wish.address)
            else:
                sock.bind((wish.address.host, wish.address.port))
            sock.listen(wish.backlog)
            address = wish.address
            if isinstance(address, SocketAddress):
                address = SocketAddress(address.host, sock.getsockname()[1])
            return sock.detach(), address
    except (OSError, UnicodeError) as error:
        raise refusal(wish, error) from None


def refuse_taken(wish: Wish) -> None:
    """Raises BindError if the port is taken. With SO_REUSEPORT alone another program of the same user would share it unnoticed."""
    if not isinstance(wish.address, SocketAddress) or wish.address.port == 0:
        return
    try:
        with _unbound(wish, shares_port=False) as sock:
            sock.bind((wish.address.host, wish.address.port))
    except (OSError, UnicodeError) as error:
        raise refusal(wish, error) from None


def refusal(wish: Wish, error: Exception) -> BindError:
    number = error.errno if isinstance(error, OSError) else 0
    cause = str(error) if not isinstance(error, OSError) or not error.strerror else error.strerror.lower()
    place = f" ({wish.place})" if wish.place else ""
    return BindError(f"{wish.owner}: cannot bind {wish.address}: {cause}. {_remedy(wish, number)}{place}")


def is_live(path: str) -> bool:
    """Whether somebody listens on a UNIX socket's path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except BlockingIOError:
            # Its queue is full: very much alive.
            return True
        except OSError:
            return False
    return True


def _unbound(wish: Wish, shares_port: bool) -> socket.socket:
    address = wish.address
    if isinstance(address, PipeAddress):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
        # Connections of a former process in TIME_WAIT do not hold the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares_port))
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(wish.ipv6_only))
        if wish.freebind:
            level, option = (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if sock.family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_FREEBIND)
            sock.setsockopt(level, option, 1)
        try:
            if wish.transparent:
                set_transparent(sock, True)
        except OSError:
            sock.close()
            raise
    sock.setblocking(False)
    return sock


def set_transparent(sock: socket.socket, wanted: bool) -> None:
    """On a TCP socket; what is accepted from it inherits it. Both families' options, as an IPv6 socket may have IPv4 clients."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, wanted)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, wanted)


def _bind_pipe(sock: socket.socket, address: PipeAddress) -> None:
    """A file that nobody listens on is a leftover of a killed process and is replaced."""
    if address.path.startswith("@"):
        sock.bind("\0" + address.path[1:])
        return
    if _is_stale(address.path):
        os.unlink(address.path)
    # Without any permission from its birth until its mode is set: nobody slips in between.
    former = os.umask(0o177) if address.mode else None
    try:
        sock.bind(address.path)
    finally:
        if former is not None:
            os.umask(former)
    if address.mode:
        os.chmod(address.path, address.mode)


def _is_stale(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is there")
    except FileNotFoundError:
        return False
    if is_live(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return True


def _remedy(wish: Wish, number: int) -> str:
    address = wish.address
    if number == errno.EADDRINUSE and isinstance(address, SocketAddress):
        return f"Stop who has it (`ss -ltnp 'sport = :{address.port}'` shows who) or use another port."
    if number == errno.EADDRINUSE:
        return f"Stop who listens there (`ss -lxp src {address}` shows who) or use another path."
    if number == errno.EPERM and wish.transparent:
        return "Grant CAP_NET_RAW, which a transparent listener needs, or leave transparent out."
    if number in (errno.EACCES, errno.EPERM) and isinstance(address, SocketAddress):
        return "Grant CAP_NET_BIND_SERVICE or use a port above 1023."
    if number in (errno.EACCES, errno.EPERM):
        return "Let the node's user write to the directory."
    if number == errno.EADDRNOTAVAIL:
        return "This host has no such address: correct it, or set freebind to listen before it is there."
    if number == errno.ENOENT:
        return "Make the directory first."
    if number == errno.EEXIST:
        return "Remove the file or use another path."
    return "Correct the address."
