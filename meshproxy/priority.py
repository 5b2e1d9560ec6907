"""Starting without being noticed: a process that runs only while nobody else wants the processor (SCHED_IDLE, sched(7)), and back.

The way back is open to a process whose limit of nice values (RLIMIT_NICE) reaches the nice value that it has, 20 for nice 0, and to one
with CAP_SYS_NICE. Nobody gains by such a limit: it lets a process be what it is already. A nice value in the place of SCHED_IDLE would
not do: who wakes beside a nice process still waits for the scheduler's tick, which is 4 ms.
"""

from __future__ import annotations

import os
import resource

_NORMAL = os.sched_param(0)
_CAP_SYS_NICE = 23


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


def _needed() -> int:
    """setrlimit(2): nice 0 is 20, nice 19 is 1."""
    return 20 - os.getpriority(os.PRIO_PROCESS, 0)


def _has_capability() -> bool:
    """CAP_SYS_NICE, by proc(5)."""
    with open("/proc/self/status") as file:
        effective = next((line.split()[1] for line in file if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_NICE & 1)
