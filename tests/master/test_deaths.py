"""A death in an operator's words."""

import os

from meshproxy.master.deaths import build, explain, read_report


def test_a_signal_is_named_with_what_it_hints_at() -> None:
    assert explain(-9) == "killed by SIGKILL (perhaps out of memory: see `dmesg` and the limits of its service)"
    assert explain(-11) == "killed by SIGSEGV (a bug in compiled code to report)"
    assert explain(-64) == "killed by SIGRTMAX"
    assert explain(-99) == "killed by signal 99"


def test_what_the_master_did_itself_is_not_blamed_on_memory() -> None:
    assert explain(-9, "hung: no heartbeat for 10.0 s") == "ended by the master with SIGKILL: hung: no heartbeat for 10.0 s"


def test_exit_codes_have_names() -> None:
    assert explain(3).startswith("exit code 3: could not start")
    assert explain(4).startswith("exit code 4: refused its configuration")
    assert explain(77) == "exit code 77: an exit code of nobody's"


def test_a_report_is_read_once() -> None:
    fd = os.memfd_create("report")
    os.write(fd, b"Fatal Python error: Segmentation fault\n")

    assert read_report(fd) == "Fatal Python error: Segmentation fault"
    assert read_report(fd) == ""
    os.close(fd)


def test_the_build_names_version_python_and_kernel() -> None:
    assert build().startswith("meshproxy/")
    assert " python/3" in build()
