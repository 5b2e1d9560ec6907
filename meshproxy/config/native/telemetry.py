"""Access logs and metrics in native YAML."""

from __future__ import annotations

from typing import Any

from meshproxy.config import rules
from meshproxy.config.native.address import Place
from meshproxy.config.native.kinds import Duration, Flag, Fraction, Free, ListOf, Named, Size, Text, Whole, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems
from meshproxy.model import AccessLog, StatsSink, StatsTag
from meshproxy.model.telemetry import DEFAULT_FORMAT
from meshproxy.telemetry.operators import check_format


def wrong_formats(value: Any) -> list[str]:
    """What is wrong with the format strings in a text or in nested JSON."""
    if isinstance(value, str):
        return check_format(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [wrong for item in items for wrong in wrong_formats(item)]


def _short_log(value: Any) -> dict[str, Any] | None:
    if value in ("stdout", "stderr"):
        return {"to": value}
    if isinstance(value, str) and value.startswith(("/", "./", "../")):
        return {"to": "file", "path": value}
    return None


def _make_log(values: Values, path: Path, problems: Problems) -> Any:
    sink, target = values.get("sink", "file"), values.get("path", "")
    if (sink in ("file", "syslog")) != bool(target):
        wrong = f'to: {sink} needs "path". Add it.' if not target else f'"path" has no meaning with to: {sink}. Remove it.'
        problems.error(path, f"access log: {wrong}")
        return WRONG
    if "text" in values and "json" in values:
        problems.error((path, "json"), 'access log: "format" and "json" are both given. Keep one.')
        return WRONG
    if "json" not in values:
        values.setdefault("text", DEFAULT_FORMAT)
        if not values["text"].endswith("\n"):
            values["text"] += "\n"
    key = "json" if "json" in values else "format"
    for wrong in wrong_formats(values.get("json", values.get("text"))):
        problems.error((path, key), wrong)
    return AccessLog(**{"sink": sink, **values})


def _split_log(log: AccessLog) -> Values:
    values = {field: getattr(log, field) for field in log.__struct_fields__}
    if log.text in (None, DEFAULT_FORMAT):
        del values["text"]
    if log.json is None:
        del values["json"]
    return values


def _shorten_log(written: dict[str, Any]) -> Any:
    if written.keys() == {"to"} and written["to"] in ("stdout", "stderr"):
        return written["to"]
    if written.keys() == {"to", "path"} and written["to"] == "file" and written["path"].startswith("/"):
        return written["path"]
    return written


ACCESS_LOG = Section(
    "access_log",
    (
        Row("to", Word("file", "stdout", "stderr", "syslog"), "Where lines go.", "sink", default="file", shown_default="file"),
        Row("path", Text(), 'The file; or of `syslog` the UDP server `host:port` or the socket (`/dev/log`).', default=""),
        Row("format", Text("format string"), "A line, with Envoy's operators (`%RESPONSE_CODE%`). A missing line end is added.", "text",
            shown_default="Envoy's default format"),
        Row("json", Free(), "A JSON object per line instead: names and operators; a value that is one operator keeps its type."),
        Row("omit_empty_values", Flag(), 'An absent value is "" and not "-"; in JSON it is left out.'),
        Row("min_status", Whole(0, 599), "Log only responses with at least this status; 0 = all."),
        Row("syslog_tag", Text(), "The program's name in syslog."),
        Row("syslog_facility", Word("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
                                    *(f"local{n}" for n in range(8))), "syslog's facility."),
    ),
    AccessLog,
    help="One log of requests: `stdout`, `stderr`, a file's path, or a mapping.",
    make=_make_log,
    split=_split_log,
    short=_short_log,
    shorten=_shorten_log,
    short_schemas=({"type": "string", "pattern": r"^(stdout$|stderr$|\.{0,2}/)"},),
    short_label="stdout, stderr, a path",
    title="access log",
)


def _short_sink(value: Any) -> dict[str, Any] | None:
    return {"address": value} if isinstance(value, str) else None


def _make_sink(values: Values, path: Path, problems: Problems) -> Any:
    if ("address" in values) == ("tcp_cluster" in values):
        problems.error(path, 'statsd: give one of "address" and "tcp_cluster".')
        return WRONG
    if "tcp_cluster" in values:
        if values.get("transport", "tcp") != "tcp":
            problems.error((path, "transport"), '"tcp_cluster" is reached by tcp. Remove "transport" or give "address".')
        values["transport"] = "tcp"
        problems.refer("cluster", values["tcp_cluster"], (path, "tcp_cluster"))
    return StatsSink(**values)


def _split_sink(sink: StatsSink) -> Values:
    values = {field: getattr(sink, field) for field in sink.__struct_fields__}
    if sink.tcp_cluster:
        del values["transport"]
    return values


STATSD = Section(
    "statsd",
    (
        Row("address", Place(names=False, zero_port=False), "The statsd server."),
        Row("transport", Word("udp", "tcp"), "How it is reached."),
        Row("tcp_cluster", Text(), "A cluster whose endpoints take statsd lines by TCP, instead of an address."),
        Row("dialect", Word("statsd", "dogstatsd"), "`dogstatsd` sends what a name's parts mean as tags."),
        Row("prefix", Text(), "The beginning of every name."),
        Row("max_datagram", Size(64, 65507), "Lines are gathered up to this size.", "max_datagram_bytes"),
    ),
    StatsSink,
    help="A statsd server: an address, or a mapping.",
    make=_make_sink,
    split=_split_sink,
    short=_short_sink,
    shorten=lambda written: written["address"] if written.keys() == {"address"} and isinstance(written["address"], str) else written,
    short_schemas=({"type": "string", "pattern": ":"},),
    short_label="an address",
    title="statsd",
)

STATS_TAG = Section(
    "stats_tag",
    (
        Row("value", Text(), "The same on all metrics."),
        Row("regex", Text("regex", rules.tag_regex),
            "RE2, looked for in what the metrics of a thing begin with (`cluster.web.`); the value is its second group, else its first."),
    ),
    help="A tag: a text for all metrics, or a mapping.",
    make=lambda values, path, problems: _make_tag(values, path, problems),
    split=lambda tag: {"value": tag.value} if tag.value else {"regex": tag.regex},
    short=lambda value: {"value": value} if isinstance(value, str) else None,
    shorten=lambda written: written.get("value", written),
    short_schemas=({"type": "string"},),
    short_label="a text",
    title="stats_tag",
)


def _make_tag(values: Values, path: Path, problems: Problems) -> Any:
    if len(values) != 1:
        problems.error(path, 'stats tag: give one of "value" and "regex".')
        return WRONG
    return values


ACCESS_LOGS = ListOf(ACCESS_LOG)
STATS_TAGS = Named(STATS_TAG, "stats tag", lambda values, name: StatsTag(name=name, **values))
SINKS = ListOf(STATSD)
FLUSH_INTERVAL = Duration(zero="")
BUCKETS = ListOf(Fraction(0.0, 1e9, "number of milliseconds"), least=1, single=False)
