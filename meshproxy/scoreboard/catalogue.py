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
    LISTENER_SSL = "listener.{}.ssl."
    HTTP = "http.{}."
    HTTP1 = "http1."
    HTTP2 = "http2."
    TCP = "tcp.{}."
    TLS_INSPECTOR = "tls_inspector."
    HTTP_INSPECTOR = "http_inspector."
    PROXY_PROTO = "proxy_proto.{}"
    CONNECTION_LIMIT = "connection_limit.{}."
    LOCAL_RATE_LIMIT = "local_rate_limit.{}."
    TOKEN_BUCKET = "token_bucket.{}."
    RBAC = "{}rbac."
    RBAC_SHADOW = "{}"
    HTTP_RBAC = "http.{}"
    VHOST = "vhost.{}."
    CLUSTER = "cluster.{}."
    CLUSTER_SSL = "cluster.{}.ssl."
    CLUSTER_HTTP2 = "cluster.{}.http2."
    GRPC = "cluster.{}"
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


TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
TLS_CIPHERS = (
    "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "other",
)
TLS_CURVES = ("X25519", "P-256", "P-384", "P-521", "X448", "other")
TLS_SIGNATURES = (
    "ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384", "ecdsa_secp521r1_sha512", "ed25519", "rsa_pss_rsae_sha256", "rsa_pss_rsae_sha384",
    "rsa_pss_rsae_sha512", "rsa_pkcs1_sha256", "rsa_pkcs1_sha384", "rsa_pkcs1_sha512", "rsa_pkcs1_sha1", "other",
)
"""Names with a counter of their own; the rest are counted as `other`."""


GRPC_STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)


def _c(name: str, help: str) -> Row:
    return Row(name, MetricType.COUNTER, help)


def _g(name: str, help: str) -> Row:
    return Row(name, MetricType.GAUGE, help)


def _h(name: str, help: str) -> Row:
    return Row(name, MetricType.HISTOGRAM, help)


def _classes(prefix: str, what: str) -> tuple[Row, ...]:
    return tuple(_c(f"{prefix}_{n}xx", f"{what} with a {n}xx status") for n in range(1, 6))


def _ssl() -> tuple[Row, ...]:
    """What TLS counts: one order for listeners and clusters, because one code counts both."""
    return (
        _c("handshake", "handshakes completed"),
        _c("connection_error", "connections ended by a TLS error, failed checks of certificates not counted"),
        _c("session_reused", "handshakes that resumed a session"),
        _c("no_certificate", "handshakes in which the peer showed no certificate"),
        _c("fail_verify_no_cert", "handshakes refused because a certificate was demanded and none came"),
        _c("fail_verify_error", "handshakes refused because the peer's chain did not verify"),
        _c("fail_verify_san", "handshakes refused because no subject alternative name matched"),
        _c("fail_verify_cert_hash", "handshakes refused because neither pin nor hash matched"),
        _c("ocsp_staple_failed", "handshakes refused for want of a good OCSP staple"),
        _c("ocsp_staple_omitted", "handshakes without the OCSP staple that was asked for"),
        _c("ocsp_staple_responses", "OCSP staples sent"),
        _c("ocsp_staple_requests", "handshakes whose client asked for an OCSP staple"),
        _c("was_key_usage_invalid", "handshakes whose certificate's key usage forbids what it was used for"),
        _c("error_http_request", "connections that spoke HTTP in plaintext to a TLS port"),
        _c("error_version", "handshakes without a common version"),
        _c("error_no_shared_parameters", "handshakes without a common cipher, curve or signature"),
        _c("error_alert", "connections that the peer ended with an alert"),
        _c("error_malformed", "connections ended for bytes that are not TLS, or not as it must be"),
        _c("error_closed", "connections that the peer left within the handshake"),
        _c("error_timeout", "handshakes that took too long"),
        _c("error_flood", "connections ended for too many key updates or renegotiations"),
        *(_c(f"versions.{name}", f"handshakes by {name}") for name in TLS_VERSIONS),
        *(_c(f"ciphers.{name}", f"handshakes with {name}") for name in TLS_CIPHERS),
        *(_c(f"curves.{name}", f"handshakes with key exchange by {name}") for name in TLS_CURVES),
        *(_c(f"sigalgs.{name}", f"handshakes whose peer signed with {name}") for name in TLS_SIGNATURES),
    )


