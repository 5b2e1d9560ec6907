"""Sinks take whole lines, lose them when they must, say so, and take them again."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshproxy.model import AccessLog
from meshproxy.telemetry import logs
from meshproxy.telemetry.logs import MOST_DATAGRAM_BYTES, MOST_PENDING_BYTES, LogSinks, StandardTarget


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "unix_s", clock)
    return clock


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def sinks(clock: Clock, told: list[str]) -> Iterator[LogSinks]:
    sinks = LogSinks("vm-7", told.append)
    yield sinks
    sinks.close_all()


def file_log(path: Path | str) -> AccessLog:
    return AccessLog(sink="file", path=str(path), text="x")


# ---- files ----


def test_lines_are_appended(sinks: LogSinks, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("before\n")
    sinks.open(1, file_log(path))
    sinks.write(1, b"one\n")
    sinks.write(1, bytearray(b"two\nthree\n"))

    assert path.read_text() == "before\none\ntwo\nthree\n"


def test_two_formats_to_one_file_share_a_number_and_it_may_be_opened_twice(sinks: LogSinks, tmp_path: Path) -> None:
    sinks.open(1, file_log(tmp_path / "a"))
    sinks.open(1, file_log(tmp_path / "a"))
    sinks.write(1, b"x\n")

    assert (tmp_path / "a").read_text() == "x\n"


def test_a_number_may_come_to_mean_another_file(sinks: LogSinks, tmp_path: Path) -> None:
    sinks.open(1, file_log(tmp_path / "a"))
    sinks.open(1, file_log(tmp_path / "b"))
    sinks.write(1, b"x\n")

    assert (tmp_path / "b").read_text() == "x\n"
    assert (tmp_path / "a").read_text() == ""


def test_a_rotated_file_is_left_at_reopen(sinks: LogSinks, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    sinks.open(1, file_log(path))
    sinks.write(1, b"old\n")
    path.rename(tmp_path / "a.log.1")
    sinks.write(1, b"still old\n")
    sinks.reopen()
    sinks.write(1, b"new\n")

    assert (tmp_path / "a.log.1").read_text() == "old\nstill old\n"
    assert path.read_text() == "new\n"


def test_what_cannot_be_reopened_stays_open(sinks: LogSinks, tmp_path: Path, told: list[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sinks.open(1, file_log(folder / "a"))
    folder.rename(tmp_path / "moved")
    sinks.reopen()
    sinks.write(1, b"x\n")

    assert told == [f"access log {folder}/a: cannot be reopened, what was open stays: No such file or directory"]
    assert (tmp_path / "moved" / "a").read_text() == "x\n"


def test_a_file_that_cannot_be_opened_is_tried_again_each_second(sinks: LogSinks, tmp_path: Path, told: list[str], clock: Clock) -> None:
    path = tmp_path / "later" / "a"
    sinks.open(1, file_log(path))
    sinks.write(1, b"lost\nlost\n")
    path.parent.mkdir()
    sinks.write(1, b"lost, too early\n")
    clock.now_s += 1
    sinks.write(1, b"kept\n")

    assert path.read_text() == "kept\n"
    assert sinks.lines_lost == 3
    assert told == [f"access log {path}: lines_lost=2 reason='No such file or directory'"]


def test_a_full_disk_loses_lines_and_says_so_once_a_minute(sinks: LogSinks, told: list[str], clock: Clock) -> None:
    sinks.open(1, file_log("/dev/full"))
    for second in range(0, 130, 10):
        clock.now_s = 1_700_000_000.0 + second
        sinks.write(1, b"a\nb\n")

    assert sinks.lines_lost == 26
    assert told == [f"access log /dev/full: lines_lost={lost} reason='No space left on device'" for lost in (2, 12, 12)]


def test_a_disk_that_fills_within_a_line_leaves_no_joined_lines(sinks: LogSinks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    sinks.open(1, file_log(path))
    real, room = os.write, [7]

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = real(fd, bytes(data)[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(logs.os, "write", write)
    sinks.write(1, b"one\ntwo\nthree\n")
    room[0] = 1000
    sinks.write(1, b"four\nfive\n")

    assert path.read_text() == "one\ntwo\nfour\nfive\n"
    assert sinks.lines_lost == 2


@pytest.mark.parametrize(("room", "whole"), [(4, "one\nfour\n"), (5, "one\nt\nfour\n"), (0, "four\n")])
def test_only_a_torn_line_is_ended(sinks: LogSinks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, whole: str) -> None:
    path = tmp_path / "a"
    sinks.open(1, file_log(path))
    real, left = os.write, [room]

    def write(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(5, "Input/output error")
        taken = real(fd, bytes(data)[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(logs.os, "write", write)
    sinks.write(1, b"one\ntwo\n")
    left[0] = 1000
    sinks.write(1, b"four\n")

    assert path.read_text() == whole


def test_a_fifo_that_nobody_reads_is_no_trap(sinks: LogSinks, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    sinks.open(1, file_log(tmp_path / "fifo"))
    sinks.write(1, b"x\n")

    assert sinks.lines_lost == 1


def open_descriptors() -> set[int]:
    """Without the one that the listing itself took."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{fd}").exists()}


