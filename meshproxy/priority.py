"""Working without being noticed: by long turns, or by running only while nobody else wants the processor (SCHED_IDLE, sched(7)).

Turns: since Linux 6.12 whoever wakes with a shorter turn to come than that of who runs takes the processor at once, and otherwise waits up
to some milliseconds for the end of it. A process whose turns are long has the same share of the processor as before, in what others leave.
Anybody may ask for it; an older kernel does not know of it, and lets who wakes go first in any case.

The way back from SCHED_IDLE is open to a process whose limit of nice values (RLIMIT_NICE) reaches the nice value that it has, 20 for nice
0, and to one with CAP_SYS_NICE. Nobody gains by such a limit: it lets a process be what it is already. A nice value in the place of SCHED_IDLE would
not do: who wakes beside a nice process still waits for the scheduler's tick, which is 4 ms.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

_NORMAL = os.sched_param(0)
_CAP_SYS_NICE = 23
_SCHED_SETATTR = {"x86_64": 314}.get(platform.machine(), 274)
"""The system call's number: libc has no name for it before glibc 2.41. 274 is that of all younger architectures."""
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_KEEP_POLICY = 0x08
_LONG_TURN_NS = 100_000_000
"""The longest that the kernel gives."""
_USUAL_TURN = 0


def take_long_turns() -> None:
    """From now on whoever wakes goes first. For work that nobody waits for to the millisecond; children inherit it."""
    _set_turn(_LONG_TURN_NS)


def take_usual_turns() -> None:
    """An equal of the others again."""
    _set_turn(_USUAL_TURN)


def allow_return() -> None:
    """Raises the limit as far as the way back needs it. Only root can; for others it is as they were started with (`LimitNICE=+0`)."""
    if is_open_to_all():
        return
    needed = _needed()
    _, hard = resource.getrlimit(resource.RLIMIT_NICE)
    try:
        resource.setrlimit(resource.RLIMIT_NICE, (needed, max(hard, needed)))
    except (OSError, ValueError):
        # Then nobody gives way: an upgrade is noticed, and works.
        pass


def is_open_to_all() -> bool:
    """Whether the limit opens the way back, which needs no capability."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    return soft == resource.RLIM_INFINITY or soft >= _needed()


def may_give_way() -> bool:
    """Whether a child of this process could come back. A root that was not told to drop has children that keep its capabilities."""
    return os.sched_getscheduler(0) == os.SCHED_OTHER and (is_open_to_all() or (os.geteuid() == 0 and _has_capability()))


def give_way() -> None:
    """From now on only what nobody else wants. A sandbox that forbids it costs others' latency, and nothing else."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, _NORMAL)
    except OSError:
        pass


def is_idle() -> bool:
    """Whether this process gives way. Another may have ended that."""
    return os.sched_getscheduler(0) == os.SCHED_IDLE


def come_back() -> None:
    """An equal of the others again. Raises OSError when the way back is closed."""
    if is_idle():
        os.sched_setscheduler(0, os.SCHED_OTHER, _NORMAL)


def lift(pid: int) -> None:
    """Another process of this user, that waits in vain for an idle processor. One that is gone or does not give way stays so."""
    try:
        if os.sched_getscheduler(pid) == os.SCHED_IDLE:
            os.sched_setscheduler(pid, os.SCHED_OTHER, _NORMAL)
    except OSError:
        pass


def _set_turn(turn_ns: int) -> None:
    """A kernel or a sandbox that refuses costs others' latency, and nothing else."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, 0, _KEEP_POLICY, nice, 0, turn_ns, 0, 0)
    ctypes.CDLL(None).syscall(_SCHED_SETATTR, 0, attributes, 0)


def _needed() -> int:
    """setrlimit(2): nice 0 is 20, nice 19 is 1."""
    return 20 - os.getpriority(os.PRIO_PROCESS, 0)


def _has_capability() -> bool:
    """CAP_SYS_NICE, by proc(5)."""
    with open("/proc/self/status") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_NICE & 1)