def _http2() -> tuple[Row, ...]:
    """What HTTP/2 counts: one order for both sides, because one code counts both."""
    return (
        _c("dropped_headers_with_underscores", "header fields dropped for an underscore in the name"),
        _c("goaway_sent", "GOAWAY frames sent"),
        _c("header_overflow", "heads over the limit of bytes or fields"),
        _c("inbound_continuation_frames_flood", "connections closed for too many CONTINUATION frames in one head"),
        _c("inbound_empty_frames_flood", "connections closed for frames with nothing in them"),
        _c("inbound_priority_frames_flood", "connections closed for PRIORITY frames"),
        _c("inbound_window_update_frames_flood", "connections closed for WINDOW_UPDATE frames"),
        _c("inbound_reset_frames_flood", "connections closed for streams opened and reset at once (rapid reset)"),
        _c("keepalive_timeout", "connections closed for an unanswered PING"),
        _c("outbound_control_flood", "connections closed because the peer made us queue too many SETTINGS, PING or RST_STREAM"),
        _c("outbound_flood", "connections closed because the peer made us queue too many frames"),
        _c("requests_rejected_with_underscores_in_headers", "requests refused for an underscore in a header name"),
        _c("rx_messaging_error", "streams whose peer broke the rules of HTTP messages"),
        _c("rx_reset", "RST_STREAM frames received"),
        _c("stream_refused_errors", "streams that the peer refused"),
        _c("trailers", "trailers received"),
        _c("tx_flush_timeout", "streams reset because the peer gave no window for too long"),
        _c("tx_reset", "RST_STREAM frames sent"),
        _g("outbound_control_frames_active", "control frames queued"),
        _g("outbound_frames_active", "frames queued"),
        _g("pending_send_bytes", "body bytes waiting for the peer's window"),
        _g("streams_active", "streams open"),
    )


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
        _c("downstream_cx_transport_socket_connect_timeout", "connections closed because their handshake took too long"),
        _g("downstream_pre_cx_active", "sockets that listener filters look at"),
        _c("downstream_pre_cx_timeout", "sockets whose listener filters met the time limit"),
        _c("downstream_pre_cx_overflow", "sockets closed because too many waited for their first bytes"),
        _c("downstream_listener_filter_remote_close", "connections that the client closed while listener filters looked"),
        _c("downstream_listener_filter_error", "connections that ended by an error while listener filters looked"),
        _c("server_ssl_socket_factory.ssl_context_update_by_sds", "TLS contexts made anew because a secret changed"),
        _c("server_ssl_socket_factory.ssl_context_update_failed", "changed secrets that were refused; the TLS context before them stays"),
        _c("server_ssl_socket_factory.downstream_context_secrets_not_ready", "connections closed because a secret had not come yet"),
        _h("downstream_cx_length_ms", "how long connections lived"),
    ),
    BlockKind.LISTENER_SSL: _ssl(),
    BlockKind.HTTP1: (
        _c("dropped_headers_with_underscores", "header fields dropped for an underscore in the name"),
        _c("requests_rejected_with_underscores_in_headers", "requests refused for an underscore in a header name"),
    ),
    BlockKind.HTTP2: _http2(),
    BlockKind.TCP: (
        _c("downstream_cx_total", "connections"),
        _c("downstream_cx_no_route", "connections without a cluster to go to"),
        _c("downstream_cx_rx_bytes_total", "bytes received"),
        _c("downstream_cx_tx_bytes_total", "bytes sent"),
        _g("downstream_cx_tx_bytes_buffered", "bytes waiting to be sent"),
        _c("downstream_flow_control_paused_reading_total", "times reading from the client paused"),
        _c("downstream_flow_control_resumed_reading_total", "times reading from the client resumed"),
        _c("idle_timeout", "connections closed for being idle"),
        _c("max_downstream_connection_duration", "connections closed at their longest life"),
        _c("upstream_flush_total", "connections that still sent to the endpoint after the client had left"),
        _g("upstream_flush_active", "connections that still send to the endpoint after the client has left"),
    ),
    BlockKind.TLS_INSPECTOR: (
        _c("client_hello_too_large", "hellos over the limit"),
        _c("tls_found", "connections that speak TLS"),
        _c("tls_not_found", "connections that do not"),
        _c("alpn_found", "TLS with ALPN"),
        _c("alpn_not_found", "TLS without ALPN"),
        _c("sni_found", "TLS with a server name"),
        _c("sni_not_found", "TLS without a server name"),
    ),
    BlockKind.HTTP_INSPECTOR: (
        _c("read_error", "reads that failed"),
        _c("http10_found", "HTTP/1.0"),
        _c("http11_found", "HTTP/1.1"),
        _c("http2_found", "HTTP/2 by its preface"),
        _c("http_not_found", "none of them"),
    ),
    BlockKind.PROXY_PROTO: (
        _c("not_found_allowed", "connections without a header, which is allowed"),
        _c("not_found_disallowed", "connections without a header, closed"),
        _c("versions.v1.found", "headers of version 1"),
        _c("versions.v1.disallowed", "headers of version 1, which is not allowed"),
        _c("versions.v1.error", "headers of version 1 that are broken"),
        _c("versions.v2.found", "headers of version 2"),
        _c("versions.v2.disallowed", "headers of version 2, which is not allowed"),
        _c("versions.v2.error", "headers of version 2 that are broken"),
    ),
    BlockKind.CONNECTION_LIMIT: (
        _c("limited_connections", "connections refused"),
        _g("active_connections", "connections counted"),
    ),
    BlockKind.LOCAL_RATE_LIMIT: (
        _c("rate_limited", "connections refused for want of a token"),
    ),
    BlockKind.TOKEN_BUCKET: (),                  # no metric: a line of memory that all workers take tokens from
    BlockKind.RBAC: (
        _c("allowed", "connections that passed"),
        _c("denied", "connections refused"),
        _c("logged", "connections that a rule of action log matched"),
        _c("not_logged", "connections that no rule of action log matched"),
    ),
    BlockKind.RBAC_SHADOW: (
        _c("shadow_allowed", "connections or requests that the shadow rules would let pass"),
        _c("shadow_denied", "connections or requests that the shadow rules would refuse"),
    ),
    BlockKind.HTTP_RBAC: (
        _c("allowed", "requests that passed"),
        _c("denied", "requests refused"),
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
        _c("downstream_cx_http2_total", "HTTP/2 connections"),
        _g("downstream_cx_http2_active", "HTTP/2 connections open"),
        _c("downstream_cx_ssl_total", "TLS connections"),
        _g("downstream_cx_ssl_active", "TLS connections open"),
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
        _c("downstream_rq_http2_total", "HTTP/2 requests"),
        _c("downstream_rq_too_many_premature_resets", "connections closed for too many requests reset before their answer"),
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
        _c("downstream_rq_non_relative_path", "requests with a target that is none"),
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
        _c("upstream_cx_http2_total", "HTTP/2 connections"),
        _c("upstream_cx_connect_attempts_exceeded", "TCP connections whose tries to connect all failed"),
        _c("client_ssl_socket_factory.ssl_context_update_by_sds", "TLS contexts made anew because a secret changed"),
        _c("client_ssl_socket_factory.ssl_context_update_failed", "changed secrets that were refused; the TLS context before them stays"),
        _c("client_ssl_socket_factory.upstream_context_secrets_not_ready", "connects that failed because a secret had not come yet"),
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
    BlockKind.CLUSTER_SSL: _ssl(),
    BlockKind.CLUSTER_HTTP2: _http2(),
    BlockKind.GRPC: (
        _c("total", "calls"),
        _c("success", "calls with status 0"),
        _c("failure", "calls with another status, or with none"),
        _c("request_message_count", "messages from clients"),
        _c("response_message_count", "messages to clients"),
        *(_c(str(status), f"calls with status {status} ({name})") for status, name in enumerate(GRPC_STATUSES)),
        _h("upstream_rq_time", "time of calls"),
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
    for kind in filter(CATALOGUE.__getitem__, BlockKind):
        lines += ["", "cdef enum:"]
        for at, row in offsets(kind):
            lines.append(f"    {kind.name}_{row.name.upper().replace('.', '_').replace('-', '_')} = {at}")
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
