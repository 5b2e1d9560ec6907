"""Sends spans to collectors: in batches, over HTTP/1.1, each kind of tracing for itself. Whatever a collector does, workers do not notice.

A queue is bounded; a collector that hangs, refuses or answers with an error costs reports, which are counted, and is asked again after a
growing pause.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec
from gevent import socket
from gevent.event import Event

from meshproxy.agent.view import NodeView
from meshproxy.clock import monotonic_s
from meshproxy.discovery.dns import Resolve, is_literal, resolve
from meshproxy.master.journal import Journal
from meshproxy.model import Address, ResourceKind, SocketAddress, Tracing
from meshproxy.model.snapshot import unpack
from meshproxy.scoreboard.blocks import traces_of
from meshproxy.telemetry.span_formats import FORMATS
from meshproxy.telemetry.spans import records_of, span_count, spans_of

BATCH_RECORDS = 500
"""In one report, each of one or two spans: some 400 to 800 KB of JSON."""
FLUSH_S = 1.0
"""The longest that a span waits for others."""
MOST_QUEUED = 20_000
"""Records that wait for a collector, mostly of some 500 bytes; what comes then is dropped unread and counted."""
MOST_QUEUED_BYTES = 32 << 20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 10.0
"""After a report that failed; doubled each time."""
MOST_ANSWER_BYTES = 65536
END_S = 2.0
"""What is left when the agent ends gets so long."""
LINGER_S = 900.0
"""A tracing that no listener names any more is kept so long: its connections drain."""
COUNTERS = (
    "spans_sent", "spans_dropped", "timer_flushed", "reports_sent", "reports_dropped", "reports_failed", "reports_skipped_no_cluster",
)


class Collectors:
    """All tracings of the node by the number that their records bear. `write` takes what the drain finds."""

    def __init__(self, view: NodeView, lookup: Resolve, journal: Journal) -> None:
        self._view = view
        self._lookup = lookup
        self._journal = journal
        self._named: dict[int, Reporter] = {}
        self._left: dict[int, tuple[Reporter, float]] = {}
        self._ended: dict[str, int] = {}

    @property
    def any_named(self) -> bool:
        """Whether somebody may write records."""
        return bool(self._named or self._left)

    def takes(self, sink: int) -> bool:
        """Whether records of that number are spans."""
        return sink in self._named or sink in self._left

    def configure(self) -> None:
        """After a change of listeners."""
        wanted: dict[int, Tracing] = {}
        lines: set[int] = set()
        for resource in self._view.resources(ResourceKind.LISTENER):
            lines.update(sink for label, sink in resource.blocks.items() if label.startswith("log:") and not label.startswith("log:trace:"))
            if any(label.startswith("log:trace:") for label in resource.blocks):
                wanted.update({resource.blocks[label]: each for label, each in traces_of(unpack(resource)) if label in resource.blocks})
        for sink in self._left.keys() & lines:           # the number went to an access log
            self._end(self._left.pop(sink)[0])
        for sink in self._named.keys() - wanted.keys():
            self._left[sink] = (self._named.pop(sink), monotonic_s())
        for sink, tracing in wanted.items():
            kept = self._left.pop(sink, (None, 0.0))[0] or self._named.get(sink)
            if kept is not None and kept.tracing != tracing:
                self._end(kept)
                kept = None
            self._named[sink] = kept or Reporter(tracing, self._addresses, self._journal, self._secured)

    def _secured(self, tracing: Tracing, opened: Any) -> Any:
        """The connection as the collectors' cluster wants it. Raises OSError or ValueError."""
        cluster = self._view.cluster(tracing.cluster) if tracing.cluster else None
        if cluster is None or cluster.tls is None:
            return opened
        # Not at the top: most collectors are reached without it.
        from meshproxy.agent.secured import secured

        tls = msgspec.structs.replace(cluster.tls, alpn=("http/1.1",))
        host = (tracing.hostname or tracing.cluster).rpartition(":")[0] or tracing.hostname or tracing.cluster
        return secured(opened, tls, host, "http/1.1", {each.name: each for each in self._view.secrets()})

    def write(self, sink: int, data: bytes | bytearray) -> None:
        """Records of one number."""
        reporter = self._named.get(sink) or self._left.get(sink, (None, 0.0))[0]
        if reporter is not None:
            reporter.put(data)

    def sweep(self, now_s: float) -> None:
        """Let go of what was left long ago."""
        for sink in [sink for sink, (_, left_s) in self._left.items() if now_s - left_s >= LINGER_S]:
            self._end(self._left.pop(sink)[0])

    def counters(self) -> dict[str, int]:
        """By metric name: `tracing.zipkin.*` and `tracing.opentelemetry.*`, the sums of all."""
        counted = dict(self._ended)
        for reporter in self._all():
            _add(counted, reporter)
        return counted

    def stop(self) -> None:
        """Send what is there, for at most END_S."""
        ending = [gevent.spawn(reporter.finish) for reporter in self._all()]
        gevent.joinall(ending, timeout=END_S)
        gevent.killall(ending)
        for reporter in self._all():
            reporter.close()

    def _all(self) -> list[Reporter]:
        return [*self._named.values(), *(reporter for reporter, _ in self._left.values())]

    def _end(self, reporter: Reporter) -> None:
        reporter.close()
        _add(self._ended, reporter)

    def _addresses(self, tracing: Tracing) -> list[Address]:
        """Where its collectors are now; [] = the cluster is not there or has nobody, or the name is not known."""
        if tracing.cluster:
            return self._view.healthy_addresses(tracing.cluster)
        parts = urlsplit(tracing.url)
        host, port = parts.hostname or "", parts.port or 80
        if is_literal(host):
            return [SocketAddress(host=host, port=port)]
        try:
            return [SocketAddress(host=each, port=port) for each in resolve(self._lookup, host, "v4_preferred").addresses]
        except OSError:
            return []


