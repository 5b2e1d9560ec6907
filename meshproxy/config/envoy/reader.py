"""YAML or JSON data into protobuf messages, as the JSON mapping of proto3 has it, telling every mistake and not only the first.

Field names are taken as snake_case and camelCase. Whether a value is supported is asked later (`translation`); here it is only whether
Envoy's API has it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf import descriptor
from google.protobuf.message import Message

from meshproxy.config.envoy.messages import TYPE_URL_PREFIX, MessageTypes, name_in, unknown_type
from meshproxy.config.problems import Path, Problems, did_you_mean, told

_DURATION = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?s\Z")
_TRUTH = {"true": True, "yes": True, "on": True, "y": True, "false": False, "no": False, "off": False, "n": False}
"""Envoy's YAML parser takes these words for truth values where a bool is wanted."""
_F = descriptor.FieldDescriptor
_FLOATS = {_F.TYPE_FLOAT, _F.TYPE_DOUBLE}

Convert = Callable[[Any], Any]
"""Data to a scalar's value; raises ValueError with what is wanted."""


class _Field(NamedTuple):
    """How one field is set. `fill` fills a sub-message; `convert` makes a scalar."""

    name: str
    repeated: bool
    map: bool
    oneof: str
    fill: Callable[[Message, Any, Path], None] | None
    convert: Convert | None
    plain: type | None
    """The Python type that needs no conversion."""


class Reader:
    """Reads data into messages. Problems go to `problems`; what could be read is in the message all the same."""

    def __init__(self, problems: Problems, types: MessageTypes) -> None:
        self._problems = problems
        self._types = types
        self._tolerant = False
        self._plans: dict[str, dict[str, _Field]] = {}
        self._special: dict[str, Callable[[Message, Any, Path], None]] = {
            "google.protobuf.Any": self._any,
            "google.protobuf.Duration": self._duration,
            "google.protobuf.Struct": self._struct,
            "google.protobuf.Value": self._value,
            "google.protobuf.ListValue": self._list_value,
            **{f"google.protobuf.{name}Value": self._wrapper
               for name in ("Bool", "UInt32", "UInt64", "Int32", "Int64", "Double", "Float", "String", "Bytes")},
        }

    def reading(self, problems: Problems, tolerant: bool) -> Reader:
        """Itself, with other problems from now on. `tolerant`: fields that are not known are skipped, as in a control plane's bytes."""
        self._problems, self._tolerant = problems, tolerant
        return self

    def read(self, message: Message, data: Any, path: Path) -> None:
        if type(data) is not dict:
            self._problems.error(path, f"{told(data)} is given where {message.DESCRIPTOR.name} needs a mapping. Indent its fields below.")
            return
        plan = self._plans.get(message.DESCRIPTOR.full_name) or self._plan(message.DESCRIPTOR)
        oneofs: dict[str, str] = {}
        for key, value in data.items():
            field = plan.get(key)
            if field is None:
                self._unknown(key, message, plan, path)
                continue
            if value is None:
                continue
            name = field.name
            if field.oneof and self._second(field, oneofs, path):
                continue
            if field.repeated:
                self._repeated(message, field, value, (path, name))
            elif field.fill is not None:
                child = getattr(message, name)
                child.SetInParent()
                field.fill(child, value, (path, name))
            elif type(value) is field.plain:
                try:
                    setattr(message, name, value)
                except (ValueError, TypeError):
                    self._problems.error((path, name), f"{told(value)} is out of range. Use a smaller number.")
            else:
                self._scalar(message, field, value, (path, name))

    def _scalar(self, message: Message, field: _Field, value: Any, path: Path) -> None:
        made = self._converted(field, value, path)
        if made is None:
            return
        try:
            setattr(message, field.name, made)
        except (ValueError, TypeError):
            self._problems.error(path, f"{told(value)} is out of range. Use a number that fits.")

    def _converted(self, field: _Field, value: Any, path: Path) -> Any:
        if type(value) is field.plain:
            return value
        assert field.convert is not None
        try:
            return field.convert(value)
        except ValueError as wrong:
            self._problems.error(path, f"{told(value)} is given where {wrong}")
            return None

    def _second(self, field: _Field, oneofs: dict[str, str], path: Path) -> bool:
        other = oneofs.setdefault(field.oneof, field.name)
        if other == field.name:
            return False
        self._problems.error((path, field.name), f'"{other}" and "{field.name}" are both given, and only one of them can be. Keep one.')
        return True

    def _repeated(self, message: Message, field: _Field, value: Any, path: Path) -> None:
        target = getattr(message, field.name)
        if field.map:
            self._map(target, field, value, path)
            return
        # One item alone is taken for a list of one, as Envoy's own parser does.
        for index, item in enumerate(value if type(value) is list else [value]):
            if field.fill is not None:
                field.fill(target.add(), item, (path, index))
            elif (made := self._converted(field, item, (path, index))) is not None:
                try:
                    target.append(made)
                except (ValueError, TypeError):
                    self._problems.error((path, index), f"{told(item)} is out of range. Use a number that fits.")

    def _map(self, target: Any, field: _Field, value: Any, path: Path) -> None:
        if type(value) is not dict:
            self._problems.error(path, f'{told(value)} is given where names are needed. Write "name:" lines below.')
            return
        for key, item in value.items():
            if field.fill is not None:
                field.fill(target[key], item, (path, key))
            elif (made := self._converted(field, item, (path, key))) is not None:
                target[key] = made

    def _plan(self, of: descriptor.Descriptor) -> dict[str, _Field]:
        plan: dict[str, _Field] = {}
        for field in of.fields:
            made = self._field(field)
            plan[field.name] = plan[field.json_name] = made
        self._plans[of.full_name] = plan
        return plan

    def _field(self, field: descriptor.FieldDescriptor) -> _Field:
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        value = field.message_type.fields_by_name["value"] if is_map else field
        oneof = field.containing_oneof.name if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1 else ""
        fill = convert = plain = None
        if value.message_type is not None:
            fill = self._special.get(value.message_type.full_name, self.read)
        else:
            convert, plain = _converter(value)
        return _Field(field.name, field.is_repeated, is_map, oneof, fill, convert, plain)

    def _unknown(self, key: str, message: Message, plan: dict[str, _Field], path: Path) -> None:
        if self._tolerant:
            return
        near = did_you_mean(key, [name for name in plan if "_" in name or name.islower()])
        name = message.DESCRIPTOR.full_name
        self._problems.error((path, key), f'{name} has no field "{key}"{near}. Correct or remove it.')

    def _any(self, message: Message, data: Any, path: Path) -> None:
        if type(data) is not dict or type(data.get("@type")) is not str:
            self._problems.error(path, f'"@type" is missing. Add it, as "{TYPE_URL_PREFIX}envoy.config...".')
            return
        url = data["@type"]
        message.type_url = url
        found = self._types.find(name_in(url))
        if found is None:
            self._problems.error((path, "@type"), unknown_type(url))
            return
        inner = found()
        rest = {key: value for key, value in data.items() if key != "@type"}
        special = self._special.get(inner.DESCRIPTOR.full_name)
        if special is not None:
            special(inner, rest.get("value"), (path, "value"))
        else:
            self.read(inner, rest, path)
        message.value = inner.SerializeToString()

    def _duration(self, message: Message, data: Any, path: Path) -> None:
        found = _DURATION.match(data) if type(data) is str else None
        if found is None:
            self._problems.error(path, f'{told(data)} is no duration. Write seconds with an "s", like "5s" or "0.25s".')
            return
        sign = -1 if found[1] else 1
        message.seconds = sign * int(found[2])
        message.nanos = sign * int((found[3] or "").ljust(9, "0"))

    def _wrapper(self, message: Message, data: Any, path: Path) -> None:
        plan = self._plans.get(message.DESCRIPTOR.full_name) or self._plan(message.DESCRIPTOR)
        self._scalar(message, plan["value"], data, path)

    def _struct(self, message: Message, data: Any, path: Path) -> None:
        if type(data) is not dict:
            self._problems.error(path, f"{told(data)} is given where a mapping is needed. Indent its entries below.")
            return
        for key, value in data.items():
            self._value(message.fields[key], value, (path, key))

    def _value(self, message: Message, data: Any, path: Path) -> None:
        if data is None:
            message.null_value = 0
        elif type(data) is bool:
            message.bool_value = data
        elif type(data) in (int, float):
            message.number_value = data
        elif type(data) is str:
            message.string_value = data
        elif type(data) is dict:
            message.struct_value.SetInParent()
            self._struct(message.struct_value, data, path)
        else:
            message.list_value.SetInParent()
            self._list_value(message.list_value, data, path)

    def _list_value(self, message: Message, data: Any, path: Path) -> None:
        for index, item in enumerate(data if type(data) is list else [data]):
            self._value(message.values.add(), item, (path, index))


