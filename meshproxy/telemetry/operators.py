"""Access log format strings: their grammar, and which of Envoy's operators there are.

The rows are the source of `check_format`, of the compiled formatter's table and of the reference page. Sources: Envoy 1.40's access log
documentation, and how Envoy itself judges and prints each (tests compare).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

NONE = ""
HEADERS = "NAME?ALTERNATIVE"
TIME = "FORMAT"
SPAN = "START:END:PRECISION"
PATH = "WQ|NQ:ORIG|PATH|ORIG_OR_PATH"
NAME = "NAME"
QUERY = "ORIG|DECODED"
DETAILS = "ALLOW_WHITESPACES"
GRPC = "CAMEL_STRING|SNAKE_STRING|NUMBER"
_REQUIRED = (HEADERS, SPAN, NAME)
_WITH_LENGTH = (HEADERS, PATH, NAME, QUERY)

SPAN_POINTS = ("DS_RX_BEG", "DS_RX_END", "US_TX_BEG", "US_RX_BEG", "US_RX_END", "DS_TX_BEG", "DS_TX_END")
"""In the order of a request's life; the compiled formatter counts them from 0."""
SPAN_POINTS_LATER = ("US_CX_BEG", "US_CX_END", "US_HS_END", "US_TX_END")
"""Envoy has them, we do not measure them yet."""
SPAN_PRECISIONS = {"ms": (1, 1000), "us": (1, 1), "ns": (1000, 1)}
"""What microseconds are multiplied and divided by."""


class OperatorRow(NamedTuple):
    """`argument` is the shape of what may stand in parentheses; `number`: JSON has it as a number when it stands alone."""

    argument: str
    number: bool
    help: str


def _text(help: str, argument: str = NONE) -> OperatorRow:
    return OperatorRow(argument, False, help)


def _number(help: str, argument: str = NONE) -> OperatorRow:
    return OperatorRow(argument, True, help)


TLS_TOLD = {
    "TLS_VERSION": "the TLS version", "TLS_CIPHER": "the cipher, by OpenSSL's name,", "TLS_SESSION_ID": "the TLS session's id (hex)",
    "PEER_FINGERPRINT_256": "SHA-256 (hex) of the peer's certificate", "PEER_FINGERPRINT_1": "SHA-1 (hex) of the peer's certificate",
    "PEER_SERIAL": "serial number (hex) of the peer's certificate",
    "PEER_CHAIN_FINGERPRINTS_256": "SHA-256 of each certificate in the peer's chain",
    "PEER_CHAIN_FINGERPRINTS_1": "SHA-1 of each certificate in the peer's chain",
    "PEER_CHAIN_SERIALS": "serial number of each certificate in the peer's chain",
    "PEER_SUBJECT": "subject of the peer's certificate", "PEER_ISSUER": "issuer of the peer's certificate",
    "PEER_CERT": "the peer's certificate, PEM, URL-encoded,",
    "PEER_CERT_V_START": "when the peer's certificate begins to be valid",
    "PEER_CERT_V_END": "when the peer's certificate ends to be valid",
    "PEER_URI_SAN": "URIs in the peer's certificate", "PEER_DNS_SAN": "DNS names in the peer's certificate",
    "PEER_IP_SAN": "IP addresses in the peer's certificate", "PEER_EMAIL_SAN": "mail addresses in the peer's certificate",
    "PEER_OTHERNAME_SAN": "other names in the peer's certificate",
    "LOCAL_SUBJECT": "subject of our certificate",
    "LOCAL_URI_SAN": "URIs in our certificate", "LOCAL_DNS_SAN": "DNS names in our certificate",
    "LOCAL_IP_SAN": "IP addresses in our certificate", "LOCAL_EMAIL_SAN": "mail addresses in our certificate",
    "LOCAL_OTHERNAME_SAN": "other names in our certificate",
}
"""What is known of a TLS connection, by the operator's name without its side; in the order of `telemetry/facts.pxd`."""
_NOT_UPSTREAM = frozenset(
    """PEER_FINGERPRINT_256 PEER_FINGERPRINT_1 PEER_SERIAL PEER_CHAIN_FINGERPRINTS_256 PEER_CHAIN_FINGERPRINTS_1 PEER_CHAIN_SERIALS
    PEER_EMAIL_SAN PEER_OTHERNAME_SAN LOCAL_SUBJECT LOCAL_EMAIL_SAN LOCAL_OTHERNAME_SAN""".split()
)
"""Envoy has no such operators of the connection to the endpoint."""

