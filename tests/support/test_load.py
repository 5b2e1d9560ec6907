"""The load generator tells what failed: a test that says "none failed" stands on this."""

from __future__ import annotations

import socket

from tests.peers.process import free_ports
from tests.support.load import Load
from tests.support.origin import OK, Connection, Origin, Request, answer


def test_answers_are_counted_and_timed() -> None:
    with Origin() as origin, Load(origin.port, 3) as load:
        load.wait_answers(30)
        report = load.stop()

    assert report.answered >= 33
    assert report.failed == 0
    assert len(report.latencies_s) == report.answered
    assert report.percentile_s(0.5) > 0


def test_a_connection_for_each_request() -> None:
    with Origin() as origin, Load(origin.port, 3, requests_per_connection=1) as load:
        load.wait_answers(30)
        report = load.stop()

    assert report.failed == 0
    assert origin.connections == report.answered


def test_cut_requests_and_other_statuses_are_failures() -> None:
    turns = iter(range(1, 1000))

    def script(connection: Connection, request: Request) -> None:
        number = next(turns)
        if number == 10:
            connection.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        elif number == 20:
            connection.sock.shutdown(socket.SHUT_RDWR)
        else:
            connection.send(OK)

    with Origin(script) as origin, Load(origin.port, 1) as load:
        load.wait_answers(40)
        report = load.stop()

    assert report.failures == {"status 500": 1, "cut in flight": 1}


def test_connection_close_is_no_failure() -> None:
    with Origin(answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")) as origin, Load(origin.port, 2) as load:
        load.wait_answers(20)
        report = load.stop()

    assert report.failed == 0


def test_refused_connects_are_failures() -> None:
    load = Load(free_ports(1)[0], 1)
    load._connect()
    for fd, events in load._poll.poll(5):
        load._on_event(load._open[fd], events)

    assert load.report.failures == {"connect ECONNREFUSED": 1}
