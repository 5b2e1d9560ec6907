"""How HTTP is spoken and what requests go through, in native YAML."""

from __future__ import annotations

import re
from typing import Any

from meshproxy.config import rules
from meshproxy.config.native.kinds import Duration, Flag, Fraction, Free, ListOf, Size, Text, Whole, Word
from meshproxy.config.native.rbac import HTTP_RBAC
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems
from meshproxy.model import (
    ClientCertHeader,
    GrpcHttp1Bridge,
    GrpcStats,
    GrpcWeb,
    Http2Settings,
    HttpConnectionManager,
    HttpRbac,
    KeepAlive,
    PythonFilter,
)

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_METHOD = re.compile(r"[\w.]+/\w+\Z")
_LARGEST_WINDOW = 2**31 - 1
"""RFC 9113 6.9.1"""
_DEFAULT_WINDOW = 65535
"""RFC 9113 6.9.2: the least that Envoy takes."""


def _target(text: str) -> str:
    return "" if _TARGET.match(text) else f'"{text}" is no Python class. Write "package.module:Class".'


def _grpc_method(text: str) -> str:
    return "" if _METHOD.match(text) else f'"{text}" is no gRPC method. Write "package.Service/Method".'


GRPC_STATS = Section(
    "grpc_stats",
    (
        Row("all_methods", Flag(), "Count each method, up to 1,000 names."),
        Row("methods", ListOf(Text("method", _grpc_method)), "Count these, `package.Service/Method`, and the others together."),
        Row("upstream_stats", Flag(), "Also the time and the messages of each call."),
    ),
    GrpcStats,
    help="Counts gRPC calls by service and method.",
    make=lambda values, path, problems: _make_grpc_stats(values, path, problems),
)
GRPC_HTTP1_BRIDGE = Section(
    "grpc_http1_bridge",
    (Row("upgrade_protobuf", Flag(), "`application/x-protobuf` becomes a gRPC message, and back."),),
    GrpcHttp1Bridge,
    help="Lets a HTTP/1.1 client make unary gRPC calls.",
)


def _make_grpc_stats(values: Values, path: Path, problems: Problems) -> Any:
    if values.get("all_methods") and values.get("methods"):
        problems.error((path, "methods"), 'grpc_stats: "all_methods" and "methods" are both given. Keep one.')
    return GrpcStats(**values)


_WORDS: dict[str, Any] = {"grpc_stats": GrpcStats(), "grpc_web": GrpcWeb(), "grpc_http1_bridge": GrpcHttp1Bridge(), "rbac": HttpRbac()}
_BARE = [word for word in _WORDS if word != "rbac"]
"""Those that mean something by their name alone."""


def _make_filter(values: Values, path: Path, problems: Problems) -> Any:
    given = [word for word in ("target", *_WORDS) if word in values]
    if len(given) != 1:
        problems.error(path, f'filter: give one of "python", {", ".join(_WORDS)}.')
        return WRONG
    if given[0] != "target":
        for word in ("name", "settings"):
            if word in values:
                problems.error((path, word), f'"{word}" is for Python filters. Remove it.')
        made = values[given[0]]
        return _WORDS[given[0]] if isinstance(made, bool) else made
    return PythonFilter(**{"name": values["target"].rpartition(":")[2], **values})


def _split_filter(item: Any) -> Values:
    if isinstance(item, PythonFilter):
        name = {"name": item.name} if item.name != item.target.rpartition(":")[2] else {}
        return {"target": item.target, "settings": item.settings, **name}
    word = next(word for word, plain in _WORDS.items() if type(plain) is type(item))
    return {word: True if isinstance(item, GrpcWeb) else item}


def _shorten_filter(written: dict[str, Any]) -> Any:
    word = next(iter(written))
    return word if word in _BARE and written[word] in ({}, True) else written


