"""`meshproxy top`. It reads the scoreboard itself, so a look at a busy node costs the node nothing."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click

from meshproxy.admin.client import ControlClient
from meshproxy.admin.traffic import Sample, Traffic, between, sample
from meshproxy.cli.control import control_option, node
from meshproxy.cli.top_frame import frame
from meshproxy.clock import monotonic_s
from meshproxy.ipc.messages import NodeState

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's other screen without a cursor, and back."""
HOME, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"
QUIT_KEYS = {b"q", b"Q", b"\x03", b""}
NO_TERMINAL_COLUMNS = 140


class Watch:
    """The node's figures, look after look."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client
        self._region, self._directory = client.scoreboard()
        self._version = ""
        self._last: Sample | None = None

    def look(self) -> tuple[NodeState, Traffic]:
        """What happened since the last look, or since the node's start. Raises ControlError when the node is gone."""
        state = self._client.status()
        if state.config_version != self._version:
            self._directory, self._version = self._client.directory(), state.config_version
        now = sample(self._region, self._directory.rows, monotonic_s())
        traffic = between(self._last, now, self._region, state.uptime_s)
        self._last = now
        return state, traffic


@click.command()
@control_option
@click.option("--once", is_flag=True, help="Print one frame over one interval and end.")
@click.option("--interval", "interval_s", type=click.FloatRange(min=0.1), default=1.0, metavar="SECONDS", help="[default: 1]")
def top(control: str, once: bool, interval_s: float) -> None:
    """Watch the running node's traffic.

    Requests, errors and latencies of the whole node, of each worker, stat prefix and cluster. q quits. Where stdout is no terminal
    frames follow each other as plain text.
    """
    with node(control) as client:
        watch = Watch(client)
        if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
            _print_frames(watch, interval_s, once)
        else:
            _show_frames(watch, interval_s)


def _print_frames(watch: Watch, interval_s: float, once: bool) -> None:
    watch.look()
    while True:
        time.sleep(interval_s)
        columns = shutil.get_terminal_size((NO_TERMINAL_COLUMNS, 0)).columns
        click.echo("\n".join(frame(*watch.look(), width=columns, height=None, styled=False)))
        if once:
            return
        click.echo("")


def _show_frames(watch: Watch, interval_s: float) -> None:
    with _own_screen() as wakeup_fd:
        while True:
            columns, lines = shutil.get_terminal_size()
            shown = frame(*watch.look(), width=columns, height=lines - 1, styled=True)
            sys.stdout.write(HOME + "".join(f"{line}{TO_LINE_END}\r\n" for line in shown) + "q quits" + TO_LINE_END + TO_SCREEN_END)
            sys.stdout.flush()
            if _quit_asked(wakeup_fd, interval_s):
                return


def _quit_asked(wakeup_fd: int, interval_s: float) -> bool:
    """Wait for the next frame: the interval, a key, or another size of the window."""
    ready, _, _ = select.select([sys.stdin, wakeup_fd], [], [], interval_s)
    if wakeup_fd in ready:
        os.read(wakeup_fd, 4096)
    return sys.stdin in ready and os.read(sys.stdin.fileno(), 1) in QUIT_KEYS


@contextmanager
def _own_screen() -> Iterator[int]:
    """The terminal for ourselves, given back as it was however this ends. Yields a descriptor that is readable after a resize."""
    before = termios.tcgetattr(sys.stdin)
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    resize = signal.signal(signal.SIGWINCH, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writing)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(ENTER)
        yield reading
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGWINCH, resize)
        os.close(reading)
        os.close(writing)
