"""Compiled access log formats; `accesslog.pxd` has what workers call."""

from collections.abc import Mapping
from typing import Any

from meshproxy.model import AccessLog
from meshproxy.telemetry.operators import check_format as check_format

class Format:
    min_status: int
    def __init__(self, log: AccessLog, hostname: str | None = None, environment: Mapping[str, str] | None = None) -> None: ...
    def measure(self, facts: dict[str, Any], count: int) -> None: ...
    def render(self, facts: dict[str, Any], capacity: int = 65536) -> bytes | None: ...

def operator_names() -> set[str]: ...
