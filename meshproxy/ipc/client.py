"""How a command speaks with a node: one order, one answer, over the control socket. Blocks; for processes without a loop."""

from __future__ import annotations

import socket

from meshproxy.errors import ControlError, FrameError
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Answer, Order


def connect(path: str, timeout_s: float = 5.0) -> Channel:
    """The control socket of a running node. Raises ControlError (`usage`) when none answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise ControlError(f"no node answers at {path}: {error.strerror or error}. {_remedy(error)}", usage=True) from None
    return Channel(sock)


def converse(path: str, order: Order, timeout_s: float) -> tuple[Answer, list[int]]:
    """Sends the order and waits for its answer; the descriptors belong to the caller. Raises ControlError when no answer comes."""
    channel = connect(path)
    try:
        channel.send(order)
        messages = channel.wait(timeout_s)
        if messages and isinstance(messages[0][0], Answer):
            return messages[0][0], messages[0][1]
        why = "the node closed the connection" if channel.closed else f"no answer within {timeout_s:g} s"
        raise ControlError(f"{order.verb}: {why} ({path}); its log on stderr tells more")
    except FrameError as error:
        raise ControlError(f"{order.verb}: {path} is not the control socket of this version of meshproxy: {error}") from None
    finally:
        channel.close()


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "Run the command as the user of the node, or as root."
    return "Start one with `meshproxy run`, or name its socket with --control PATH or $MESHPROXY_CONTROL."
