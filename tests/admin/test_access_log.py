"""What the admin server did is in its logs: each request once, in the formats of listeners' logs, whatever became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gevent import socket as gsocket
from gevent.event import Event

from meshproxy.admin import server as admin_server
from meshproxy.admin.access_log import AdminLogs, Entry
from meshproxy.model import AccessLog
from meshproxy.model.telemetry import DEFAULT_FORMAT
from meshproxy.telemetry.logs import LogSinks
from tests.admin.node import AdminSite, admin_site

Lines = Callable[[], list[str]]
StartLog = Callable[[str], Lines]


@pytest.fixture
def sinks() -> Iterator[LogSinks]:
    made = LogSinks("vm-7", lambda text: pytest.fail(text))
    yield made
    made.close_all()


class ToldLogs(AdminLogs):
    """`written` is set by each line."""

    def __init__(self, sinks: LogSinks) -> None:
        super().__init__(sinks)
        self.written = Event()

    def write(self, entry: Entry) -> None:
        super().write(entry)
        self.written.set()


@pytest.fixture
def logs(sinks: LogSinks) -> ToldLogs:
    return ToldLogs(sinks)


@pytest.fixture
def site(logs: AdminLogs) -> Iterator[AdminSite]:
    with admin_site(logging=logs.write) as running:
        yield running


@pytest.fixture
def logged(logs: AdminLogs, tmp_path: Path) -> StartLog:
    """`logged(format)` sets the one log; what it returns reads its lines."""

    def start(form: str) -> Lines:
        path = tmp_path / "admin.log"
        logs.configure((AccessLog(sink="file", path=str(path), text=form + "\n"),))
        return lambda: path.read_text("latin-1").splitlines()

    return start


def head(path: str = "/ready", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def test_the_default_format_is_that_of_listeners(site: AdminSite, logged: StartLog) -> None:
    lines = logged(DEFAULT_FORMAT.strip())
    sent = {"User-Agent": "probe/1", "X-Forwarded-For": "10.1.1.1", "X-Request-Id": "r-1"}
    body = site.ask("/listeners?format=json", headers=sent).content

    [line] = lines()
    assert re.fullmatch(
        r'\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "GET /listeners\?format=json HTTP/1\.1" 200 - 0 '
        + str(len(body)) + rf' \d+ - "10\.1\.1\.1" "probe/1" "r-1" "127\.0\.0\.1:{site.port}" "-"',
        line,
    )


@pytest.mark.parametrize(
    ("form", "request_bytes", "line"),
    [
        ("%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE%", head("/a%20b?x=%41"), "GET /a%20b?x=%41 HTTP/1.1 404"),
        ("%REQ(:METHOD)% %RESPONSE_CODE% %BYTES_SENT%", head(method="HEAD"), "HEAD 200 0"),
        ("%RESPONSE_CODE% %RESP(CONTENT-TYPE)% %RESP(ALLOW)%", head("/drain_listeners"), "405 text/plain; charset=UTF-8 POST"),
        ("%PROTOCOL% %REQ(:AUTHORITY)% %REQ(X-A)%", b"GET /ready HTTP/1.0\r\nX-A: \xe4\r\n\r\n", "HTTP/1.0 - \xe4"),
        ("%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%", b"GET /ready HTTP/1.1\r\nHost: evil.test\r\n\r\n", "403 admin_filter_response"),
        ("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %REQ(:METHOD)%", b"nonsense\r\n\r\n", "400 DPE http1.codec_error -"),
        ("%BYTES_RECEIVED% %RESPONSE_CODE%", head("/ready", "Content-Length: 5", method="POST") + b"12345", "5 200"),
        ("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %RESPONSE_DURATION%", head(), "- - -"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", head(), "127.0.0.1"),
    ],
)
def test_a_request_is_logged_for_what_it_was(site: AdminSite, logged: StartLog, form: str, request_bytes: bytes, line: str) -> None:
    lines = logged(form)
    site.raw(request_bytes)

    assert lines() == [line]


def test_body_and_wire_are_counted_as_they_went(site: AdminSite, logged: StartLog) -> None:
    lines = logged("%BYTES_SENT% %DOWNSTREAM_WIRE_BYTES_SENT% %DOWNSTREAM_WIRE_BYTES_RECEIVED%")
    request = head("/stats", "Connection: close")
    answer = site.raw(request)
    assert b"transfer-encoding: chunked" in answer
    body = b"".join(piece for piece in re.split(rb"\r\n[0-9a-f]+\r\n", b"\r\n" + answer.partition(b"\r\n\r\n")[2]) if piece.strip())

    assert lines() == [f"{len(body)} {len(answer)} {len(request)}"]


def test_each_request_of_a_connection_has_a_line(site: AdminSite, logged: StartLog) -> None:
    lines = logged("%CONNECTION_ID% %RESPONSE_CODE%")
    site.raw(head() * 2)
    site.raw(head("/nope"))

    assert lines() == ["0 200", "0 200", "1 404"]


def test_a_client_that_takes_nothing_is_logged_too(
    site: AdminSite, logs: ToldLogs, logged: StartLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_server, "REQUEST_S", 0.05)
    lines = logged("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%")
    site.node.metrics.text = lambda query: ("z" * (1 << 20) for _ in range(64))
    peer = gsocket.create_connection(("127.0.0.1", site.port))
    peer.sendall(head("/stats"))
    assert logs.written.wait(20)
    peer.close()

    assert lines() == ["200 DC downstream_remote_disconnect"]


def test_logs_have_their_own_least_status_and_shape(site: AdminSite, logs: AdminLogs, tmp_path: Path) -> None:
    errors, shaped = tmp_path / "errors", tmp_path / "shaped"
    logs.configure((
        AccessLog(sink="file", path=str(errors), text="%REQ(:PATH)%\n", min_status=400),
        AccessLog(sink="file", path=str(shaped), json={"code": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%"}),
    ))
    site.raw(head())
    site.raw(head("/nope"))

    assert errors.read_text() == "/nope\n"
    codes = [json.loads(line) for line in shaped.read_text().splitlines()]
    assert codes == [{"code": 200, "path": "/ready"}, {"code": 404, "path": "/nope"}]


def test_another_configuration_holds_from_the_next_request_on(site: AdminSite, logs: AdminLogs, sinks: LogSinks, tmp_path: Path) -> None:
    first, second = (AccessLog(sink="file", path=str(tmp_path / name), text=f"{name}\n") for name in ("a", "b"))
    for wanted in ((first,), (second, first), (second,), ()):
        logs.configure(wanted)
        site.raw(head())

    assert (tmp_path / "a").read_text() == "a\n" * 2
    assert (tmp_path / "b").read_text() == "b\n" * 2
    assert sinks.sinks() == []


def test_a_line_that_is_too_long_is_lost_and_counted(site: AdminSite, sinks: LogSinks, logged: StartLog) -> None:
    lines = logged("%REQ(X-LONG)%" * 20)
    site.raw(head("/ready", f"X-Long: {'x' * 15_000}"))

    assert lines() == []
    assert sinks.lines_lost == 1
