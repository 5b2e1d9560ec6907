"""What is true in a child when its entry runs, and what the parent checks before."""

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

from meshproxy.master import spawn

PROGRAM = """
import os, sys
sys.path.insert(0, ".")
from meshproxy.master.spawn import fork
read_end, write_end = os.pipe()
crash = os.memfd_create("crash")
others = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
pid = fork("meshproxy: child", "tests.master.test_spawn:ENTRY", write_end, [write_end], crash)
os.close(write_end)
print(os.read(read_end, 1000).decode())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.pread(crash, 2000, 0).decode())
"""


def run(entry: str) -> str:
    return subprocess.run([sys.executable, "-c", PROGRAM.replace("ENTRY", entry)], capture_output=True, text=True, check=True).stdout


def tell(write_end: int) -> int:
    """An entry: what it has open and whether it hears SIGINT."""
    os.kill(os.getpid(), signal.SIGINT)
    fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
    with open("/proc/self/cmdline") as file:
        title = file.read().rstrip("\0 ")
    os.write(write_end, f"{[fd for fd in fds if fd > 2]} {title}".encode())
    return 7


def fail(write_end: int) -> int:
    raise ValueError("no such thing")


def test_a_child_has_what_it_is_given_and_returns_its_code() -> None:
    first, second = run("tell").splitlines()

    # The pipe's end and the memfd; the number of the pipe's reading end is free in the child.
    assert first == "[4, 5] meshproxy: child"
    assert second == "7 "


def test_an_exception_is_in_the_report() -> None:
    text = run("fail")

    assert "1 Traceback" in text
    assert "ValueError: no such thing" in text


def test_an_entry_that_is_not_there_is_a_boot_error() -> None:
    text = run("nothing")

    assert "3 Traceback" in text
    assert "has no attribute 'nothing'" in text


def test_a_second_thread_forbids_a_fork() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="stray")
    thread.start()
    try:
        with pytest.raises(RuntimeError, match=r"more than one thread \(.*stray"):
            spawn.fork("x", "os:getpid", None, [], 2)
    finally:
        done.set()
        thread.join()
    gc.unfreeze()


def test_descriptors_between_those_that_are_kept_are_closed() -> None:
    pid = os.fork()
    if pid == 0:
        keep = [os.open("/dev/null", os.O_RDONLY) for _ in range(9)][::3]
        spawn.close_others({0, 1, 2, *keep})
        left = {int(fd) for fd in os.listdir("/proc/self/fd")}
        os._exit(0 if {0, 1, 2, *keep} <= left and len(left) <= 7 else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