def _add(counted: dict[str, int], reporter: Reporter) -> None:
    for name, value in reporter.counted.items():
        whole = f"tracing.{reporter.kind}.{name}"
        counted[whole] = counted.get(whole, 0) + value


class Reporter:
    """One tracing's queue and its greenlet. `addresses_of` gives the collectors, looked at for each connection; `secure` makes a connected
    socket what its cluster wants."""

    def __init__(
        self, tracing: Tracing, addresses_of: Callable[[Tracing], list[Address]], journal: Journal,
        secure: Callable[[Tracing, Any], Any] = lambda tracing, opened: opened,
    ) -> None:
        self.tracing = tracing
        self.kind = "opentelemetry" if tracing.exporter == "otlp" else "zipkin"
        self.counted = dict.fromkeys(COUNTERS, 0)
        self._addresses_of = addresses_of
        self._journal = journal
        self._secure = secure
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._filled = Event()
        self._connection: Connection | None = None
        # Each node begins elsewhere, or all of them would ask the first collector.
        self._turn = random.randrange(1 << 16)
        self._pause_s = 0.0
        self._ending = False
        self._running = gevent.spawn(self._run)

    def put(self, data: bytes | bytearray) -> None:
        """Records of spans; what finds no room is dropped."""
        for record in records_of(data):
            if len(self._queue) < MOST_QUEUED and self._queued_bytes < MOST_QUEUED_BYTES:
                self._queue.append(record)
                self._queued_bytes += len(record)
            else:
                self.counted["spans_dropped"] += span_count(record)
        if len(self._queue) >= BATCH_RECORDS:
            self._filled.set()

    def finish(self) -> None:
        """Send what is there, once each, and end."""
        self._ending = True
        self._filled.set()
        self._running.join()

    def close(self) -> None:
        """What is queued is lost."""
        self._running.kill()
        self.counted["spans_dropped"] += sum(map(span_count, self._queue))
        self._queue.clear()
        self._hang_up()

    def _run(self) -> None:
        while not self._ending:
            by_timer = not self._filled.wait(FLUSH_S)
            self._filled.clear()
            if self._queue and by_timer:
                self.counted["timer_flushed"] += 1
            self._flush()
        self._flush()

    def _flush(self) -> None:
        """All that is queued; after a failure, a pause."""
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_RECORDS))]
            self._queued_bytes -= sum(map(len, batch))
            if self._report(batch):
                self._pause_s = 0.0
            elif self._ending:
                return
            else:
                self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                gevent.sleep(self._pause_s)
            gevent.sleep(0)

    def _report(self, batch: list[bytes]) -> bool:
        """Whether the collector took it. Counted as Envoy does: an answer that is no 202 or 200 is `dropped`, no answer is `failed`."""
        encode, content_type = FORMATS[self.tracing.exporter]
        spans = [span for record in batch for span in spans_of(record, self.tracing)]
        self._leave_removed()
        kept = self._connection is not None
        try:
            body = encode(spans, self.tracing)
            with gevent.Timeout(self.tracing.timeout_s, TimeoutError("no answer in time")):
                status = self._post(body, content_type)
                if status is None and kept:              # it closed a connection that rested
                    status = self._post(body, content_type)
        except (OSError, ValueError) as error:
            self._hang_up()
            self._lost("failed", len(spans), error)
            return False
        if status == 0:
            self._lost("skipped_no_cluster", len(spans), "no endpoint")
            return False
        if status is None or not 200 <= status < 300:
            self._lost("dropped" if status else "failed", len(spans), f"status {status}" if status else "no answer")
            return False
        self.counted["spans_sent"] += len(spans)
        self.counted["reports_sent"] += 1
        return True

    def _leave_removed(self) -> None:
        """An endpoint that its cluster has no more, or holds for sick, gets no more reports. A URL's connection stays while it works."""
        if self._connection is not None and self.tracing.cluster and self._connection.address not in self._addresses_of(self.tracing):
            self._hang_up()

    def _lost(self, how: str, spans: int, why: Any) -> None:
        if not self._pause_s:
            self._journal.warning("spans were not taken", collector=self.tracing.cluster or self.tracing.url, error=why)
        self.counted[f"reports_{how}"] += 1
        self.counted["spans_dropped"] += spans

    def _post(self, body: bytes, content_type: str) -> int | None:
        """The answer's status; 0 = there is nobody to ask; None = the connection ended before an answer began."""
        if self._connection is None:
            addresses = self._addresses_of(self.tracing)
            if not addresses:
                return 0
            self._turn += 1
            self._connection = Connection(addresses[self._turn % len(addresses)], lambda opened: self._secure(self.tracing, opened))
        try:
            status, keeps = self._connection.post(self._head(len(body), content_type) + body)
        except ConnectionError:
            self._hang_up()
            return None
        if not keeps:
            self._hang_up()
        return status

    def _head(self, length: int, content_type: str) -> bytes:
        tracing = self.tracing
        parts = urlsplit(tracing.url)
        host = tracing.hostname or tracing.cluster or parts.netloc
        path = tracing.path if tracing.cluster else parts.path + (f"?{parts.query}" if parts.query else "")
        own = "".join(f"{name}: {value}\r\n" for name, value in tracing.headers)
        return (
            f"POST {path or '/'} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\n{own}content-length: {length}\r\n\r\n"
        ).encode()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Connection:
    """To a collector; one request at a time. Raises OSError; ConnectionError before the first byte of an answer. `secure` gives what is
    spoken over, once the socket is connected."""

    def __init__(self, address: Address, secure: Callable[[Any], Any] = lambda opened: opened) -> None:
        self.address = address
        if isinstance(address, SocketAddress):
            opened = socket.create_connection((address.host, address.port))
        else:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            opened.connect(address.path)
        try:
            self._socket = secure(opened)
        except BaseException:
            opened.close()
            raise
        self._file = self._socket.makefile("rb")

    def post(self, request: bytes) -> tuple[int, bool]:
        """The status, and whether the connection may be used again."""
        self._socket.sendall(request)
        status, http_10 = self._status_line()
        while 100 <= status < 200:
            self._fields()
            status, http_10 = self._status_line()
        fields = self._fields()
        keeps = not http_10 and "close" not in fields.get("connection", "").lower()
        return status, self._skip_body(status, fields) and keeps

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _status_line(self) -> tuple[int, bool]:
        line = self._file.readline(4096)
        if not line:
            raise ConnectionError("closed")
        version, _, rest = line.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
            raise OSError("the answer is no HTTP")
        return int(rest[:3]), version == b"HTTP/1.0"

    def _fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        for _ in range(200):
            line = self._file.readline(16384)
            if line in (b"\r\n", b"\n"):
                return fields
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                break
            fields[name.strip().lower()] = value.strip()
        raise OSError("the answer's head is no HTTP")

    def _skip_body(self, status: int, fields: dict[str, str]) -> bool:
        """Whether the end of it is known and was read."""
        if status in (204, 304):
            return True
        if "transfer-encoding" in fields:
            return self._skip_chunks()
        text = fields.get("content-length", "")
        if not text.isdigit() or int(text) > MOST_ANSWER_BYTES:
            return False
        return len(self._file.read(int(text))) == int(text)

    def _skip_chunks(self) -> bool:
        for _ in range(64):
            size = self._file.readline(64).split(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                return False
            if not 0 <= length <= MOST_ANSWER_BYTES:
                return False
            self._file.read(length + 2)
            if length == 0:
                return True
        return False


class RecordSinks:
    """Where the drain's records go: spans to collectors, all else to the access logs."""

    def __init__(self, logs: Any, collectors: Collectors) -> None:
        self._logs = logs
        self._collectors = collectors

    def write(self, sink: int, data: bytes | bytearray) -> None:
        (self._collectors if self._collectors.takes(sink) else self._logs).write(sink, data)
