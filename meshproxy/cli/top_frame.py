"""One frame of `meshproxy top` as lines of text. Pure: figures and a size in, lines out."""

from __future__ import annotations

from collections.abc import Sequence

from meshproxy.admin.traffic import Flow, Traffic
from meshproxy.cli.status import span
from meshproxy.ipc.messages import NodeState

FLOW_HEADS = ("REQ/S", "5XX/S", "P50 MS", "P90 MS", "P99 MS", "ACTIVE", "CONN")
NAME_COLUMNS = 32
LEAST_NAME_COLUMNS = 12
BOLD, FAINT, RED, REVERSE, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[7m", "\x1b[0m"


def frame(state: NodeState, traffic: Traffic, width: int, height: int | None, styled: bool) -> list[str]:
    """At most `height` lines of at most `width` columns; None = as many as there is to say. `styled` adds ANSI colours."""
    paint = _Paint(width, styled)
    top = [paint.plain(_headline(state)), paint.bold(_totals(traffic)), ""]
    workers = [paint.head(_columns("WORKER", width, ("STATE", "BUFFERED", "TURN MS")))]
    states = {row.slot: row.state for row in state.workers}
    for worker in traffic.workers:
        rest = (states.get(worker.slot, worker.state), size(worker.buffered_bytes), number(worker.longest_turn_ms))
        workers.append(paint.flow(_columns(f"{worker.slot} ({worker.pid})", width, rest, worker.flow), worker.flow))
    downstream = _section(paint, "STAT PREFIX", traffic.downstream, width)
    clusters = _section(paint, "CLUSTER", sorted(traffic.clusters, key=lambda flow: -flow.requests_per_s), width)
    return _fitted([*top, *workers, "", *downstream, ""], clusters, height, paint)


def _headline(state: NodeState) -> str:
    serving = "DRAINING" if state.draining else "LIVE" if state.live else "NOT SERVING"
    return f"meshproxy {state.version}  {serving}  up {span(state.uptime_s)}  configuration {state.config_version}  pid {state.pid}"


def _totals(traffic: Traffic) -> str:
    total = traffic.node
    return (
        f"{number(total.requests_per_s)} requests/s  {number(total.errors_per_s)} 5xx/s  "
        f"p50 {number(total.p50_ms)} ms  p90 {number(total.p90_ms)} ms  p99 {number(total.p99_ms)} ms  "
        f"{total.requests_active} active  {total.connections_active} connections  "
        f"in {size(total.bytes_in_per_s)}/s  out {size(total.bytes_out_per_s)}/s"
    )


def _section(paint: _Paint, title: str, flows: Sequence[Flow], width: int) -> list[str]:
    return [paint.head(_columns(title, width)), *(paint.flow(_columns(flow.name, width, (), flow), flow) for flow in flows)]


def _columns(name: str, width: int, rest: Sequence[str] = (), flow: Flow | None = None) -> str:
    """The name, seven figures, and what only workers have. Without a flow it is a heading."""
    figures = FLOW_HEADS if flow is None else _figures(flow)
    name_columns = max(min(NAME_COLUMNS, width - 9 * len(figures) - 10 * 3), LEAST_NAME_COLUMNS)
    short = name if len(name) <= name_columns else name[: name_columns - 1] + "…"
    return short.ljust(name_columns) + "".join(f"{figure:>9}" for figure in figures) + "".join(f"{entry:>10}" for entry in rest)


def _figures(flow: Flow) -> tuple[str, ...]:
    return (
        number(flow.requests_per_s), number(flow.errors_per_s), number(flow.p50_ms), number(flow.p90_ms), number(flow.p99_ms),
        str(flow.requests_active), str(flow.connections_active),
    )


def _fitted(lines: list[str], clusters: list[str], height: int | None, paint: _Paint) -> list[str]:
    """The clusters are what is cut: the busiest come first."""
    if height is None:
        return lines + clusters
    room = height - len(lines)
    if len(clusters) > room:
        hidden = len(clusters) - max(room - 1, 1)
        clusters = [*clusters[: max(room - 1, 1)], paint.faint(f"... and {hidden} less busy")]
    return (lines + clusters)[:height]


class _Paint:
    """Cuts to the width, then adds colours, so that they do not count as columns."""

    def __init__(self, width: int, styled: bool) -> None:
        self._width = width
        self._styled = styled

    def plain(self, line: str) -> str:
        return line[: self._width]

    def bold(self, line: str) -> str:
        return self._in(BOLD, line)

    def faint(self, line: str) -> str:
        return self._in(FAINT, line)

    def head(self, line: str) -> str:
        return self._in(REVERSE, line.ljust(self._width) if self._styled else line)

    def flow(self, line: str, flow: Flow) -> str:
        return self._in(RED, line) if flow.errors_per_s > 0 else self.plain(line)

    def _in(self, style: str, line: str) -> str:
        return f"{style}{line[: self._width]}{PLAIN}" if self._styled else self.plain(line)


def number(value: float | None) -> str:
    """Three digits that matter; "-" for no value."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(amount: float) -> str:
    """Bytes, with a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{number(amount)} {unit}"
        amount /= 1024
    return f"{number(amount)} TiB"