OPERATORS: dict[str, OperatorRow] = {
    "START_TIME": _text("when the request's first byte came, in UTC", TIME),
    "EMIT_TIME": _text("when the line was written, in UTC", TIME),
    "REQ": _text("a request header; `:METHOD`, `:PATH`, `:AUTHORITY` and `:SCHEME` are taken too", HEADERS),
    "RESP": _text("a response header as it was sent; `:STATUS` is taken too", HEADERS),
    "TRAILER": _text("a response trailer", HEADERS),
    "REQUEST_HEADER": _text("the same as `REQ`", HEADERS),
    "RESPONSE_HEADER": _text("the same as `RESP`", HEADERS),
    "RESPONSE_TRAILER": _text("the same as `TRAILER`", HEADERS),
    "PATH": _text("the path with (WQ) or without (NQ) its query: before (ORIG) or after (PATH) rewriting, or whichever there is", PATH),
    "QUERY_PARAM": _text("a query parameter, decoded", NAME),
    "QUERY_PARAMS": _text("the whole query, as it came", QUERY),
    "PROTOCOL": _text("`HTTP/1.1`, `HTTP/1.0` or `HTTP/2`; absent for TCP"),
    "RESPONSE_CODE": _number("status; 0 when no response was sent"),
    "RESPONSE_CODE_DETAILS": _text("who made the response and why, white space as `_` unless allowed", DETAILS),
    "GRPC_STATUS": _text("a gRPC call's status by name or as a NUMBER; without one of its own, what HTTP's status stands for", GRPC),
    "GRPC_STATUS_NUMBER": _number("the same as a number"),
    "RESPONSE_FLAGS": _text("what went wrong, as short flags with `,` between"),
    "RESPONSE_FLAGS_LONG": _text("the same in words"),
    "BYTES_RECEIVED": _number("bytes of the request's body"),
    "BYTES_SENT": _number("bytes of the response's body"),
    "DOWNSTREAM_WIRE_BYTES_RECEIVED": _number("bytes of the request on the wire"),
    "DOWNSTREAM_WIRE_BYTES_SENT": _number("bytes of the response on the wire"),
    "DURATION": _number("ms from the first byte received to the last byte sent"),
    "REQUEST_DURATION": _number("ms until the request's last byte was received"),
    "RESPONSE_DURATION": _number("ms until the first byte of the endpoint's response"),
    "RESPONSE_TX_DURATION": _number("ms from the first byte of the endpoint's response to the last byte sent"),
    "COMMON_DURATION": _number(f"time between two of {', '.join(SPAN_POINTS)} in ms, us or ns", SPAN),
    "DOWNSTREAM_REMOTE_ADDRESS": _text("the client's address and port, as x-forwarded-for has it where that is trusted"),
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": _text("the same without the port"),
    "DOWNSTREAM_REMOTE_PORT": _number("its port"),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": _text("the peer of the connection"),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": _text("the same without the port"),
    "DOWNSTREAM_DIRECT_REMOTE_PORT": _number("its port"),
    "DOWNSTREAM_LOCAL_ADDRESS": _text("our end of the client's connection"),
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": _text("the same without the port"),
    "DOWNSTREAM_LOCAL_PORT": _number("its port"),
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS": _text("the same as `DOWNSTREAM_LOCAL_ADDRESS`"),
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT": _text("the same without the port"),
    "DOWNSTREAM_DIRECT_LOCAL_PORT": _number("its port"),
    "UPSTREAM_HOST": _text("the endpoint's address and port"),
    "UPSTREAM_REMOTE_ADDRESS": _text("the same as `UPSTREAM_HOST`"),
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": _text("the same without the port"),
    "UPSTREAM_REMOTE_PORT": _number("its port"),
    "UPSTREAM_LOCAL_ADDRESS": _text("our end of the connection to the endpoint"),
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": _text("the same without the port"),
    "UPSTREAM_LOCAL_PORT": _number("its port"),
    "UPSTREAM_CLUSTER": _text("the cluster's name"),
    "UPSTREAM_CLUSTER_RAW": _text("the same as `UPSTREAM_CLUSTER`"),
    "UPSTREAM_PROTOCOL": _text("`HTTP/1.1` or `HTTP/2`, as the last endpoint was spoken to; absent for TCP"),
    "UPSTREAM_CONNECTION_ID": _number("the connection to the endpoint, unique in the node like `CONNECTION_ID`; 0 when there was none"),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": _number("tries; 0 when nothing was sent upstream"),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": _text("why no connection to the endpoint came about"),
    "CONNECTION_ID": _number("the client's connection, unique in the node while it lives"),
    "CONNECTION_TERMINATION_DETAILS": _text("why we ended the client's connection"),
    "ROUTE_NAME": _text("the route's name"),
    "VIRTUAL_HOST_NAME": _text("the virtual host's name; not one of Envoy's operators"),
    "REQUESTED_SERVER_NAME": _text("the TLS server name that the client asked for"),
    "TLS_JA3_FINGERPRINT": _text("JA3 of the client's hello, where the TLS inspector makes it"),
    "TLS_JA4_FINGERPRINT": _text("JA4 of the client's hello, where the TLS inspector makes it"),
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON": _text("why the client's handshake failed"),
    **{
        f"{side}_{name}": OperatorRow(TIME if name.endswith(("V_START", "V_END")) else NONE, False, f"{help} of the {who} connection")
        for side, who in (("DOWNSTREAM", "client's"), ("UPSTREAM", "endpoint's")) for name, help in TLS_TOLD.items()
        if side == "DOWNSTREAM" or name not in _NOT_UPSTREAM
    },
    "TRACE_ID": _text("the id of the request's trace, were it sampled or not; absent where its listener has no tracing, and of TCP"),
    "HOSTNAME": _text("this machine's name"),
    "ENVIRONMENT": _text("an environment variable of the node", NAME),
    "ACCESS_LOG_TYPE": _text(
        "`DownstreamEnd`; of TCP `TcpConnectionEnd`, `TcpUpstreamConnected`, `TcpPeriodic`; `NotSet` in a listener's log"
    ),
}