def _converter(field: descriptor.FieldDescriptor) -> tuple[Convert, type | None]:
    if field.enum_type is not None:
        return _enum(field.enum_type), None
    if field.type == _F.TYPE_STRING:
        return _text, str
    if field.type == _F.TYPE_BOOL:
        return _truth, bool
    if field.type == _F.TYPE_BYTES:
        return _bytes, None
    if field.type in _FLOATS:
        return _float, float
    return _integer, int


def _enum(of: descriptor.EnumDescriptor) -> Convert:
    values = {value.name: value.number for value in of.values}
    numbers = set(values.values())

    def convert(data: Any) -> int:
        if type(data) is str:
            # Envoy's parser takes enum words without regard to case, and "-" for "_".
            number = values.get(data, values.get(data.upper().replace("-", "_")))
            if number is not None:
                return number
        if type(data) is int and data in numbers:
            return data
        near = did_you_mean(data.upper(), values) if type(data) is str else ""
        raise ValueError(f"one of {', '.join(values)} is needed{near}. Use one of them.")

    return convert


def _text(data: Any) -> str:
    raise ValueError("text is needed. Put it in quotes.")


def _truth(data: Any) -> bool:
    made = _TRUTH.get(data.lower()) if type(data) is str else None
    if made is None:
        raise ValueError("true or false is needed. Write true or false.")
    return made


def _integer(data: Any) -> int:
    if type(data) is str and re.fullmatch(r"-?[0-9]{1,20}", data):
        return int(data)
    if type(data) is float and data.is_integer():
        return int(data)
    raise ValueError("a whole number is needed. Write digits only.")


def _float(data: Any) -> float:
    if type(data) in (int, float):
        return float(data)
    try:
        return float(data)
    except (TypeError, ValueError):
        raise ValueError("a number is needed. Write a number.") from None


def _bytes(data: Any) -> bytes:
    try:
        return base64.b64decode(data.replace("-", "+").replace("_", "/"), validate=True)
    except (AttributeError, binascii.Error, ValueError):
        raise ValueError("base64 is needed. Encode the bytes with `base64 -w0`.") from None
