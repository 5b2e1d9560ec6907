"""A setting is one row, a kind of thing is a section of rows: reading, writing, JSON Schema and the reference page come from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from meshproxy.config.problems import Path, Problems, did_you_mean, told


class _Mark:
    """A value that is none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __bool__(self) -> bool:
        return False


WRONG = _Mark("WRONG")
"""What a kind returns after it told a problem."""
UNSET = _Mark("UNSET")
DERIVED = _Mark("DERIVED")
"""The default of a setting that follows from others."""


class Kind(Protocol):
    """A type of value: YAML data to a model value and back."""

    label: str
    """How the reference page calls it."""

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        """The model's value, or WRONG after a problem was told."""

    def write(self, value: Any) -> Any:
        """The YAML data that reads as `value`."""

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """JSON Schema; a section puts itself into `definitions` and returns a reference."""


class Row(NamedTuple):
    """One setting. `attribute` is the model's field (the name when empty); the default is the model's when UNSET here."""

    name: str
    kind: Kind
    help: str
    attribute: str = ""
    default: Any = UNSET
    required: bool = False
    reloadable: bool = True
    since: str = "0.1"
    shown_default: str = ""
    """For the reference page, where the value itself says too little."""

    @property
    def field(self) -> str:
        return self.attribute or self.name


Values = dict[str, Any]


class Section:
    """Rows that make one thing. `make(values, path, problems)` builds it from what was read, `split(thing)` gives the values back.

    `short` turns data that is no mapping (a string, a number, a list) into one and returns None for what it does not know;
    `shorten` is its inverse on what was written, and may return its argument.
    """

    def __init__(
        self,
        name: str,
        rows: tuple[Row, ...],
        struct: type[msgspec.Struct] | None = None,
        *,
        help: str = "",
        make: Callable[[Values, Path, Problems], Any] | None = None,
        split: Callable[[Any], Values] | None = None,
        short: Callable[[Any], dict[str, Any] | None] | None = None,
        shorten: Callable[[dict[str, Any]], Any] | None = None,
        short_schemas: tuple[dict[str, Any], ...] = (),
        short_label: str = "",
        title: str = "",
    ) -> None:
        self.name = name
        self.label = f"[{name}](#{name.replace('_', '-')})"
        self.help = help
        self.title = title or name.replace("_", " ")
        self.short_label = short_label
        self._struct = struct
        self._make = make or self._construct
        self._split = split or self._fields
        self._short = short
        self._shorten = shorten
        self._short_schemas = short_schemas
        defaults = _defaults(struct) if struct else {}
        self.rows = tuple(
            row._replace(default=defaults.get(row.field, UNSET)) if row.default is UNSET and not row.required else row for row in rows
        )
        self._by_name = {row.name: (row.field, row.kind.read) for row in self.rows}
        self._required = [row.name for row in self.rows if row.required]

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            mapping = self._short(value) if self._short is not None else None
            if mapping is None:
                return self._no_mapping(value, path, problems)
            value = mapping
        values: Values = {}
        by_name = self._by_name
        for name, given in value.items():
            known = by_name.get(name)
            if known is None:
                self._unknown(name, path, problems)
            elif (made := known[1](given, (path, name), problems)) is not WRONG:
                values[known[0]] = made
        missing = [name for name in self._required if name not in value]
        for name in missing:
            problems.error(path, f'{self.title}: "{name}" is missing. Add it.')
        if missing or any(by_name[name][0] not in values for name in self._required):
            return WRONG
        return self._make(values, path, problems)

    def write(self, value: Any) -> Any:
        values = self._split(value)
        written = {}
        for row in self.rows:
            given = values.get(row.field, UNSET)
            if given is not UNSET and (row.required or given != row.default):
                written[row.name] = row.kind.write(given)
        return self._shorten(written) if self._shorten is not None else written

    def schema(self, definitions: dict[str, Any]) -> dict[str, Any]:
        reference = {"$ref": f"#/$defs/{self.name}"}
        if self.name not in definitions:
            definitions[self.name] = made = {}
            properties = {row.name: _row_schema(row, definitions) for row in self.rows}
            made.update(type="object", additionalProperties=False, properties=properties)
            if self._required:
                made["required"] = self._required
            if self.help:
                made["description"] = self.help
        return {"anyOf": [*self._short_schemas, reference]} if self._short_schemas else reference

    def _construct(self, values: Values, path: Path, problems: Problems) -> Any:
        assert self._struct is not None
        return self._struct(**values)

    def _fields(self, value: Any) -> Values:
        return {row.field: getattr(value, row.field) for row in self.rows if hasattr(value, row.field)}

    def _unknown(self, name: str, path: Path, problems: Problems) -> None:
        near = did_you_mean(name, self._by_name)
        remedy = "Correct or remove it." if near else f"Use one of: {', '.join(self._by_name)}."
        problems.error((path, name), f'{self.title} has no setting "{name}"{near}. {remedy}')

    def _no_mapping(self, value: Any, path: Path, problems: Problems) -> Any:
        wanted = f"{self.short_label} or a mapping" if self.short_label else "a mapping"
        remedy = f"Write {self.short_label}, or settings indented below" if self.short_label else "Write its settings indented below"
        problems.error(path, f"{told(value)} is given where {self.title} needs {wanted}. {remedy}.")
        return WRONG


def _defaults(struct: type[msgspec.Struct]) -> Values:
    """The model's defaults by field."""
    return {
        field.name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(struct)
        if not field.required
    }


def _row_schema(row: Row, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = dict(row.kind.schema(definitions))
    schema["description"] = row.help
    if row.default not in (UNSET, DERIVED, None, "") and not row.required:
        written = row.kind.write(row.default)
        if isinstance(written, (str, int, float, bool)) and written != "":
            schema["default"] = written
    return schema
