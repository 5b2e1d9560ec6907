"""Metrics to a statsd server: counters as differences, gauges as they are, histograms as samples.

statsd computes percentiles itself, from the values it gets; a proxy has histograms, and sending each value would be a line a request. So
each histogram sends, per flush, at most MOST_SAMPLES values that lie evenly over the ranks of what was recorded in the interval, all with
the sample rate `@samples/recorded`. The server's percentiles are then right to a bucket's width (12.5 percent) and to 1/MOST_SAMPLES of
rank, its counts up to rounding of the rate, and the highest value is always there. Values are milliseconds, or what the metric's name says.

The format: https://github.com/statsd/statsd/blob/master/docs/metric_types.md and, for tags, https://docs.datadoghq.com/developers/dogstatsd/datagram_shell/
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from meshproxy.model import Address, PipeAddress, StatsSink
from meshproxy.scoreboard.catalogue import BlockKind, MetricType
from meshproxy.telemetry.histogram import count, representatives
from meshproxy.telemetry.stats import COUNTERS, GAUGES, HISTOGRAMS, Delta, Flush, histogram_of, scale_of
from meshproxy.telemetry.tags import TagRules, joined, prefix_of, tagged

MOST_SAMPLES = 32
"""Of one histogram in one flush: three percent of rank, some 1.5 KB."""
DATAGRAMS_PER_STEP = 64
"""Sent in one go: 90 KB. A receiver's default buffer is 208 KiB, and what finds it full is lost without a word."""
MOST_PENDING_BYTES = 4 << 20
"""Held for a server that is slow or away, a flush of 1,000 busy clusters; the oldest lines go first."""
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0

_NOT_IN_NAMES = re.compile(r"[:|@#,\s]")
_TRANSIENT = {errno.EAGAIN, errno.ENOBUFS, errno.EINPROGRESS, errno.EALREADY}


class Lines:
    """Turns a flush into lines in one dialect under one prefix."""

    def __init__(self, dialect: str, prefix: str, rules: TagRules | None = None) -> None:
        self._tags = dialect == "dogstatsd"
        self.rules = rules or TagRules()
        self._prefix = f"{prefix.rstrip('.')}." if prefix else ""

    def of(self, flush: Flush) -> Iterator[bytes]:
        """Without line ends. Counters that did not change, gauges that were never other than 0 and empty histograms are not sent."""
        for delta in flush.deltas:
            yield from self._of_block(delta)
        for extra in flush.extras:
            if extra.type is MetricType.GAUGE or extra.value:
                yield self._line(extra.kind, extra.thing, extra.name, f"{max(extra.value, 0)}|{_LETTERS[extra.type]}")

    def _of_block(self, delta: Delta) -> Iterator[bytes]:
        kind, thing, cells, used = delta
        for slot in COUNTERS[kind]:
            if cells[slot.at]:
                yield self._line(kind, thing, slot.name, f"{cells[slot.at]}|c")
        for slot in GAUGES[kind]:
            if slot.at in used:
                # "-1" would be taken for "one less". Shares of workers read at different moments can add up to it.
                yield self._line(kind, thing, slot.name, f"{max(cells[slot.at], 0)}|g")
        for slot in HISTOGRAMS[kind]:
            yield from self._of_histogram(kind, thing, slot.name, histogram_of(cells, slot.at))

    def _of_histogram(self, kind: BlockKind, thing: str, name: str, cells: Sequence[int]) -> Iterator[bytes]:
        recorded = count(cells)
        values = representatives(cells, MOST_SAMPLES) if recorded else []
        rate = f"|@{_rate(len(values) / recorded)}" if len(values) < recorded else ""
        for value in values:
            yield self._line(kind, thing, name, f"{value / scale_of(name):.6g}|ms{rate}")

    def _line(self, kind: BlockKind | None, thing: str, name: str, value: str) -> bytes:
        if not self._tags:
            return f"{self._prefix}{_NOT_IN_NAMES.sub('_', prefix_of(kind, thing) + name)}:{value}".encode()
        short, tags = tagged(kind, thing, name)
        listed = ",".join(f"{tag}:{_NOT_IN_NAMES.sub('_', text)}" for tag, text in joined(tags, self.rules.of(kind, thing)))
        return f"{self._prefix}{short}:{value}{'|#' if listed else ''}{listed}".encode()


_LETTERS = {MetricType.COUNTER: "c", MetricType.GAUGE: "g"}


def _rate(rate: float) -> str:
    """Decimal, never with an exponent, which servers do not read."""
    return f"{rate:.9f}".rstrip("0")


def batches(lines: Iterator[bytes], most_bytes: int) -> Iterator[bytes]:
    """Lines joined as datagrams of at most `most_bytes`; a longer line goes alone."""
    batch, size = [], -1
    for line in lines:
        if batch and size + 1 + len(line) > most_bytes:
            yield b"\n".join(batch)
            batch, size = [], -1
        batch.append(line)
        size += 1 + len(line)
    if batch:
        yield b"\n".join(batch)