NOT_YET = frozenset(
    """START_TIME_LOCAL EMIT_TIME_LOCAL DYNAMIC_METADATA CLUSTER_METADATA UPSTREAM_METADATA METADATA FILTER_STATE UPSTREAM_FILTER_STATE
    FILTER_CHAIN_NAME VIRTUAL_CLUSTER_NAME LOCAL_REPLY_BODY STREAM_ID UNIQUE_ID
    ROUNDTRIP_DURATION REQUEST_TX_DURATION DOWNSTREAM_HANDSHAKE_DURATION UPSTREAM_CONNECTION_POOL_READY_DURATION
    REQUEST_HEADERS_BYTES RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES UPSTREAM_SERVER_NAME
    UPSTREAM_HOST_NAME UPSTREAM_HOST_NAME_WITHOUT_PORT UPSTREAM_HOSTS_ATTEMPTED UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT
    UPSTREAM_HOST_NAMES_ATTEMPTED UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT UPSTREAM_CONNECTION_IDS_ATTEMPTED
    UPSTREAM_WIRE_BYTES_SENT UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HEADER_BYTES_RECEIVED
    DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_HEADER_BYTES_RECEIVED DOWNSTREAM_LOCAL_CLOSE_REASON
    UPSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_DETECTED_CLOSE_TYPE BYTES_RETRANSMITTED PACKETS_RETRANSMITTED
    CUSTOM_FLAGS CEL""".split()
)
"""Envoy's that we name as missing; every `*_ENDPOINT_ID` belongs to them too."""
_NOT_YET_FAMILIES = re.compile(r"_ENDPOINT_ID$")

