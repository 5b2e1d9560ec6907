"""The master's log: one line an event on stderr, `meshproxy: event key=value ...`, written at once and never buffered."""

from __future__ import annotations

import os
import time

from meshproxy.clock import unix_s

LEVELS = ("debug", "info", "warning", "error")


class Journal:
    """`level` is the least that is written; it may be set while the node runs."""

    def __init__(self, level: str = "info", fd: int = 2) -> None:
        self.level = level
        self._fd = fd

    def debug(self, event: str, **fields: object) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS.index(level) < LEVELS.index(self.level):
            return
        now_s = unix_s()
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in fields.items())
        try:
            os.write(self._fd, f"meshproxy: {event}{pairs} level={level} at={at}\n".encode())
        except OSError:
            # A log that cannot be written (a closed terminal, a full disk) is no reason to stop serving.
            pass


def _quoted(value: object) -> str:
    """As a value of one word, or in double quotes; line ends stay on the line."""
    text = str(value)
    if text and not any(character in text for character in ' "=\n\r\t'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") + '"'