class StatsdExporter:
    """Sends flushes to one server and never waits for it: `send` takes a flush, `step` sends on what did not go out at once.

    `addresses` gives the server's addresses at each connect (literals: who calls has resolved them); they take turns. The counters are
    for metrics: `dropped_lines`, `dropped_datagrams`, `connect_failures`.
    """

    def __init__(self, sink: StatsSink, addresses: Callable[[], Sequence[Address]]) -> None:
        self._sink = sink
        self._lines = Lines(sink.dialect, sink.prefix)
        self._addresses = addresses
        self._turn = 0
        self._socket: socket.socket | None = None
        self._retry_at_s = 0.0
        self._retry_s = FIRST_RETRY_S
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._sent_of_first = 0
        self._proven = False
        self.dropped_lines = 0
        self.dropped_datagrams = 0
        self.connect_failures = 0

    def use(self, rules: TagRules) -> None:
        """From the next flush on."""
        self._lines.rules = rules

    @property
    def pending(self) -> bool:
        """Something waits: call `step` again soon (20 ms)."""
        return bool(self._pending)

    def send(self, flush: Flush, now_s: float) -> None:
        """Take a flush and send what goes at once. What does not fit into MOST_PENDING_BYTES takes the place of the oldest."""
        for batch in batches(self._lines.of(flush), self._sink.max_datagram_bytes):
            self._pending.append(batch)
            self._pending_bytes += len(batch)
        while self._pending_bytes > MOST_PENDING_BYTES:
            self._drop_oldest()
        self.step(now_s)

    def _drop_oldest(self) -> None:
        # A line that is half sent by TCP has to be ended before another begins.
        at = 1 if self._sent_of_first and len(self._pending) > 1 else 0
        oldest = self._pending[at]
        del self._pending[at]
        self._pending_bytes -= len(oldest)
        self.dropped_lines += oldest.count(b"\n") + 1

    def step(self, now_s: float) -> None:
        """Send on, as much as goes without waiting."""
        if not self._pending or (self._socket is None and not self._connect(now_s)):
            return
        assert self._socket is not None
        if self._sink.transport == "udp":
            self._step_datagrams(self._socket)
        else:
            self._step_stream(self._socket, now_s)

    def close(self) -> None:
        """What is pending is lost."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _step_datagrams(self, out: socket.socket) -> None:
        for _ in range(min(DATAGRAMS_PER_STEP, len(self._pending))):
            try:
                out.send(self._pending[0])
            except OSError as error:
                if error.errno in _TRANSIENT:
                    return
                # ECONNREFUSED tells of an earlier datagram, EMSGSIZE of this one; nobody sends a datagram twice.
                self.dropped_datagrams += 1
            self._pending_bytes -= len(self._pending.popleft())

    def _step_stream(self, out: socket.socket, now_s: float) -> None:
        try:
            if self._ended(out):
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
            while self._pending:
                self._sent_of_first += out.send(memoryview(self._pending[0] + b"\n")[self._sent_of_first :])
                self._proven = True
                if self._sent_of_first > len(self._pending[0]):
                    self._pending_bytes -= len(self._pending.popleft())
                    self._sent_of_first = 0
        except OSError as error:
            if error.errno not in _TRANSIENT:
                self._disconnect(now_s)

    @staticmethod
    def _ended(out: socket.socket) -> bool:
        try:
            return out.recv(4096) == b""
        except BlockingIOError:
            return False

    def _disconnect(self, now_s: float) -> None:
        self.close()
        # The server got whole lines of the first batch and perhaps the start of one: begin again with that.
        if self._sent_of_first:
            first = self._pending[0]
            whole = first.rfind(b"\n", 0, self._sent_of_first) + 1
            self._pending[0] = first[whole:]
            self._pending_bytes -= whole
            self._sent_of_first = 0
        self._back_off(now_s)

    def _back_off(self, now_s: float) -> None:
        self._retry_s = FIRST_RETRY_S if self._proven else min(self._retry_s * 2, LONGEST_RETRY_S)
        self._proven = False
        self._retry_at_s = now_s + self._retry_s
        self.connect_failures += 1

    def _connect(self, now_s: float) -> bool:
        addresses = self._addresses()
        if now_s < self._retry_at_s or not addresses:
            return False
        address = addresses[self._turn % len(addresses)]
        self._turn += 1
        kind = socket.SOCK_DGRAM if self._sink.transport == "udp" else socket.SOCK_STREAM
        try:
            self._socket = _connected(address, kind)
        except OSError:
            self._back_off(now_s)
            return False
        return True


def _connected(address: Address, kind: socket.SocketKind) -> socket.socket:
    """A socket that does not block, connected or about to be. The standard library's own class: it needs no event loop."""
    if isinstance(address, PipeAddress):
        family, target = socket.AF_UNIX, address.path
    else:
        family, target = socket.AF_INET6 if ":" in address.host else socket.AF_INET, (address.host, address.port)
    out = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        out.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            out.connect(target)
    except BaseException:
        out.close()
        raise
    return out

