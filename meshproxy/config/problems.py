"""Collecting what is wrong, and saying where.

A *path* is a chain of pairs `(parent, key)` that ends in the Document it belongs to: making one costs a tuple, and it becomes text
only when there is a problem. Keys are field names (str) and list indexes (int).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterable
from typing import Any, Protocol

from meshproxy.config.secrets import Secrets
from meshproxy.errors import Problem

MOST_PROBLEMS = 1000
"""More than a person reads; a generated file with one mistake in every route must not fill a terminal for minutes."""

_PLAIN_KEY = re.compile(r"[\w-]+\Z")


class Place(Protocol):
    """The root of a path."""

    file: str

    def line_of(self, keys: list[str | int]) -> int:
        """The line of a field, or of its nearest parent that is in the file; 0 = not known."""


Path = Any
"""`Place | tuple[Path, str | int]`, which the type checker cannot express without a name for recursion."""


def keys_of(path: Path) -> tuple[Place, list[str | int]]:
    """The root and the keys from it."""
    keys: list[str | int] = []
    while isinstance(path, tuple):
        path, key = path
        keys.append(key)
    keys.reverse()
    return path, keys


def text_of(keys: Iterable[str | int]) -> str:
    """`static_resources.listeners[0].name`; a key that is no plain word stands in quotes and brackets."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _PLAIN_KEY.match(key):
            text += f".{key}" if text else key
        else:
            text += f'["{key}"]'
    return text


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """` (did you mean "x"?)`, or nothing when no word is near."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.65)
    return f' (did you mean "{near[0]}"?)' if near else ""


def told(value: Any) -> str:
    """A wrong value as a problem shows it: short, with its type where the text alone would mislead."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return f'"{text}"' if isinstance(value, str) else text


class Problems:
    """What is wrong with one configuration, and what is gathered while it is read.

    `error` refuses it; `warning` lets it through and is shown.
    """

    def __init__(self) -> None:
        self._errors: list[tuple[Path, str]] = []
        self._warnings: list[tuple[Path, str]] = []
        self._left_out = 0
        self._references: dict[str, list[tuple[str, Path]]] = {}
        self.secrets = Secrets(self)
        self.sourced: list[tuple[Path, str]] = []
        """Where the configuration says that something comes from a control plane, and what that says."""

    def error(self, path: Path, message: str) -> None:
        if len(self._errors) < MOST_PROBLEMS:
            self._errors.append((path, message))
        else:
            self._left_out += 1

    def warning(self, path: Path, message: str) -> None:
        if len(self._warnings) < MOST_PROBLEMS:
            self._warnings.append((path, message))

    def refer(self, kind: str, name: str, path: Path) -> None:
        """The field at `path` names a thing that may be defined further down: `unresolved` looks for it at the end."""
        self._references.setdefault(kind, []).append((name, path))

    def unresolved(self, kind: str, known: Container[str], remedy: str) -> None:
        """Refuses all references to things of `kind` that are not `known`."""
        for name, path in self._references.pop(kind, []):
            if name not in known:
                near = did_you_mean(name, known if isinstance(known, Iterable) else ())
                self.error(path, f'{kind} "{name}" is not defined{near}. {remedy}')

    @property
    def refused(self) -> bool:
        return bool(self._errors)

    def errors(self) -> list[Problem]:
        """In the order of the file's lines, the same one once."""
        listed = _located(self._errors)
        if self._left_out:
            listed.append(Problem(f"and {self._left_out} problems more: mend these first", file=listed[0].file))
        return listed

    def warnings(self) -> list[Problem]:
        return _located(self._warnings)


def _located(found: list[tuple[Path, str]]) -> list[Problem]:
    located: dict[Problem, None] = {}
    for path, message in found:
        place, keys = keys_of(path)
        located[Problem(message, text_of(keys), place.file, place.line_of(keys))] = None
    return sorted(located, key=lambda problem: (problem.file, problem.line))