FILTER = Section(
    "filter",
    (
        Row("python", Text("class", _target), "A class, as `package.module:Class`; its constructor gets `settings`.", "target"),
        Row("name", Text(), "For logs and metrics.", default=DERIVED, shown_default="the class"),
        Row("settings", Free(), "Keyword arguments of the constructor.", default={}),
        Row("grpc_stats", GRPC_STATS, "Counts gRPC calls."),
        Row("grpc_web", Flag(), "Translates gRPC-Web of browsers to gRPC."),
        Row("grpc_http1_bridge", GRPC_HTTP1_BRIDGE, "Lets a HTTP/1.1 client make unary gRPC calls."),
        Row("rbac", HTTP_RBAC, "Lets pass who may, and answers 403 to the others."),
    ),
    help="One step of what requests go through: a filter in plain Python, or one of ours by its name.",
    make=_make_filter,
    split=_split_filter,
    short=lambda value: {value: True if value == "grpc_web" else {}} if isinstance(value, str) and value in _BARE else None,
    shorten=_shorten_filter,
    short_schemas=({"enum": list(_BARE)},),
    short_label=", ".join(_BARE),
)

KEEP_ALIVE = Section(
    "keep_alive",
    (
        Row("interval", Duration(zero="", least_s=0.001), "Between pings.", "interval_s", shown_default="only after rest"),
        Row("timeout", Duration(zero="", least_s=0.001), "No answer for so long closes the connection.", "timeout_s", required=True),
        Row("jitter", Fraction(0, 100, "percentage"), "The interval varies by this.", "interval_jitter_percent"),
        Row("idle_interval", Duration(zero="", least_s=0.001), "Before the first stream on a connection that rested so long.",
            "idle_interval_s", shown_default="never"),
    ),
    KeepAlive,
    help="PING frames that find a dead peer.",
    title="keep_alive",
)

_WINDOW = Size(_DEFAULT_WINDOW, _LARGEST_WINDOW)
HTTP2 = Section(
    "http2",
    (
        Row("max_concurrent_streams", Whole(1, 2**31 - 1), "Streams that the peer may have open."),
        Row("initial_stream_window", _WINDOW, "Most bytes of a stream that the peer may send unread. 64 KiB to begin with, doubled with each window that "
            "is taken as it comes, never above 4 times `buffer_limit`.", "initial_stream_window_bytes"),
        Row("initial_connection_window", _WINDOW, "Bytes of all streams of a connection.", "initial_connection_window_bytes"),
        Row("hpack_table", Size(0, 1 << 20), "Table of compressed headers, for the peer.", "hpack_table_bytes"),
        Row("max_frame", Size(16384, 16777215), "The largest frame that is taken.", "max_frame_bytes"),
        Row("allow_connect", Flag(), "Take WebSocket and other upgrades by CONNECT (RFC 8441)."),
        Row("max_outbound_frames", Whole(1), "Frames that wait for a peer that does not read; then the connection is closed."),
        Row("max_outbound_control_frames", Whole(1), "The same, of answers to pings, settings and resets."),
        Row("max_consecutive_empty_frames", Whole(), "Frames without a payload in a row; then the connection is closed."),
        Row("max_priority_frames_per_stream", Whole(), "PRIORITY frames, per stream opened."),
        Row("max_window_updates_per_data_frame", Whole(1), "WINDOW_UPDATE frames, per DATA frame sent."),
        Row("max_resets_per_minute", Whole(), "Streams that the peer resets before they are answered; 0 = unlimited."),
        Row("stream_error_on_invalid_message", Flag(), "A malformed message ends its stream and not its connection."),
        Row("keep_alive", KEEP_ALIVE, "PING frames that find a dead peer.", shown_default="none"),
    ),
    Http2Settings,
    help="What is announced by HTTP/2, and how much of each kind of frame a peer may send.",
)
"""Of a listener; a cluster's has the same rows."""

_FACTS = ("subject", "cert", "chain", "dns", "uri")


class _Facts(ListOf):
    """Words that stand for flags of a ClientCertHeader."""

    def __init__(self) -> None:
        super().__init__(Word(*_FACTS))


CLIENT_CERT_HEADER = Section(
    "client_cert_header",
    (
        Row("mode", Word("sanitize", "forward_only", "append_forward", "sanitize_set", "always_forward_only"),
            "What becomes of the header that comes.", default="sanitize"),
        Row("set", _Facts(), "What of the client's certificate is put in, besides its hash and our own URI.", default=()),
    ),
    help="The header x-forwarded-client-cert: a mode, or a mapping.",
    make=lambda values, path, problems: ClientCertHeader(mode=values.get("mode", "sanitize"), **dict.fromkeys(values.get("set", ()), True)),
    split=lambda header: {"mode": header.mode, "set": tuple(fact for fact in _FACTS if getattr(header, fact))},
    short=lambda value: {"mode": value} if isinstance(value, str) else None,
    shorten=lambda written: written["mode"] if written.keys() == {"mode"} else written,
    short_schemas=({"type": "string"},),
    short_label="a mode",
    title="client_cert_header",
)

