"""Types of settings: words, numbers, durations, sizes, lists and named things."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from meshproxy.config.native.rows import WRONG, Kind
from meshproxy.config.problems import Path, Problems, did_you_mean, told

Definitions = dict[str, Any]


class Text:
    """A string. `rule` says what is wrong with it."""

    def __init__(self, label: str = "text", rule: Callable[[str], str] | None = None, empty: bool = False, lower: bool = False) -> None:
        self.label = label
        self._rule = rule
        self._empty = empty
        self._lower = lower

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not str:
            problems.error(path, f"{told(value)} is given where {self.label} is needed. Put it in quotes.")
            return WRONG
        if not value and not self._empty:
            problems.error(path, f"{self.label} is empty. Give a value or remove the setting.")
            return WRONG
        if self._rule is not None and (wrong := self._rule(value)):
            problems.error(path, wrong)
            return WRONG
        return value.lower() if self._lower else value

    def write(self, value: str) -> str:
        return value

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "string"} if self._empty else {"type": "string", "minLength": 1}


class Flag:
    """true or false."""

    label = "true or false"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is bool:
            return value
        if value in ("true", "false"):
            return value == "true"
        problems.error(path, f"{told(value)} is given where true or false is needed. Write true or false.")
        return WRONG

    def write(self, value: bool) -> bool:
        return value

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "boolean"}


class Whole:
    """A whole number from `least` to `most`. Digits in quotes are taken too: that is how `"${PORT}"` arrives. `words` stand for numbers."""

    def __init__(self, least: int = 0, most: int = 2**32 - 1, words: dict[str, int] | None = None) -> None:
        self._least = least
        self._most = most
        self._words = words or {}
        self.label = f"a number {least} to {most}" if most < 2**31 else f"a number from {least}"
        if self._words:
            self.label = f"{' or '.join(self._words)} or {self.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str:
            if value in self._words:
                return self._words[value]
            value = int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value
        if type(value) is not int:
            problems.error(path, f"{told(value)} is given where {self.label} is needed. Write digits only.")
            return WRONG
        if not self._least <= value <= self._most:
            problems.error(path, f"{value} is out of range. Use {self._least} to {self._most}.")
            return WRONG
        return value

    def write(self, value: int) -> int | str:
        return next((word for word, number in self._words.items() if number == value), value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self._least, "maximum": self._most}
        return {"anyOf": [number, {"enum": list(self._words)}]} if self._words else number


class Fraction:
    """A number with a point."""

    def __init__(self, least: float, most: float, label: str) -> None:
        self._least = least
        self._most = most
        self.label = label

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and re.fullmatch(r"-?[0-9.]{1,18}", value) and value.count(".") < 2 and value.strip("-."):
            value = float(value)
        if type(value) not in (int, float):
            problems.error(path, f"{told(value)} is given where a {self.label} is needed. Write a number.")
            return WRONG
        if not self._least <= value <= self._most:
            problems.error(path, f"{value} is out of range. Use {self._least:g} to {self._most:g}.")
            return WRONG
        return float(value)

    def write(self, value: float) -> float | int:
        return int(value) if float(value).is_integer() else value

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "number", "minimum": self._least, "maximum": self._most}


class Word:
    """One of a few words. `values` maps the words to the model's values where they differ."""

    def __init__(self, *words: str, values: dict[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = values or {word: word for word in words}
        self.label = ", ".join(self._values)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if isinstance(value, (str, int)) and (made := self._values.get(str(value), WRONG)) is not WRONG:
            return made
        near = did_you_mean(value, self._values) if isinstance(value, str) else ""
        problems.error(path, f"{told(value)} is none of: {self.label}{near}. Use one of them.")
        return WRONG

    def write(self, value: Any) -> Any:
        return next(word for word, known in self._values.items() if known == value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"enum": list(self._values)}


class Status(Word):
    """One of a few HTTP statuses."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(values={str(status): status for status in statuses})

    def write(self, value: int) -> int:
        return value

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"enum": list(self._values.values())}


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DIVISORS = {"us": 1_000_000, "ms": 1000}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_LONGEST_S = 10 * 365 * 86400


class Duration:
    """`250ms`, `5s`, `1h30m`; 0 where the setting says what 0 means. Seconds in the model."""

    def __init__(self, zero: str = "off", least_s: float = 0.0) -> None:
        self._zero = zero
        self._least_s = least_s
        self.label = "duration" + (f" (0 = {zero})" if zero else "")

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        seconds = _seconds(value)
        if seconds is None:
            problems.error(path, f'{told(value)} is no duration. Write a number and a unit, like "250ms", "5s", "1h" or "1h30m".')
            return WRONG
        if not seconds and not self._zero:
            problems.error(path, "0 is given where a time is needed. Use a longer one.")
            return WRONG
        if seconds and not self._least_s <= seconds <= _LONGEST_S:
            problems.error(path, f"{told(value)} is out of range. Use {duration_text(self._least_s or 1e-6)} to 3650d.")
            return WRONG
        return seconds

    def write(self, value: float) -> str | int:
        return duration_text(value) if value else 0

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+$"}
        return {"anyOf": [schema, {"const": 0}]} if self._zero else schema


def _seconds(value: Any) -> float | None:
    if type(value) is str:
        found = _DURATION.fullmatch(value)
        if found:
            return _in_seconds(*found.groups())
        parts = _DURATION.findall(value)
        if parts and "".join(number + unit for number, unit in parts) == value:
            return sum(_in_seconds(number, unit) for number, unit in parts)
    return 0.0 if (type(value) in (int, float) and value == 0) or value == "0" else None


def _in_seconds(number: str, unit: str) -> float:
    """Divided, not multiplied by 0.001: so 100ms is the same float as 0.1s."""
    return float(number) / _DIVISORS[unit] if unit in _DIVISORS else float(number) * _UNITS[unit]


def duration_text(seconds: float) -> str:
    """The shortest text that reads as exactly this number of seconds."""
    if seconds >= 60 and float(seconds).is_integer():
        for unit, size in (("h", 3600), ("m", 60)):
            if seconds % size == 0:
                return f"{int(seconds) // size}{unit}"
    for unit, per_second in (("s", 1), ("ms", 1000), ("us", 1_000_000)):
        count = round(seconds * per_second)
        if count and count / per_second == seconds:
            return f"{count}{unit}"
    return f"{seconds:.20f}".rstrip("0") + "s" if float(f"{seconds:.20f}") == seconds else f"{seconds:.60f}".rstrip("0") + "s"


_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1000, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|KiB|MiB|GiB|kB|MB|GB)\Z")


class Size:
    """`64KiB`, `1MiB` or a whole number of bytes."""

    def __init__(self, least: int = 0, most: int = 1 << 40, zero: str = "") -> None:
        self._least = least
        self._most = most
        self._zero = zero
        self.label = "size" + (f" (0 = {zero})" if zero else "")

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and (found := _SIZE.match(value)):
            size = int(float(found[1]) * _SIZES[found[2]])
        elif type(value) is int or (type(value) is str and value.isdecimal()):
            size = int(value)
        else:
            problems.error(path, f'{told(value)} is no size. Write a number and a unit, like "64KiB" or "1MiB".')
            return WRONG
        if not (self._least <= size <= self._most or (self._zero and size == 0)):
            problems.error(path, f"{told(value)} is out of range. Use {size_text(self._least)} to {size_text(self._most)}.")
            return WRONG
        return size

    def write(self, value: int) -> str | int:
        return size_text(value) if value >= 1024 and value % 1024 == 0 else value

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*(B|[KMG]iB|kB|[MG]B)$"}]}


def size_text(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


class ListOf:
    """A list; one thing alone is a list of one. A tuple in the model."""

    def __init__(self, kind: Kind, least: int = 0, single: bool = True) -> None:
        self._kind = kind
        self._least = least
        self._single = single
        self.label = f"list of {kind.label}"
        self.of = kind

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not list:
            if not self._single or value is None:
                problems.error(path, f'{told(value)} is given where a list is needed. Write items with "- " below each other.')
                return WRONG
            made = self._kind.read(value, path, problems)
            return WRONG if made is WRONG else (made,)
        if len(value) < self._least:
            problems.error(path, f"the list is empty. Give at least {self._least}.")
            return WRONG
        read = self._kind.read
        made = [read(item, (path, index), problems) for index, item in enumerate(value)]
        return tuple(item for item in made if item is not WRONG)

    def write(self, value: tuple) -> Any:
        written = [self._kind.write(item) for item in value]
        return written[0] if self._single and len(written) == 1 and not isinstance(written[0], list) else written

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        item = self._kind.schema(definitions)
        listed: dict[str, Any] = {"type": "array", "items": item}
        if self._least:
            listed["minItems"] = self._least
        return {"anyOf": [item, listed]} if self._single else listed


class Named:
    """A mapping of names to things. `read` of the kind gets a mapping with the name put in; a tuple in the model."""

    def __init__(self, kind: Kind, thing: str, put: Callable[[Any, str], Any]) -> None:
        self.label = f"names and {kind.label}"
        self._kind = kind
        self._thing = thing
        self._put = put

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f'{told(value)} is given where names are needed. Write "name:" with the {self._thing} below.')
            return WRONG
        made = []
        for name, given in value.items():
            item = self._kind.read(given, (path, name), problems)
            if not name:
                problems.error((path, name), f"a {self._thing} has an empty name. Give it one.")
            elif item is not WRONG:
                made.append(self._put(item, name))
        return tuple(made)

    def write(self, value: tuple) -> dict[str, Any]:
        return {item.name: self._kind.write(item) for item in value}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self._kind.schema(definitions)}


class Switches:
    """`{name: true}`; pairs in the model, names in lower case."""

    label = "names and true or false"
    _flag = Flag()

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f'{told(value)} is given where names are needed. Write "name: true" lines below.')
            return WRONG
        made = [(name.lower(), self._flag.read(given, (path, name), problems)) for name, given in value.items()]
        return tuple((name, flag) for name, flag in made if flag is not WRONG)

    def write(self, value: tuple[tuple[str, bool], ...]) -> dict[str, bool]:
        return dict(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": "boolean"}}


class Free:
    """A mapping of anything: it is handed on."""

    label = "mapping"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is dict:
            return value
        problems.error(path, f"{told(value)} is given where a mapping is needed. Write names with values below.")
        return WRONG

    def write(self, value: dict) -> dict:
        return value

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object"}
