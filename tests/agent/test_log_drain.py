"""Records leave the rings for their sinks, in order, whole, and none is lost at the end."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from meshproxy.agent import log_drain
from meshproxy.agent.log_drain import LogDrain
from meshproxy.scoreboard.region import Region


class Written:
    """Sinks that keep what they get."""

    def __init__(self) -> None:
        self.lines: dict[int, bytes] = {}
        self.came = Event()

    def write(self, sink: int, data: bytes | bytearray) -> None:
        self.lines[sink] = self.lines.get(sink, b"") + bytes(data)
        self.came.set()


@pytest.fixture
def region() -> Region:
    region = Region.create(2)
    for slot in range(2):
        region.set_state(slot, 2)
    return region


def test_a_pass_sorts_records_by_sink(region: Region) -> None:
    written = Written()
    region.put_record(0, 1, b"a\n")
    region.put_record(0, 2, b"b\n")
    region.put_record(1, 1, b"c\n")

    assert LogDrain(region, written, lambda: True).drain_once() > 0
    assert written.lines == {1: b"a\nc\n", 2: b"b\n"}


def test_an_empty_ring_gives_nothing(region: Region) -> None:
    assert LogDrain(region, Written(), lambda: True).drain_once() == 0


def test_it_runs_until_it_is_stopped_and_takes_the_rest(region: Region) -> None:
    written = Written()
    drain = LogDrain(region, written, lambda: True)
    running = gevent.spawn(drain.run)
    region.put_record(0, 1, b"first\n")
    assert written.came.wait(10)
    for number in range(1000):
        region.put_record(0, 1, b"%d\n" % number)
    drain.stop()

    assert written.lines[1] == b"first\n" + b"".join(b"%d\n" % number for number in range(1000))
    running.join(10)
    assert running.dead


def test_more_than_a_pass_is_taken_in_several(region: Region) -> None:
    written = Written()
    drain = LogDrain(region, written, lambda: True)
    while region.put_record(0, 1, b"x" * 1000):
        pass

    assert 0 < drain.drain_once() < 1 << 20
    drain.stop()
    assert region.put_record(0, 1, b"x" * 1000)


def test_a_reload_that_brings_the_first_log_wakes_it(region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_drain, "WITHOUT_SINKS_S", 3600.0)
    written = Written()
    has = []
    drain = LogDrain(region, written, lambda: bool(has))
    running = gevent.spawn(drain.run)
    gevent.sleep(0)
    region.put_record(0, 1, b"x\n")
    has.append(1)
    drain.wake()

    assert written.came.wait(10), "without the wake it would look after an hour"
    drain.stop()
    running.join(10)
