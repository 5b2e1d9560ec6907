"""Making a child out of the master: fork, and everything that must be right before its entry runs.

The entry is named as a string (`package.module:function`), because the master must not import what it names: that is done in the child.
A worker's gevent and compiled modules are so imported once a worker (see docs/processes.md for what that costs); what the master has
imported itself is shared.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterable

import setproctitle

from meshproxy import priority
from meshproxy.ipc.boot import ExitCode
from meshproxy.master import privileges
from meshproxy.master.signals import become_deaf

SETTLE_LIMIT_S = 1.0
"""A child that gets no processor for so long must not hold the master up: its lateness is found like any other's."""


def fork(title: str, entry: str, boot: object, keep: Iterable[int], crash_fd: int, *, idle: bool = False) -> int:
    """The pid of a child that runs `entry(boot)` and exits with what it returns. It keeps 0, 1, 2, `crash_fd` and `keep` open.

    When this returns, the child has its title and has closed what is not its own, so no socket of a sibling is open there any more.
    `idle`: from then on it runs only while nobody else wants the processor, until the entry ends that.
    """
    _check_alone()
    # What lives now lives long: out of the collector's way, so that a collection in a child does not copy the shared pages.
    gc.freeze()
    settled, settling = os.pipe()
    pid = os.fork()
    if pid:
        os.close(settling)
        _wait_settled(settled)
        return pid
    code = int(ExitCode.BOOT_ERROR)
    try:
        close_others({0, 1, 2, crash_fd, settling, *keep})
        become_deaf()
        setproctitle.setproctitle(title)
        os.close(settling)
        if idle:
            priority.give_way()
        faulthandler.enable(crash_fd, all_threads=True)
        run = resolve(entry)
        privileges.drop_all()
        code = int(ExitCode.BUG)
        code = int(run(boot) or 0)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else code
    except BaseException:
        _report(crash_fd)
    finally:
        # Not sys.exit: the master's own clean-up must not run here.
        os._exit(code)


def resolve(entry: str) -> Callable[[object], int]:
    """The function that `package.module:function` names; imports its module."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def close_others(keep: set[int]) -> None:
    """Closes every descriptor but these: a sibling's listening socket that stays open here takes connections that nobody answers."""
    low = 0
    for fd in sorted(keep):
        if fd > low:
            os.closerange(low, fd)
        low = max(low, fd + 1)
    os.closerange(low, 1 << 20)


def _wait_settled(settled: int) -> None:
    """Until the child has closed its end of the pipe, a millisecond later; it also ends with the child."""
    poll = select.poll()
    poll.register(settled, select.POLLIN)
    poll.poll(SETTLE_LIMIT_S * 1000)
    os.close(settled)


def _check_alone() -> None:
    """A fork copies one thread: locks that others hold would be locked for ever in the child, and a hub would be shared."""
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise RuntimeError(f"the master has more than one thread ({names}) and cannot fork safely: a bug to report")
    if "gevent.hub" in sys.modules:
        raise RuntimeError("the master has imported gevent and cannot fork safely: a bug to report")


def _report(crash_fd: int) -> None:
    text = traceback.format_exc()
    for fd in (crash_fd, 2):
        try:
            os.write(fd, text.encode())
        except OSError:
            pass
