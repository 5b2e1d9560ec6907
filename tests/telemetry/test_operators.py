"""Format strings are read and judged as Envoy 1.40 does it; its words were taken from `envoy --mode validate`."""

from __future__ import annotations

import pytest

from meshproxy.model.telemetry import DEFAULT_FORMAT
from meshproxy.telemetry import accesslog
from meshproxy.telemetry.operators import (
    DEFAULT_TIME,
    FLAGS,
    NOT_YET,
    OPERATORS,
    Operator,
    TimePiece,
    check_format,
    split_format,
    time_pieces,
)


def test_a_format_is_text_and_operators() -> None:
    assert split_format("a %REQ(X-A?:PATH):12% 100%% %PROTOCOL%\n") == [
        "a ", Operator("REQ", "X-A?:PATH", 12), " 100", "%", " ", Operator("PROTOCOL"), "\n",
    ]
    assert split_format("") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("%NOPE%", "Not supported field in StreamInfo: NOPE"),
        ("a %% b %", "Incorrect configuration: a %% b %. Couldn't find valid command at position 7"),
        ("abc %REQ(%", "Incorrect configuration: abc %REQ(%. Couldn't find valid command at position 4"),
        ("%BYTES_SENT%x%", "Incorrect configuration: %BYTES_SENT%x%. Couldn't find valid command at position 13"),
        ("%req(x)%", "Incorrect configuration: %req(x)%. Couldn't find valid command at position 0"),
        ("%REQ(X):x%", "Incorrect configuration: %REQ(X):x%. Couldn't find valid command at position 0"),
        ("%REQ()%", "REQ requires parameters"),
        ("%REQ%", "REQ requires parameters"),
        ("%QUERY_PARAM%", "QUERY_PARAM requires parameters"),
        ("%ENVIRONMENT%", "ENVIRONMENT requires parameters"),
        ("%REQ(A?B?C)%", "More than 1 alternative header specified in token: A?B?C"),
        ("%REQ(A B)%", "Invalid header configuration. Format string contains invalid characters: REQ(A B)"),
        ("%PROTOCOL(X)%", "PROTOCOL does not take any parameters or length"),
        ("%DURATION:1%", "DURATION does not take any parameters or length"),
        ("%START_TIME:3%", "START_TIME does not allow length to be specified."),
        ("%START_TIME(%n)%", "Invalid header configuration. Format string contains newline."),
        ("%PATH(X)%", "Invalid PATH option: 'X', only 'WQ'/'NQ' are allowed"),
        ("%PATH(NQ:X)%", "Invalid PATH option: 'X', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"),
        ("%QUERY_PARAMS(x)%", "Invalid QUERY_PARAMS option: 'x', only 'ORIG'/'DECODED' are allowed"),
        ("%COMMON_DURATION(X)%", "Invalid common duration configuration: X."),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:m)%", "Invalid common duration precision: m."),
        ("%UPSTREAM_PEER_SERIAL%", "Not supported field in StreamInfo: UPSTREAM_PEER_SERIAL"),
        ("%DYNAMIC_METADATA(x)%", "%DYNAMIC_METADATA% is not supported yet"),
        ("%START_TIME(%E*S)%", "START_TIME(%E*S): of the extended conversions only %1f to %9f and %E0S to %E9S are supported"),
    ],
)
def test_what_is_wrong_is_said_in_envoys_words(text: str, says: str) -> None:
    assert check_format(text) == [says]


def test_all_problems_are_listed() -> None:
    assert check_format("%NOPE% %REQ% %PROTOCOL%") == ["Not supported field in StreamInfo: NOPE", "REQ requires parameters"]


@pytest.mark.parametrize(
    "text",
    [
        DEFAULT_FORMAT, "", "100%%", "%PATH(NQ:ORIG):3%", "%RESPONSE_CODE_DETAILS(X)%", "%EMIT_TIME(%s)%", "%REQ(X):0%",
        "%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)%", "%START_TIME(%Y/%m/%dT%H:%M:%S%z %3f %q)%", "%QUERY_PARAMS(ORIG)%",
    ],
)
def test_what_envoy_takes_is_taken(text: str) -> None:
    assert check_format(text) == []


def test_a_time_format_is_cut_at_what_strftime_cannot_do() -> None:
    def cut(text: str) -> list[tuple[str, str]]:
        return [tuple(piece) for piece in time_pieces(text)]

    assert cut(DEFAULT_TIME) == [("strftime", "%Y-%m-%dT%H:%M:%S."), ("fraction", "3"), ("strftime", "Z")]
    assert cut("%s.%f%%f") == [("epoch", ""), ("strftime", "."), ("fraction", "9"), ("strftime", "%%f")]
    assert time_pieces("%E3S") == [TimePiece("strftime", "%S."), TimePiece("fraction", "3")]


def test_every_operator_is_compiled_and_none_is_both_there_and_missing() -> None:
    assert accesslog.operator_names() == set(OPERATORS)
    assert set(OPERATORS) & NOT_YET == set()


def test_flags_are_as_many_as_compiled_code_has() -> None:
    assert len(FLAGS) == 23
    assert len({short for short, _ in FLAGS}) == len({long for _, long in FLAGS}) == 23
