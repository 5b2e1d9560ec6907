"""The life of a child as a table, without processes: every time is a number."""

import signal

import pytest

from meshproxy.ipc.boot import ExitCode
from meshproxy.master.slots import Kill, Patience, Slot, SlotTable, State

KILLED = -signal.SIGKILL


def table(**patience) -> tuple[SlotTable, Slot]:
    made = SlotTable(Patience(**patience))
    made.slots.append(Slot(0))
    return made, made.slots[0]


def live(slots: SlotTable, slot: Slot, now_s: float, for_s: float, returncode: int) -> float:
    """Starts, is ready at once, lives for so long, dies; gives the time of its death."""
    slots.started(slot, 100, now_s)
    slots.ready(slot, now_s)
    slots.died(slot, now_s + for_s, returncode)
    return now_s + for_s


def test_a_new_slot_is_due_at_once_and_goes_through_its_states() -> None:
    slots, slot = table()

    assert slots.due(0.0) == [slot]
    slots.started(slot, 100, 0.0)
    assert (slot.state, slot.generation, slots.due(99.0)) == (State.STARTING, 1, [])
    slots.ready(slot, 0.5)
    assert slot.state is State.READY
    slots.drain(slot, 1.0, 5.0)
    assert slot.state is State.DRAINING
    slots.died(slot, 2.0, 0)
    assert (slot.state, slot.pid) == (State.GONE, 0)


def test_the_heir_of_a_settled_worker_starts_at_once() -> None:
    slots, slot = table()

    for start_s in (0.0, 100.0, 200.0):
        died_s = live(slots, slot, start_s, 50.0, KILLED)
        assert slots.due(died_s) == [slot]
    assert slot.restarts == 2


def test_deaths_in_a_row_wait_longer_each_time_and_then_trip() -> None:
    slots, slot = table(backoff_first_s=0.1, backoff_most_s=1.0, trip_deaths=8, trip_retry_s=30.0)
    now_s, waits = 0.0, []

    for _ in range(9):
        now_s = live(slots, slot, now_s, 0.1, KILLED)
        waits.append(round(slot.due_s - now_s, 3))
        now_s = slot.due_s

    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 30.0, 30.0]
    assert slots.is_tripped(slot)


def test_a_worker_that_stays_ends_the_row() -> None:
    slots, slot = table(settle_s=1.0)
    now_s = 0.0
    for _ in range(5):
        now_s = live(slots, slot, now_s, 0.1, KILLED)

    now_s = live(slots, slot, now_s, 1.0, KILLED)

    assert (slot.deaths_in_a_row, slots.due(now_s)) == (1, [slot])


@pytest.mark.parametrize("code", [ExitCode.BOOT_ERROR, ExitCode.CONFIG_REFUSED])
def test_two_exit_codes_mean_no_heir_until_something_changes(code: ExitCode) -> None:
    slots, slot = table()
    slots.started(slot, 100, 0.0)
    slots.died(slot, 0.1, code)

    assert slots.due(1e9) == []
    slots.forgive(5.0)
    assert slots.due(5.0) == [slot]


def test_an_unwanted_slot_gets_no_heir() -> None:
    slots, slot = table()
    live(slots, slot, 0.0, 5.0, 0)
    slot.wanted = False

    assert slots.due(100.0) == []


def test_a_hung_worker_reports_first_and_is_ended_a_second_later() -> None:
    slots, slot = table(hung_s=10.0, report_s=1.0)
    slots.started(slot, 100, 0.0)
    slots.ready(slot, 0.0)

    assert slots.overdue(20.0, lambda _: 10.0) == []
    (first,) = slots.overdue(20.5, lambda _: 10.5)
    assert (first.kill, first.why) == (Kill.REPORT, "hung: no heartbeat for 10.5 s")
    slot.killed_s = 20.5
    assert slots.overdue(21.4, lambda _: 11.4) == []
    (second,) = slots.overdue(21.5, lambda _: 11.5)
    assert second.kill is Kill.END


def test_starts_and_drains_have_an_end() -> None:
    slots, slot = table(start_s=30.0, report_s=1.0)
    slots.started(slot, 100, 0.0)
    assert slots.overdue(29.9, lambda _: 0.0) == []
    assert slots.overdue(30.0, lambda _: 0.0)[0].why == "not ready 30.0 s after its start"

    slots.ready(slot, 30.0)
    slots.drain(slot, 40.0, 5.0)
    assert slots.overdue(45.9, lambda _: 99.0) == []
    assert slots.overdue(46.0, lambda _: 0.0)[0].why == "still there 6.0 s after it was told to drain"


def test_unserved_counts_from_the_last_worker_that_served_and_not_from_a_failed_heir() -> None:
    slots, slot = table()
    died_s = live(slots, slot, 0.0, 10.0, KILLED)
    slots.started(slot, 101, died_s)

    assert slots.unserved(died_s + 0.9, 1.0) == []
    slots.died(slot, died_s + 0.95, KILLED)
    assert slots.unserved(died_s + 1.0, 1.0) == [slot]
    slots.started(slot, 102, died_s + 1.0)
    slots.ready(slot, died_s + 1.1)
    assert slots.unserved(died_s + 5.0, 1.0) == []


def test_states_have_the_numbers_of_the_scoreboard() -> None:
    from meshproxy.scoreboard.region import SLOT_STATES

    assert {state.name: state.value for state in State} == {name: number for number, name in enumerate(SLOT_STATES)}
