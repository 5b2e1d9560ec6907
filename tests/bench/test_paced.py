"""The steady load of benchmarks tells what became of every request: "none failed" of a measurement stands on this."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bench.paced import RECORD, Fate, Paced, Record, figures
from tests.support.origin import OK, Connection, Origin, Request, answer
from tests.support.processes import wait_until

RATE_PER_S = 500


@pytest.fixture
def load_of(tmp_path: Path):
    """Runs a load against a port until `enough()`; its records."""

    def run(port: int, enough, connections: int = 2, services: int = 0) -> list[Record]:
        with Paced(tmp_path / "load", port, connections, RATE_PER_S, services) as load:
            assert wait_until(enough, 20, load.pid)
            assert load.process is not None
            load.process.terminate()
            assert load.process.wait(10) == 0
        return load.records()

    return run


def counts(records: list[Record]) -> dict[Fate, int]:
    fates = [record.fate for record in records]
    return {fate: fates.count(fate) for fate in set(fates)}


def test_every_request_is_answered_and_timed(load_of) -> None:
    with Origin() as origin:
        records = load_of(origin.port, lambda: origin.seen.qsize() >= 50)

    assert counts(records) == {Fate.CONNECTED: 2, Fate.ANSWERED: origin.seen.qsize()}
    assert all(record.took_us > 0 and record.detail == 200 for record in records if record.fate is Fate.ANSWERED)


def test_connections_take_turns(load_of) -> None:
    with Origin() as origin:
        load_of(origin.port, lambda: origin.seen.qsize() >= 40, connections=4)
        asked = [origin.next_request().connection for _ in range(8)]

    assert sorted(asked[:4]) == sorted(asked[4:]) == [1, 2, 3, 4]


def test_services_are_asked_in_turn(load_of) -> None:
    with Origin() as origin:
        load_of(origin.port, lambda: origin.seen.qsize() >= 10, connections=1, services=3)
        paths = [origin.next_request().target for _ in range(4)]

    assert paths == ["/service-0/x", "/service-1/x", "/service-2/x", "/service-0/x"]


def test_cut_requests_and_other_statuses_are_failures_and_the_load_goes_on(load_of) -> None:
    def script(connection: Connection, request: Request) -> None:
        number = origin.seen.qsize()
        if number == 10:
            connection.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        elif number == 20:
            connection.sock.shutdown(socket.SHUT_RDWR)
        else:
            connection.send(OK)

    with Origin(script) as origin:
        records = load_of(origin.port, lambda: origin.seen.qsize() >= 60, connections=1)

    seen = figures(records, 0, 1e9)
    assert seen.failures == {"other status 500": 1, "cut": 1}
    assert (seen.failed, seen.connects) == (2, 2)


def test_connection_close_is_no_failure(load_of) -> None:
    with Origin(answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")) as origin:
        records = load_of(origin.port, lambda: origin.seen.qsize() >= 20)

    assert figures(records, 0, 1e9).failures == {}
    assert counts(records)[Fate.CONNECTED] >= 20


def test_a_connection_that_ended_between_requests_is_not_used_again(load_of) -> None:
    def script(connection: Connection, request: Request) -> None:
        connection.send(OK)
        connection.sock.shutdown(socket.SHUT_RDWR)

    with Origin(script) as origin:
        records = load_of(origin.port, lambda: origin.seen.qsize() >= 20, connections=8)

    assert figures(records, 0, 1e9).failures == {}
    assert counts(records)[Fate.ENDED_IDLE] >= 12


def test_a_request_without_an_answer_is_a_failure(load_of) -> None:
    with Origin(lambda connection, request: None) as origin:
        records = load_of(origin.port, lambda: origin.seen.qsize() == 2)

    asked = [record for record in records if record.fate is Fate.UNANSWERED]
    assert len(asked) > 2, "those that found no idle connection count too"
    assert figures(records, 0, 1e9).failures == {"unanswered": len(asked)}


def test_refused_connects_are_failures(load_of, tmp_path: Path) -> None:
    """The origin goes: what had connected is cut, what connects anew is refused."""
    with Origin() as origin:

        def gone() -> bool:
            if origin.seen.qsize() >= 10:
                origin.stop()
            data = (tmp_path / "load" / "records").read_bytes()
            whole = len(data) // RECORD.size * RECORD.size
            return any(fate == Fate.NOT_CONNECTED for _, _, _, fate, _ in RECORD.iter_unpack(data[:whole]))

        records = load_of(origin.port, gone)

    assert figures(records, 0, 1e9).failures["not connected ECONNREFUSED"] > 0


def test_figures_are_of_what_began_in_the_span() -> None:
    def answered(started_s: float, took_us: int) -> Record:
        return Record(int(started_s * 1e6), took_us, 5, Fate.ANSWERED, 200)

    records = [answered(number, 1000 * (number + 1)) for number in range(100)] + [Record(50_000_000, 7000, 0, Fate.CONNECTED, 0)]
    seen = figures(records, 0, 100)

    assert (seen.rate_per_s, seen.p50_ms, seen.p99_ms, seen.max_ms) == (1.0, 51.0, 100.0, 100.0)
    assert (seen.connects, seen.slowest_connect_ms, seen.failures) == (1, 7.0, {})
    assert figures(records, 10, 20).max_ms == 20.0
    assert figures([], 0, 1).p99_ms == 0.0
