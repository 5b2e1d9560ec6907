"""Giving way to others and coming back, each tried in a child: there is no way back for the tests' own process."""

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Callable

import pytest

from meshproxy import priority

NOBODY = 65534
ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def in_child(act: Callable[[], object]) -> int:
    """What `act` gives, as a number; 99 for an exception."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = int(act())  # type: ignore[call-overload]
        except Exception:
            pass
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def limit(value: int) -> None:
    resource.setrlimit(resource.RLIMIT_NICE, (value, value))


def can_raise() -> bool:
    """A root in a sandbox may not (CAP_SYS_RESOURCE)."""
    def act() -> bool:
        limit(20)
        return True

    return in_child(act) == 1


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise its limit of nice values")


@needs_root
@pytest.mark.skipif(not can_raise(), reason="the hard limit of nice values cannot be raised here")
def test_without_a_capability_it_comes_back_by_the_limit() -> None:
    def act() -> bool:
        limit(0)
        priority.allow_return()
        os.setuid(NOBODY)
        allowed = priority.may_give_way()
        priority.give_way()
        gave_way = priority.is_idle()
        priority.come_back()
        return allowed and gave_way and not priority.is_idle()

    assert in_child(act) == 1


@needs_root
def test_a_user_without_the_limit_does_not_give_way() -> None:
    def act() -> bool:
        limit(0)
        os.setuid(NOBODY)
        priority.allow_return()
        return priority.may_give_way()

    assert in_child(act) == 0


@needs_root
@pytest.mark.skipif(not can_raise(), reason="the hard limit of nice values cannot be raised here")
def test_a_nice_process_needs_less() -> None:
    def act() -> bool:
        os.nice(5)
        limit(15)
        before = priority.is_open_to_all()
        limit(14)
        return before and not priority.is_open_to_all()

    assert in_child(act) == 1


def turn_ns() -> int:
    """Of this process, as the kernel has it: the seventh field of sched_getattr(2)'s answer."""
    number = {"x86_64": 315}.get(platform.machine(), 275)
    answer = ctypes.create_string_buffer(ATTRIBUTES.size)
    if ctypes.CDLL(None, use_errno=True).syscall(number, 0, answer, ATTRIBUTES.size, 0) != 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    return ATTRIBUTES.unpack(answer.raw)[5]


def test_long_turns_are_for_whoever_asks_and_children_have_them_too() -> None:
    def act() -> bool:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        os.nice(3)
        usual = turn_ns()
        if not usual:
            return True                          # before Linux 6.12 no process has turns of its own
        priority.take_long_turns()
        longer = turn_ns()
        inherited = in_child(lambda: turn_ns() == longer)
        priority.take_usual_turns()
        return longer > usual and inherited == 1 and turn_ns() == usual and os.getpriority(os.PRIO_PROCESS, 0) == 3

    assert in_child(act) == 1


def test_who_was_put_to_idle_priority_by_others_does_not_come_out_of_it_by_an_upgrade() -> None:
    def act() -> bool:
        priority.allow_return()
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return priority.may_give_way()

    assert in_child(act) == 0


@needs_root
def test_another_process_is_lifted_and_one_that_is_gone_is_no_error() -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))

    priority.lift(pid)
    lifted = os.sched_getscheduler(pid)
    os.close(write_end)
    os.waitpid(pid, 0)
    priority.lift(pid)

    assert lifted == os.SCHED_OTHER