FLAGS: tuple[tuple[str, str], ...] = (
    ("LH", "FailedLocalHealthCheck"), ("UH", "NoHealthyUpstream"), ("UT", "UpstreamRequestTimeout"), ("LR", "LocalReset"),
    ("UR", "UpstreamRemoteReset"), ("UF", "UpstreamConnectionFailure"), ("UC", "UpstreamConnectionTermination"),
    ("UO", "UpstreamOverflow"), ("NR", "NoRouteFound"), ("DI", "DelayInjected"), ("FI", "FaultInjected"), ("RL", "RateLimited"),
    ("UAEX", "UnauthorizedExternalService"), ("DC", "DownstreamConnectionTermination"), ("URX", "UpstreamRetryLimitExceeded"),
    ("SI", "StreamIdleTimeout"), ("IH", "InvalidEnvoyRequestHeaders"), ("DPE", "DownstreamProtocolError"),
    ("UMSDR", "UpstreamMaxStreamDurationReached"), ("NC", "NoClusterFound"), ("OM", "OverloadManagerTerminated"),
    ("DT", "DurationTimeout"), ("UPE", "UpstreamProtocolError"),
)
"""By bit, as `telemetry/facts.pxd` numbers them: the short and the long form."""

DEFAULT_TIME = "%Y-%m-%dT%H:%M:%S.%3fZ"


GRPC_STATUSES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss",
    "Unauthenticated",
)
"""By number, as Envoy spells them."""
GRPC_STATUSES_IN_CAPITALS = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)


class Operator(NamedTuple):
    """One `%NAME(argument):length%`; None = not given."""

    name: str
    argument: str | None = None
    length: int | None = None


Token = str | Operator
_OPERATOR = re.compile(r"%([A-Z0-9_]+)(?:\(([^)]*)\))?(?::([0-9]{1,9}))?%")
_NOT_IN_HEADER_NAMES = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z:]")


def split_format(text: str) -> list[Token]:
    """The tokens of a format string, `%%` as "%". Raises ValueError, with Envoy's words, where no operator can be read."""
    return list(_tokens(text))


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        percent = text.find("%", at)
        if percent != at:
            yield text[at : percent if percent >= 0 else len(text)]
            if percent < 0:
                return
        if text.startswith("%%", percent):
            yield "%"
            at = percent + 2
            continue
        found = _OPERATOR.match(text, percent)
        if found is None:
            raise ValueError(f"Incorrect configuration: {text}. Couldn't find valid command at position {percent}")
        yield Operator(found[1], found[2], int(found[3]) if found[3] else None)
        at = found.end()


def check_format(text: str) -> list[str]:
    """What is wrong with a format string, in Envoy's words where Envoy refuses it too; [] = nothing."""
    try:
        tokens = split_format(text)
    except ValueError as error:
        return [str(error)]
    return [problem for token in tokens if isinstance(token, Operator) for problem in check_operator(token)]


def check_operator(operator: Operator) -> list[str]:
    """What is wrong with one operator."""
    return list(_problems_of(operator))


def _problems_of(operator: Operator) -> Iterator[str]:
    name, argument, length = operator
    row = OPERATORS.get(name)
    if row is None:
        later = name in NOT_YET or _NOT_YET_FAMILIES.search(name)
        yield f"%{name}% is not supported yet" if later else f"Not supported field in StreamInfo: {name}"
    elif row.argument in _REQUIRED and not argument:
        yield f"{name} requires parameters"
    elif row.argument == NONE and (argument is not None or length is not None):
        yield f"{name} does not take any parameters or length"
    elif length is not None and row.argument not in _WITH_LENGTH:
        yield f"{name} does not allow length to be specified."
    elif argument:
        yield from _ARGUMENT_CHECKS[row.argument](name, argument)