HTTP = Section(
    "http",
    (
        Row("codec", Word("auto", "http1", "http2"), "Which HTTP is spoken; auto = what the client offers by TLS, or begins with."),
        Row("stat_prefix", Text(), "The name in metrics (`http.<name>.`).", default=DERIVED, shown_default="the listener's name"),
        Row("server_name", Text("header value", rules.header_value), "The `server` header."),
        Row("server_header", Word("overwrite", "append_if_absent", "pass_through"), "What is done with the cluster's `server` header."),
        Row("via", Text("header value", rules.header_value), "Added to `via`.", shown_default="nothing"),
        Row("use_remote_address", Flag(), "This is the edge: the client's address is the peer's; x-forwarded headers are not trusted."),
        Row("xff_trusted_hops", Whole(0, 255), "Proxies in front whose x-forwarded-for is trusted."),
        Row("skip_xff_append", Flag(), "Leave x-forwarded-for as it is."),
        Row("generate_request_id", Flag(), "Give each request an x-request-id."),
        Row("preserve_external_request_id", Flag(), "Keep the one that came."),
        Row("always_set_request_id_in_response", Flag(), "Tell the client."),
        Row("suppress_envoy_headers", Flag(), "No x-envoy-upstream-service-time and the like."),
        Row("max_head", Size(1024, 8192 << 10), "431 for a longer request head.", "max_head_bytes"),
        Row("max_headers", Whole(1, 10000), "431 for more headers."),
        Row("max_body", Size(zero="unlimited"), "413 for a larger body.", "max_body_bytes"),
        Row("idle_timeout", Duration(), "A connection without a request is closed.", "idle_timeout_s"),
        Row("request_timeout", Duration(), "408 when the whole request is not there in time.", "request_timeout_s"),
        Row("request_headers_timeout", Duration(), "408 when the head is not there in time.", "request_headers_timeout_s"),
        Row("stream_idle_timeout", Duration(), "A request without a byte in either direction ends.", "stream_idle_timeout_s"),
        Row("max_connection_duration", Duration(), "Then the connection is closed.", "max_connection_duration_s"),
        Row("max_requests_per_connection", Whole(), "Then the connection is closed; 0 = unlimited."),
        Row("max_stream_duration", Duration(), "Then the request ends.", "max_stream_duration_s"),
        Row("drain_timeout", Duration(zero="at once"), "Between telling clients to go and closing.", "drain_timeout_s"),
        Row("delayed_close_timeout", Duration(), "Wait for the client to close after an error.", "delayed_close_timeout_s"),
        Row("accept_http_10", Flag(), "Take HTTP/1.0."),
        Row("default_host_for_http_10", Text("host", rules.header_value), "For HTTP/1.0 requests without Host.", shown_default="none"),
        Row("allow_absolute_url", Flag(), "Take `GET http://host/path`."),
        Row("upgrades", ListOf(Text("protocol", rules.header_name, lower=True)), "Protocols that Upgrade may name, as `websocket`.",
            shown_default="none"),
        Row("proxy_100_continue", Flag(), "Hand Expect: 100-continue on to the cluster."),
        Row("normalize_path", Flag(), "Resolve `..` and unneeded percent codes before routing."),
        Row("merge_slashes", Flag(), "`//` is `/`."),
        Row("strip_port", Word("none", "matching", "any"), "Remove the port from Host: the listener's own, or any."),
        Row("underscores_in_headers", Word("allow", "reject", "drop"), "What is done with names that have `_`."),
        Row("add_user_agent", Flag(), "Add user-agent and x-envoy-downstream-service-cluster."),
        Row("http2", HTTP2, "Settings of HTTP/2."),
        Row("client_cert_header", CLIENT_CERT_HEADER, "What the cluster is told of the client's certificate."),
    ),
    HttpConnectionManager,
    help="How HTTP is spoken with clients.",
    make=lambda values, path, problems: values,
    split=lambda values: values,
)
