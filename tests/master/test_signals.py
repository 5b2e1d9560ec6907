"""Signals are noted by the handler and acted on later."""

import os
import select
import signal

from meshproxy.master.signals import DEAF, ORDERS, SignalQueue, become_deaf


def in_child(body) -> int:
    """Runs `body` in a fork, where handlers may be changed at will; gives its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = body()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_signals_come_out_as_orders_in_their_order_and_wake_the_loop() -> None:
    def body() -> int:
        signals = SignalQueue()
        signals.open()
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        woken = bool(select.select([signals], [], [], 5)[0])
        good = woken and signals.take() == ["reload", "more", "reopen_logs", "drain"]
        return 0 if good and signals.take() == [] and not select.select([signals], [], [], 0)[0] else 1

    assert in_child(body) == 0


def test_a_child_hears_nothing_that_is_meant_for_the_master() -> None:
    def body() -> int:
        signals = SignalQueue()
        signals.open()
        become_deaf()
        for number in DEAF:
            os.kill(os.getpid(), number)
        return 0 if signals.take() == [] and signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL else 1

    assert in_child(body) == 0
    assert set(DEAF) == set(ORDERS) - {signal.SIGCHLD}
