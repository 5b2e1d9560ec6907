"""A child's death in an operator's words."""

from __future__ import annotations

import os
import signal

from meshproxy.ipc.boot import ExitCode

REPORT_BYTES = 64 << 10
"""faulthandler's report of one thread is some KiB; a runaway one is cut."""

_EXITS = {
    ExitCode.DONE: "ended",
    ExitCode.BUG: "ended by an exception of our own code: a bug to report",
    ExitCode.BOOT_ERROR: "could not start; it gets no heir, because that would end the same way",
    ExitCode.CONFIG_REFUSED: "refused its configuration; it gets no heir until the configuration changes",
}
_SIGNALS = {
    signal.SIGKILL: "perhaps out of memory: see `dmesg` and the limits of its service",
    signal.SIGSEGV: "a bug in compiled code to report",
    signal.SIGBUS: "perhaps no room is left for shared memory, else a bug in compiled code to report",
    signal.SIGABRT: "its own alarm or the master's, because it hung",
    signal.SIGILL: "built for another processor: build again on this machine",
    signal.SIGFPE: "a bug in compiled code to report",
    signal.SIGXCPU: "its limit of processor time is reached",
    signal.SIGSYS: "a system call is forbidden: see SystemCallFilter of its service",
}


def explain(returncode: int, ours: str = "") -> str:
    """One line. `ours` is why the master itself ended it, empty when it did not."""
    if returncode >= 0:
        what = _EXITS.get(returncode, "an exit code of nobody's")
        return f"exit code {returncode}: {what}"
    try:
        number = signal.Signals(-returncode)
        name, remark = number.name, _SIGNALS.get(number, "")
    except ValueError:
        name, remark = f"signal {-returncode}", ""
    if ours:
        return f"ended by the master with {name}: {ours}"
    return f"killed by {name}" + (f" ({remark})" if remark else "")


def read_report(crash_fd: int) -> str:
    """What faulthandler wrote, "" if nothing; the file is emptied for the heir."""
    report = os.pread(crash_fd, REPORT_BYTES, 0).decode("utf-8", "replace").strip()
    os.ftruncate(crash_fd, 0)
    os.lseek(crash_fd, 0, os.SEEK_SET)
    return report


def build() -> str:
    """Which code it was, for a report: our version, Python's and the kernel's."""
    import platform

    import meshproxy

    return f"meshproxy/{meshproxy.__version__} python/{platform.python_version()} linux/{os.uname().release}"
