"""What a worker tells of things that it no longer uses."""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.workers.main import Retired


class Thing:
    """Something that a change may take out of use."""


def a_retired() -> tuple[Retired, list[str], Callable[[], None]]:
    """With what it let go, and a way to run what it put off."""
    said: list[str] = []
    put_off: list[Callable[[], None]] = []

    def run() -> None:
        while put_off:
            put_off.pop(0)()

    return Retired(said.append, put_off.append), said, run


def test_nothing_removed_is_let_go_at_once() -> None:
    retired, said, run = a_retired()
    retired.add("1", [])
    run()

    assert said == ["1"]


def test_a_version_waits_for_its_last_reference() -> None:
    retired, said, run = a_retired()
    one, other = Thing(), Thing()
    retired.add("2", [one, other])
    run()
    del one
    run()

    assert said == []
    del other
    run()
    assert said == ["2"]


def test_versions_are_let_go_in_their_order() -> None:
    retired, said, run = a_retired()
    held = Thing()
    retired.add("3", [held])
    retired.add("4", [])
    retired.add("5", [Thing()])
    run()

    assert said == []
    del held
    run()
    assert said == ["5"]