def test_descriptors_are_not_inherited(sinks: LogSinks, tmp_path: Path) -> None:
    before = open_descriptors()
    sinks.open(1, file_log(tmp_path / "a"))
    sinks.open(2, AccessLog(sink="syslog", path="127.0.0.1:1", text="x"))
    sinks.write(2, b"x\n")
    opened = open_descriptors() - before

    assert len(opened) == 2
    assert [os.get_inheritable(fd) for fd in opened] == [False, False]


def test_lines_for_a_closed_number_are_counted(sinks: LogSinks, told: list[str], tmp_path: Path) -> None:
    sinks.open(1, file_log(tmp_path / "a"))
    sinks.close(1)
    sinks.write(1, b"a\nb\n")
    sinks.write(99, b"c")

    assert sinks.lines_lost == 3
    assert told == []


# ---- stdout ----


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


def test_a_pipe_that_nobody_reads_does_not_stop_the_writer(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    target = StandardTarget(writer)
    line = b"x" * 99 + b"\n"
    lost = sum(target.write(line * 1000)[0] for _ in range(20))
    os.set_blocking(reader, False)

    assert lost > 0
    assert target.pending
    got = b""
    while target.pending:
        got += os.read(reader, 1 << 20)
        lost += target.write(b"")[0]
    got += os.read(reader, 1 << 20)
    assert got.count(b"\n") + lost == 20_000
    assert got.replace(line, b"") == b""
    assert len(got) <= MOST_PENDING_BYTES + (1 << 20)


def test_stdout_is_never_closed_and_never_made_non_blocking(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    target = StandardTarget(writer)
    target.write(b"x\n")
    target.close()

    assert os.get_blocking(writer)


@pytest.mark.parametrize("log", [AccessLog(sink="stdout", text="x"), file_log("/dev/stdout"), file_log("/proc/self/fd/1")])
def test_names_of_stdout_mean_stdout(sinks: LogSinks, log: AccessLog, capfd: pytest.CaptureFixture[str]) -> None:
    sinks.open(1, log)
    sinks.write(1, b"line\n")

    assert capfd.readouterr().out == "line\n"


def test_stderr(sinks: LogSinks, capfd: pytest.CaptureFixture[str]) -> None:
    sinks.open(1, AccessLog(sink="stderr", text="x"))
    sinks.write(1, b"line\n")

    assert capfd.readouterr().err == "line\n"


# ---- syslog ----


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        yield server


def syslog(path: str, **settings: str) -> AccessLog:
    return AccessLog(sink="syslog", path=path, text="x", **settings)


def test_each_line_is_a_datagram_in_rfc_3164s_frame(sinks: LogSinks, udp: socket.socket) -> None:
    sinks.open(1, syslog(f"127.0.0.1:{udp.getsockname()[1]}", syslog_tag="front", syslog_facility="local3"))
    sinks.write(1, b"GET /a 200\nGET /b 404\n")

    frame = rb"<158>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d vm-7 front\[\d+\]: "
    assert re.fullmatch(frame + b"GET /a 200", udp.recv(4096))
    assert re.fullmatch(frame + b"GET /b 404", udp.recv(4096))


def test_a_day_below_ten_is_padded_by_a_space(sinks: LogSinks, udp: socket.socket, clock: Clock) -> None:
    clock.now_s = 1_699_000_000.0      # 3 November 2023
    sinks.open(1, syslog(f"127.0.0.1:{udp.getsockname()[1]}"))
    sinks.write(1, b"x\n")

    assert udp.recv(4096).startswith(b"<134>Nov  3 ")


def test_a_long_line_is_cut(sinks: LogSinks, udp: socket.socket) -> None:
    sinks.open(1, syslog(f"127.0.0.1:{udp.getsockname()[1]}"))
    sinks.write(1, b"y" * 20_000 + b"\n")

    assert len(udp.recv(65536)) == MOST_DATAGRAM_BYTES


def test_a_local_daemon_that_restarts_is_found_again(sinks: LogSinks, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "log"
    sinks.open(1, syslog(str(path)))
    sinks.write(1, b"nobody\n")
    for generation in range(2):
        clock.now_s += 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.bind(str(path))
            daemon.settimeout(5)
            sinks.write(1, b"line %d\n" % generation)
            assert re.fullmatch(rb"<134>\w{3} [ \d]\d [\d:]{8} meshproxy\[\d+\]: line %d" % generation, daemon.recv(4096))
        path.unlink()
        sinks.write(1, b"gone\n")

    assert sinks.lines_lost == 3


def test_an_absent_udp_server_costs_lines_and_nothing_else(sinks: LogSinks, udp: socket.socket) -> None:
    port = udp.getsockname()[1]
    udp.close()
    sinks.open(1, syslog(f"127.0.0.1:{port}"))
    for _ in range(4):
        sinks.write(1, b"x\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(("127.0.0.1", port))
        back.settimeout(5)
        sinks.write(1, b"y\n")
        sinks.write(1, b"z\n")
        assert back.recv(4096).endswith((b": y", b": z"))


def test_a_name_that_cannot_be_resolved_is_told(clock: Clock, told: list[str]) -> None:
    def resolve(host: str, port: int) -> tuple:
        raise socket.gaierror(-2, f"{host} is not known")

    sinks = LogSinks("vm-7", told.append, resolve)
    sinks.open(1, syslog("logs.test:514"))
    sinks.write(1, b"x\n")

    assert told == ["access log syslog logs.test:514: lines_lost=1 reason='logs.test is not known'"]
