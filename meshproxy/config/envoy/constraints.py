"""The rules that Envoy's API states in its own descriptors (protoc-gen-validate): ranges, lengths, required fields, patterns.

A rule is compiled to a check `(value) -> what is wrong, ""`, when a message type is met for the first time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from envoy.annotations import deprecation_pb2
from google.protobuf import descriptor
from validate import validate_pb2

from meshproxy.config import rules as mesh_rules
from meshproxy.config.native.kinds import duration_text

Check = Callable[[Any], str]
_BOUNDS: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("gte", "at least", lambda value, bound: value >= bound),
    ("gt", "more than", lambda value, bound: value > bound),
    ("lte", "at most", lambda value, bound: value <= bound),
    ("lt", "less than", lambda value, bound: value < bound),
)


def rules_of(field: descriptor.FieldDescriptor) -> Any:
    """The field's rules message."""
    return field.GetOptions().Extensions[validate_pb2.rules]


def refused_by_envoy(field: descriptor.FieldDescriptor) -> bool:
    """Whether Envoy itself refuses the field as long deprecated."""
    return field.GetOptions().Extensions[deprecation_pb2.disallowed_by_default]


def oneof_required(oneof: descriptor.OneofDescriptor) -> bool:
    return oneof.GetOptions().Extensions[validate_pb2.required]


def required(field: descriptor.FieldDescriptor) -> str:
    """What is wrong when the field is not set; "" when it need not be."""
    rules = rules_of(field)
    kind = rules.WhichOneof("type")
    needed = rules.message.required or (kind in ("duration", "any", "timestamp") and getattr(rules, kind).required)
    if kind == "string" and not field.has_presence and not rules.string.ignore_empty:
        needed = needed or bool(_text_check(rules.string)(""))
    elif kind == "repeated":
        needed = needed or rules.repeated.min_items > 0
    elif kind in ("uint32", "int32", "uint64", "int64", "double", "float") and not field.has_presence and field.message_type is None:
        needed = needed or bool(_number_check(getattr(rules, kind))(0))
    return f'"{field.name}" is missing. Add it.' if needed else ""


def check_of(field: descriptor.FieldDescriptor) -> Check | None:
    """The check of a value that is set; None when every value is good."""
    rules = rules_of(field)
    kind = rules.WhichOneof("type")
    if kind is None:
        return None
    inner = getattr(rules, kind)
    if kind == "repeated":
        return _list_check(inner)
    check = _scalar_check(kind, inner)
    if check is not None and field.message_type is not None and kind != "duration":
        unwrapped = check
        return lambda wrapper: unwrapped(wrapper.value)
    return check


def _scalar_check(kind: str, rules: Any) -> Check | None:
    if kind == "string":
        return _text_check(rules)
    if kind == "duration":
        return _duration_check(rules)
    if kind in ("uint32", "uint64", "int32", "int64", "double", "float"):
        return _number_check(rules)
    if kind == "bool" and rules.HasField("const"):
        wanted = "true" if rules.const else "false"
        return lambda value: "" if value == rules.const else f"it can only be {wanted}. Write that or remove it."
    return None


def _number_check(rules: Any) -> Check:
    bounds = [(words, getattr(rules, name), holds) for name, words, holds in _BOUNDS if rules.HasField(name)]
    allowed, forbidden = list(getattr(rules, "in")), list(rules.not_in)

    def check(value: Any) -> str:
        for words, bound, holds in bounds:
            if not holds(value, bound):
                return f"{value:g} is out of range. Use {words} {bound:g}."
        if (allowed and value not in allowed) or value in forbidden:
            return f"{value:g} is not allowed. Use one of: {', '.join(map(str, allowed))}." if allowed else f"{value:g} is not allowed."
        return ""

    return check


def _duration_check(rules: Any) -> Check:
    bounds = [(words, seconds(getattr(rules, name)), holds) for name, words, holds in _BOUNDS if rules.HasField(name)]

    def check(value: Any) -> str:
        given = seconds(value)
        for words, bound, holds in bounds:
            if not holds(given, bound):
                return f"{given:g}s is out of range. Use {words} {duration_text(bound) if bound else '0s'}."
        return ""

    return check


def seconds(value: Any) -> float:
    """A Duration message in seconds; exact division keeps 0.025s what a person would write."""
    return (value.seconds * 1_000_000_000 + value.nanos) / 1e9 if value.nanos else float(value.seconds)


def _text_check(rules: Any) -> Check:
    least = max(rules.min_len, rules.min_bytes)
    most = rules.max_bytes or rules.max_len
    pattern = re.compile(rules.pattern) if rules.pattern else None
    allowed = list(getattr(rules, "in"))
    prefix = rules.prefix
    known = {
        validate_pb2.HTTP_HEADER_NAME: mesh_rules.header_name,
        validate_pb2.HTTP_HEADER_VALUE: mesh_rules.header_value,
    }.get(rules.well_known_regex)

    def check(value: str) -> str:
        if len(value) < least:
            return "it is empty. Give it a value." if least == 1 else f'"{value}" is too short. Use at least {least} characters.'
        if most and len(value.encode()) > most:
            return f"it has {len(value.encode())} bytes. Use at most {most}."
        if pattern is not None and not pattern.search(value):
            return f'"{value}" does not match {pattern.pattern}. Correct it.'
        if allowed and value not in allowed:
            return f'"{value}" is none of: {", ".join(allowed)}. Use one of them.'
        if not value.startswith(prefix):
            return f'"{value}" does not begin with "{prefix}". Correct it.'
        return known(value) if known is not None and value else ""

    return check


def _list_check(rules: Any) -> Check | None:
    kind = rules.items.WhichOneof("type")
    item = _scalar_check(kind, getattr(rules.items, kind)) if kind else None

    def check(value: Any) -> str:
        if rules.max_items and len(value) > rules.max_items:
            return f"{len(value)} items are too many. Use at most {rules.max_items}."
        if len(value) < rules.min_items:
            return f"{len(value)} items are too few. Use at least {rules.min_items}."
        if rules.unique and len(set(value)) != len(value):
            return "an item is there twice. Remove one."
        return next((wrong for one in value if (wrong := item(one))), "") if item is not None else ""

    return check
