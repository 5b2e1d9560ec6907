"""Every metric: which kind of thing has it, its name, its type, what it counts.

The one source of the names (Envoy's for the same things), of the reference page, and of `cells.pxd`, the constants that compiled
code counts by, and `cells.h`. After a change run `python -m meshproxy.scoreboard.catalogue`; a test refuses a stale file.

A *block* is one thing's run of cells (int64) in a worker's page: the same place in every worker's page. A counter only grows. A
gauge is the sum of what each worker holds, so the master zeroes a dead worker's. A histogram is `HISTOGRAM_CELLS` cells.
"""

from __future__ import annotations

import enum
import zlib
from typing import NamedTuple


class MetricType(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Row(NamedTuple):
    """`name` follows the block's prefix (`cluster.<name>.`). Histograms record microseconds and are shown in milliseconds."""

    name: str
    type: MetricType
    help: str


class BlockKind(enum.Enum):
    """`prefix` of the metric names of a block; `{}` is the thing's own name."""

    SERVER = "server."
    LISTENER = "listener.{}."
    HTTP = "http.{}."
    VHOST = "vhost.{}."
    CLUSTER = "cluster.{}."
    HOST = ""


HISTOGRAM_SUB_BUCKETS = 8
"""Buckets for each power of two: a value is known to 12.5 percent (Envoy's have 10 a decade or 90, ours 27)."""
HISTOGRAM_OCTAVES = 36
"""Up to 2**36 us, 19 hours; longer values land in the last bucket."""
HISTOGRAM_BUCKETS = HISTOGRAM_SUB_BUCKETS * (HISTOGRAM_OCTAVES - 2)
HISTOGRAM_CELLS = HISTOGRAM_BUCKETS + 1
"""The last cell is the sum of all values."""

STATUS_CODES = (
    100, 101, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404, 405,
    406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502,
    503, 504, 505, 506, 507, 508, 510, 511,
)
"""Those with a counter of their own in a cluster (`upstream_rq_503`): IANA's registry, 418 and nginx' 499. Others: only in their class."""


def _c(name: str, help: str) -> Row:
    return Row(name, MetricType.COUNTER, help)


def _g(name: str, help: str) -> Row:
    return Row(name, MetricType.GAUGE, help)


def _h(name: str, help: str) -> Row:
    return Row(name, MetricType.HISTOGRAM, help)


def _classes(prefix: str, what: str) -> tuple[Row, ...]:
    return tuple(_c(f"{prefix}_{n}xx", f"{what} with a {n}xx status") for n in range(1, 6))


CATALOGUE: dict[BlockKind, tuple[Row, ...]] = {
    BlockKind.SERVER: (
        _g("total_connections", "downstream connections open"),
        _g("buffered_bytes", "bytes held for peers that do not take them yet"),
        _c("overload_rejected_cx", "connections refused at the worker's connection limit"),
        _c("overload_rejected_rq", "requests answered 503 because the worker's buffers were full"),
        _c("overload_paused_reading", "times reading paused near the worker's buffer limit"),
        _c("fd_limit_reached", "times accept or connect met the limit of open files"),
        _c("loop_turns", "turns of the data path's loop"),
        _c("records_dropped", "records that found the ring full"),
        _c("exceptions", "connections ended by an exception of our own code: each one is a bug"),
        _c("python_filter_errors", "exceptions of Python filters"),
        _h("loop_turn_us", "length of a turn of the data path's loop"),
    ),
    BlockKind.LISTENER: (
        _c("downstream_cx_total", "connections accepted"),
        _c("downstream_cx_destroy", "connections ended"),
        _g("downstream_cx_active", "connections open"),
        _c("downstream_cx_overflow", "connections refused at the listener's limit"),
        _c("downstream_cx_overload_reject", "connections refused at the worker's limit"),
        _c("no_filter_chain_match", "connections that no filter chain took"),
        _h("downstream_cx_length_ms", "how long connections lived"),
    ),
    BlockKind.HTTP: (
        _c("downstream_cx_total", "connections"),
        _c("downstream_cx_destroy", "connections ended"),
        _c("downstream_cx_destroy_local", "connections ended by us"),
        _c("downstream_cx_destroy_remote", "connections ended by the client"),
        _c("downstream_cx_destroy_active_rq", "connections ended with a request active"),
        _c("downstream_cx_destroy_local_active_rq", "connections ended by us with a request active"),
        _c("downstream_cx_destroy_remote_active_rq", "connections ended by the client with a request active"),
        _g("downstream_cx_active", "connections open"),
        _c("downstream_cx_http1_total", "HTTP/1 connections"),
        _g("downstream_cx_http1_active", "HTTP/1 connections open"),
        _c("downstream_cx_rx_bytes_total", "bytes received"),
        _c("downstream_cx_tx_bytes_total", "bytes sent"),
        _g("downstream_cx_tx_bytes_buffered", "bytes waiting to be sent"),
        _c("downstream_cx_drain_close", "connections closed by draining"),
        _c("downstream_cx_idle_timeout", "connections closed for being idle"),
        _c("downstream_cx_max_duration_reached", "connections closed at their longest life"),
        _c("downstream_cx_max_requests_reached", "connections closed at their most requests"),
        _c("downstream_cx_protocol_error", "connections with a protocol error"),
        _c("downstream_cx_delayed_close_timeout", "connections cut after the client did not close in time"),
        _c("downstream_cx_upgrades_total", "upgraded connections"),
        _g("downstream_cx_upgrades_active", "upgraded connections open"),
        _c("downstream_flow_control_paused_reading_total", "times reading from the client paused"),
        _c("downstream_flow_control_resumed_reading_total", "times reading from the client resumed"),
        _c("downstream_rq_total", "requests"),
        _c("downstream_rq_http1_total", "HTTP/1 requests"),
        _g("downstream_rq_active", "requests active"),
        _c("downstream_rq_completed", "requests answered in full or in part"),
        *_classes("downstream_rq", "responses"),
        _c("downstream_rq_rx_reset", "requests given up by the client"),
        _c("downstream_rq_tx_reset", "requests reset by us"),
        _c("downstream_rq_idle_timeout", "requests ended by the stream idle timeout"),
        _c("downstream_rq_timeout", "requests ended by the request timeout"),
        _c("downstream_rq_header_timeout", "requests whose head took too long"),
        _c("downstream_rq_max_duration_reached", "requests ended at their longest life"),
        _c("downstream_rq_overload_close", "requests refused by overload"),
        _c("downstream_rq_too_large", "requests with a body over the limit"),
        _c("downstream_rq_non_relative_path", "requests with a path that is none"),
        _c("downstream_rq_ws_on_non_ws_route", "upgrades asked for where none is allowed"),
        _c("downstream_rq_response_before_rq_complete", "responses finished before their request"),
        _c("rq_total", "requests routed"),
        _c("no_route", "requests without a route"),
        _c("no_cluster", "requests whose route names a cluster that is not there"),
        _c("rq_direct_response", "requests answered by a direct response"),
        _c("rq_redirect", "requests answered by a redirect"),
        _h("downstream_cx_length_ms", "how long connections lived"),
        _h("downstream_rq_time", "time from a request's first byte to its response's last"),
    ),
    BlockKind.VHOST: (
        _c("upstream_rq_total", "requests sent to clusters"),
        _c("upstream_rq_completed", "responses"),
        *_classes("upstream_rq", "responses"),
        _c("upstream_rq_timeout", "requests that timed out"),
        _c("upstream_rq_retry", "retries"),
        _h("upstream_rq_time", "time of requests"),
    ),
    BlockKind.CLUSTER: (
        _c("upstream_cx_total", "connections"),
        _g("upstream_cx_active", "connections open"),
        _c("upstream_cx_http1_total", "HTTP/1 connections"),
        _c("upstream_cx_connect_fail", "connects that failed"),
        _c("upstream_cx_connect_timeout", "connects that timed out"),
        _c("upstream_cx_overflow", "times the connection breaker was open"),
        _c("upstream_cx_destroy", "connections ended"),
        _c("upstream_cx_destroy_local", "connections ended by us"),
        _c("upstream_cx_destroy_remote", "connections ended by the endpoint"),
        _c("upstream_cx_destroy_with_active_rq", "connections ended with a request active"),
        _c("upstream_cx_destroy_local_with_active_rq", "connections ended by us with a request active"),
        _c("upstream_cx_destroy_remote_with_active_rq", "connections ended by the endpoint with a request active"),
        _c("upstream_cx_close_notify", "connections that the endpoint asked to close"),
        _c("upstream_cx_idle_timeout", "connections closed for being idle"),
        _c("upstream_cx_max_requests", "connections closed at their most requests"),
        _c("upstream_cx_max_duration_reached", "connections closed at their longest life"),
        _c("upstream_cx_none_healthy", "requests that found no healthy endpoint"),
        _c("upstream_cx_protocol_error", "connections with a protocol error"),
        _c("upstream_cx_rx_bytes_total", "bytes received"),
        _c("upstream_cx_tx_bytes_total", "bytes sent"),
        _g("upstream_cx_tx_bytes_buffered", "bytes waiting to be sent"),
        _c("upstream_flow_control_paused_reading_total", "times reading from an endpoint paused"),
        _c("upstream_flow_control_resumed_reading_total", "times reading from an endpoint resumed"),
        _c("upstream_rq_total", "requests"),
        _g("upstream_rq_active", "requests active"),
        _c("upstream_rq_completed", "responses"),
        _c("upstream_rq_pending_total", "requests that waited for a connection"),
        _g("upstream_rq_pending_active", "requests waiting for a connection"),
        _c("upstream_rq_pending_overflow", "requests refused by the pending or request breaker"),
        _c("upstream_rq_pending_failure_eject", "requests failed by a connect failure"),
        _c("upstream_rq_cancelled", "requests given up before they had a connection"),
        _c("upstream_rq_timeout", "requests that timed out"),
        _c("upstream_rq_per_try_timeout", "tries that timed out"),
        _c("upstream_rq_rx_reset", "requests reset by the endpoint"),
        _c("upstream_rq_tx_reset", "requests reset by us"),
        _c("upstream_rq_retry", "retries"),
        _c("upstream_rq_retry_success", "retries that succeeded"),
        _c("upstream_rq_retry_overflow", "retries refused by the breaker or the budget"),
        _c("upstream_rq_retry_limit_exceeded", "requests with no retry left"),
        _c("upstream_rq_retry_backoff_exponential", "retries after a back-off"),
        *_classes("upstream_rq", "responses"),
        *(_c(f"upstream_rq_{code}", f"responses with status {code}") for code in STATUS_CODES),
        _c("lb_healthy_panic", "picks made among all endpoints because too few were healthy"),
        *(
            _g(f"circuit_breakers.{priority}.{share}", f"{priority} priority: {what}")
            for priority in ("default", "high")
            for share, what in (
                ("cx_held", "connections counted by the breaker"),
                ("rq_pending_held", "waiting requests counted by the breaker"),
                ("rq_held", "requests counted by the breaker"),
                ("rq_retry_held", "retries counted by the breaker"),
            )
        ),
        _h("upstream_cx_connect_ms", "time to connect"),
        _h("upstream_cx_length_ms", "how long connections lived"),
        _h("upstream_rq_time", "time of requests"),
    ),
    BlockKind.HOST: (
        _c("cx_total", "connections"),
        _g("cx_active", "connections open"),
        _c("cx_connect_fail", "connects that failed"),
        _c("rq_total", "requests"),
        _c("rq_success", "responses below 500"),
        _c("rq_error", "responses of 500 and above, resets and timeouts"),
        _c("rq_timeout", "requests that timed out"),
        _g("rq_active", "requests active"),
    ),
}


def cells_of(row: Row) -> int:
    """How many cells a metric takes."""
    return HISTOGRAM_CELLS if row.type is MetricType.HISTOGRAM else 1


def block_cells(kind: BlockKind) -> int:
    """How many cells a block of this kind takes."""
    return sum(cells_of(row) for row in CATALOGUE[kind])


def offsets(kind: BlockKind) -> list[tuple[int, Row]]:
    """Each metric of the kind with its first cell's place in the block."""
    placed, at = [], 0
    for row in CATALOGUE[kind]:
        placed.append((at, row))
        at += cells_of(row)
    return placed


def pxd() -> str:
    """The text of `cells.pxd`."""
    lines = ["# Made by `python -m meshproxy.scoreboard.catalogue` from the catalogue's rows. Do not edit.", "", "cdef enum:"]
    lines.append(f"    HISTOGRAM_BUCKETS = {HISTOGRAM_BUCKETS}")
    lines.append(f"    HISTOGRAM_CELLS = {HISTOGRAM_CELLS}")
    lines.append(f"    STATUS_CODE_COUNT = {len(STATUS_CODES)}")
    for kind in BlockKind:
        lines += ["", "cdef enum:"]
        for at, row in offsets(kind):
            lines.append(f"    {kind.name}_{row.name.upper().replace('.', '_')} = {at}")
        lines.append(f"    {kind.name}_CELLS = {block_cells(kind)}")
    return "\n".join(lines) + "\n"


def digest() -> int:
    """Tells two catalogues apart: pages written by one cannot be read by the other."""
    rows = (f"{kind.name} {at} {row.name} {row.type.value}" for kind in BlockKind for at, row in offsets(kind))
    return zlib.crc32("\n".join(rows).encode())


def header() -> str:
    """The text of `cells.h`: what the inline C code needs to know."""
    cells = ["-1"] * 500
    for at, code in enumerate(STATUS_CODES):
        cells[code - 100] = str(at)
    return "\n".join(
        [
            "/* Made by `python -m meshproxy.scoreboard.catalogue` from the catalogue's rows. Do not edit. */",
            "",
            "#include <stdint.h>",
            "",
            f"#define HISTOGRAM_SUB_BUCKETS {HISTOGRAM_SUB_BUCKETS}",
            f"#define HISTOGRAM_SUB_BITS {HISTOGRAM_SUB_BUCKETS.bit_length() - 1}",
            f"#define HISTOGRAM_BUCKETS {HISTOGRAM_BUCKETS}",
            f"#define CATALOGUE_DIGEST 0x{digest():08x}u",
            "",
            "/* By status - 100: where its counter is after that of 100, or -1. */",
            "static const int8_t STATUS_CELLS[500] = {",
            *(f"    {', '.join(cells[at : at + 25])}," for at in range(0, 500, 25)),
            "};",
        ],
    ) + "\n"


GENERATED = {"cells.pxd": pxd, "cells.h": header}


if __name__ == "__main__":
    import pathlib

    for name, text in GENERATED.items():
        pathlib.Path(__file__).with_name(name).write_text(text())
