"""Every exception that meshproxy raises on purpose. Anything else that escapes is a bug to report."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, omit_defaults=False):
    """One thing wrong in a configuration, told so that a person can mend it.

    `message` names the thing, the value and the remedy; `path` is the field's path as the user wrote it
    (`static_resources.listeners[0].name`); `line` counts from 1, 0 where no line is known.
    """

    message: str
    path: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class MeshproxyError(Exception):
    """The root of the tree."""


class ConfigError(MeshproxyError):
    """A configuration is refused. `problems` has all that is wrong, never empty; nothing was changed."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class BindError(MeshproxyError):
    """A listener's address cannot be bound; the text names listener, address, cause and remedy."""


class TableFullError(MeshproxyError):
    """A bounded table of the scoreboard has no room; the text names the table, its size and what did not fit."""


class LayoutError(MeshproxyError):
    """A file descriptor is no scoreboard that this build can read; the text says what it is and what was expected."""


class FrameError(MeshproxyError):
    """Bytes on a socket between our own processes that are no message of ours. The connection is closed."""


class ControlError(MeshproxyError):
    """A command could not reach the node or was refused by it. `usage` tells "no node there" from "the node said no"."""

    def __init__(self, message: str, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class StaleBuildError(MeshproxyError):
    """A compiled module is missing or older than its source; the text has the command to run."""
