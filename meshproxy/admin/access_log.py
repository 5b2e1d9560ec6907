"""Access logs of the admin API, in the formats of listeners' logs. The agent writes the lines itself: no worker and no ring is between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from meshproxy.admin.http import Request
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.model import AccessLog
from meshproxy.telemetry.accesslog import Format
from meshproxy.telemetry.logs import LogSinks
from meshproxy.telemetry.operators import FLAGS

LINE_BYTES = 256 << 10
"""A head has 16 KiB at most; a format that repeats all of it more often than this allows loses the line, and it is counted."""
ANSWERED, NO_REQUEST, GONE = b"admin_filter_response", b"http1.codec_error", b"downstream_remote_disconnect"
"""Envoy's RESPONSE_CODE_DETAILS."""
_BITS = {short: 1 << bit for bit, (short, _) in enumerate(FLAGS)}


@dataclass
class Entry:
    """What is known of one request: the server writes down what happens, when it happens. `remote` "" = a UNIX socket's nameless peer."""

    connection: int
    remote: str
    local: str
    request: Request | None = None
    status: int = 0
    details: bytes = ANSWERED
    flag: str = ""
    response_lines: bytes = b""
    body_received_bytes: int = 0
    body_sent_bytes: int = 0
    wire_received_bytes: int = 0
    wire_sent_bytes: int = 0
    start_s: float = 0.0
    start_unix_s: float = 0.0
    request_end_s: float | None = None
    response_start_s: float | None = None

    def begin(self) -> None:
        """The first bytes are here."""
        self.start_s, self.start_unix_s = monotonic_s(), unix_s()

    def came(self, request: Request, head_bytes: int) -> None:
        """The request is here, with its body."""
        self.request, self.request_end_s = request, monotonic_s()
        self.body_received_bytes = request.body_bytes
        self.wire_received_bytes = head_bytes + request.body_bytes

    def refused(self, wire_bytes: int) -> None:
        """What came is no request."""
        self.wire_received_bytes = wire_bytes
        self.details, self.flag = NO_REQUEST, "DPE"

    def gone(self) -> None:
        """The client left, or took nothing, before it had the whole answer."""
        self.details, self.flag = GONE, "DC"

    def answers(self, status: int, head: bytes) -> None:
        """A response's head, which goes out now."""
        self.status, self.response_start_s = status, monotonic_s()
        self.response_lines = head.partition(b"\r\n")[2].removesuffix(b"\r\n")

    def sent(self, wire_bytes: int, body_bytes: int = 0) -> None:
        """So much has gone out."""
        self.wire_sent_bytes += wire_bytes
        self.body_sent_bytes += body_bytes

    def facts(self) -> dict[str, Any]:
        """As `Format.render` takes them; the request is over now."""
        facts: dict[str, Any] = {
            "status": self.status, "code_details": self.details, "flags": _BITS.get(self.flag, 0), "connection_id": self.connection,
            "start_unix_us": int(self.start_unix_s * 1e6), "duration_us": self._since_us(monotonic_s()),
            "request_end_us": self._since_us(self.request_end_s), "downstream_start_us": self._since_us(self.response_start_s),
            "bytes_received": self.body_received_bytes, "bytes_sent": self.body_sent_bytes,
            "wire_bytes_received": self.wire_received_bytes, "wire_bytes_sent": self.wire_sent_bytes,
            "downstream_local": self.local.encode(), "response_lines": self.response_lines or None,
        }  # fmt: skip
        if self.remote:
            facts["downstream_remote"] = facts["downstream_direct_remote"] = self.remote.encode()
        return facts | dict(self._request_facts())

    def _request_facts(self) -> Iterator[tuple[str, Any]]:
        if (request := self.request) is None:
            return
        yield "method", request.method.encode()
        yield "path", request.target.encode()
        yield "original_path", request.target.encode()
        yield "scheme", b"http"
        yield "minor_version", request.version_minor
        yield "request", [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()]
        if "host" in request.headers:
            yield "authority", request.headers["host"].encode("latin-1")

    def _since_us(self, moment_s: float | None) -> int:
        return int((moment_s - self.start_s) * 1e6) if moment_s is not None else -1


class AdminLogs:
    """The admin API's logs. In `sinks` their numbers are below 0, where no listener's are."""

    def __init__(self, sinks: LogSinks) -> None:
        self._sinks = sinks
        self._formats: dict[int, Format] = {}

    def configure(self, logs: Sequence[AccessLog]) -> None:
        """From the next line on these are the logs."""
        wanted = dict(zip(range(-1, -1 - len(logs), -1), logs, strict=True))
        for sink in self._formats.keys() - wanted.keys():
            self._sinks.close(sink)
        for sink, log in wanted.items():
            self._sinks.open(sink, log)
        self._formats = {sink: Format(log) for sink, log in wanted.items()}

    def write(self, entry: Entry) -> None:
        """One line in each log that wants it."""
        if not self._formats:
            return
        facts = entry.facts()
        for sink, form in self._formats.items():
            if entry.status >= form.min_status:
                self._put(sink, form.render(facts, LINE_BYTES))

    def _put(self, sink: int, line: bytes | None) -> None:
        if line is None:
            self._sinks.lines_lost += 1
        else:
            self._sinks.write(sink, line)