def _check_headers(name: str, argument: str) -> Iterator[str]:
    names = argument.split("?")
    if len(names) > 2:
        yield f"More than 1 alternative header specified in token: {argument}"
    if any(_NOT_IN_HEADER_NAMES.search(header) for header in names) or not names[0]:
        yield f"Invalid header configuration. Format string contains invalid characters: {name}({argument})"


def _check_time(name: str, argument: str) -> Iterator[str]:
    if "\n" in argument or "%n" in argument:
        yield "Invalid header configuration. Format string contains newline."
    if len(argument) > MOST_TIME_FORMAT:
        yield f"{name}: a time format of {len(argument)} characters is longer than {MOST_TIME_FORMAT}"
    if re.search(r"%E(?![0-9]S)|%[0-9](?![fs])", argument):
        yield f"{name}({argument}): of the extended conversions only %1f to %9f and %E0S to %E9S are supported"


MOST_TIME_FORMAT = 100
"""Characters: a date in all its forms is shorter, and what it becomes has a place of fixed size."""


def _check_span(name: str, argument: str) -> Iterator[str]:
    parts = argument.split(":")
    if len(parts) != 3:
        yield f"Invalid common duration configuration: {argument}."
        return
    if parts[2] not in SPAN_PRECISIONS:
        yield f"Invalid common duration precision: {parts[2]}."
    for point in parts[:2]:
        if point in SPAN_POINTS_LATER:
            yield f"{name}({argument}): the time point {point} is not supported yet"
        elif point not in SPAN_POINTS:
            yield f"{name}({argument}): no time point {point}; there are {', '.join(SPAN_POINTS)}"


def _check_path(name: str, argument: str) -> Iterator[str]:
    query, _, which = argument.partition(":")
    if query not in ("WQ", "NQ"):
        yield f"Invalid {name} option: '{query}', only 'WQ'/'NQ' are allowed"
    if which not in ("", "ORIG", "PATH", "ORIG_OR_PATH"):
        yield f"Invalid {name} option: '{which}', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"


def _check_query(name: str, argument: str) -> Iterator[str]:
    if argument not in ("ORIG", "DECODED"):
        yield f"Invalid {name} option: '{argument}', only 'ORIG'/'DECODED' are allowed"
    if argument == "DECODED":
        yield f"{name}(DECODED) is not supported yet"


def _check_grpc(name: str, argument: str) -> Iterator[str]:
    if argument not in GRPC.split("|"):
        yield f"{name} only supports CAMEL_STRING, SNAKE_STRING or NUMBER."


def _check_nothing(name: str, argument: str) -> Iterator[str]:
    yield from ()


_ARGUMENT_CHECKS = {
    HEADERS: _check_headers, TIME: _check_time, SPAN: _check_span, PATH: _check_path, QUERY: _check_query, NAME: _check_nothing,
    DETAILS: _check_nothing, GRPC: _check_grpc,
}


class TimePiece(NamedTuple):
    """`kind`: strftime of `text`; `fraction`, `text` is the number of digits; `epoch`, whole seconds since 1970."""

    kind: str
    text: str


def time_pieces(text: str) -> list[TimePiece]:
    """A time format cut where strftime cannot go on: `%f` (9 digits), `%3f`, `%s`, `%E3S`."""
    pieces: list[TimePiece] = []
    plain = ""
    for part in re.findall(r"%E[0-9]S|%[0-9]?[fs]|%.|[^%]+|%", text):
        if part[-1] in "fs" and part[0] == "%":
            cut = [TimePiece("epoch", "")] if part[-1] == "s" else [TimePiece("fraction", part[1:-1] or "9")]
        elif part.startswith("%E"):
            digits = part[2]
            plain += "%S" if digits == "0" else "%S."
            cut = [] if digits == "0" else [TimePiece("fraction", digits)]
        else:
            plain += part
            cut = []
        if cut:
            pieces += [TimePiece("strftime", plain)] if plain else []
            pieces += cut
            plain = ""
    return [*pieces, TimePiece("strftime", plain)] if plain else pieces
