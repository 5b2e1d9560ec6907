"""What is written about requests, and where it goes."""

from __future__ import annotations

from typing import Literal

import msgspec

DEFAULT_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" '
    '"%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)


class AccessLog(msgspec.Struct, frozen=True, kw_only=True):
    """One access log. Exactly one of `text` and `json` is set.

    `text` and every value of `json` are Envoy format strings (`%RESPONSE_CODE%`, `%REQ(NAME?ALT):LENGTH%`, ...), already
    checked by the front door. `json` may nest dicts and lists; a value that is one operator alone keeps its type
    (number, bool, null when absent), as in Envoy's `typed_json_format` and `json_format`.
    """

    sink: Literal["file", "stdout", "stderr", "syslog"]
    path: str = ""
    """File path for `file`; `host:port` of a UDP syslog server or a datagram socket's path (`/dev/log`) for `syslog`."""
    text: str | None = None
    json: dict | None = None
    omit_empty_values: bool = False
    """An absent value is printed as "" instead of "-" (text) or left out (json)."""
    syslog_tag: str = "meshproxy"
    syslog_facility: str = "local0"
    min_status: int = 0
    """Only responses with at least this status are logged; 0 = all (a first filter; Envoy's `status_code_filter` GE)."""
