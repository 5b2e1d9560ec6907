"""Header changes and conditions in native YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshproxy.config import rules
from meshproxy.config.native.kinds import Definitions, Flag, ListOf, Text, Whole, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import HeaderMatch, HeaderMutations, HeaderValue, StringMatch
from meshproxy.model.route import NO_MUTATIONS, QueryMatch

HEADER_VALUE = Text("header value", rules.header_value, empty=True)
CHANGED_HEADER = Text("header name", rules.changed_header)
_HOW = {"set": "overwrite", "add": "append", "add_if_absent": "add_if_absent", "set_if_present": "overwrite_if_exists"}
_REVERSED = {how: word for word, how in _HOW.items()}


class HeaderValues:
    """`{name: value}`; a name with a list of values is added so many times. Names keep their case."""

    label = "header names and values"

    def __init__(self, how: str) -> None:
        self._how = how

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f'{told(value)} is given where headers are needed. Write "name: value" lines below.')
            return WRONG
        made = []
        for name, given in value.items():
            if wrong := rules.changed_header(name):
                problems.error((path, name), wrong)
                continue
            for index, text in enumerate(given if type(given) is list else [given]):
                text = str(text) if type(text) in (int, float) else text
                place = ((path, name), index) if type(given) is list else (path, name)
                if (text := HEADER_VALUE.read(text, place, problems)) is not WRONG:
                    made.append(HeaderValue(name, text, self._how))
        return made

    def write(self, value: list[HeaderValue]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for header in value:
            written.setdefault(header.name, []).append(header.value)
        return {name: values[0] if len(values) == 1 else values for name, values in written.items()}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": ["string", "number", "array"], "items": {"type": "string"}}}


_CHANGE = Section(
    "header_change",
    (
        Row("name", CHANGED_HEADER, "The header.", required=True),
        Row("value", HEADER_VALUE, "Its value.", required=True),
        Row("how", Word(values=_HOW), "Whether it is added, or takes the place of what is there.", "append"),
        Row("keep_empty", Flag(), "Send it with an empty value too."),
    ),
    HeaderValue,
    help="One change, where order between kinds of change or `keep_empty` matters.",
)


def _make_changes(values: Values, path: Path, problems: Problems) -> tuple[tuple[HeaderValue, ...], tuple[str, ...]]:
    """Additions in the order written, and removals."""
    added = [change for key, changes in values.items() if key != "remove" for change in changes]
    return tuple(added), values.get("remove", ())


def _split_changes(changes: tuple[tuple[HeaderValue, ...], tuple[str, ...]]) -> Values:
    added, removed = changes
    values: Values = {"remove": removed} if removed else {}
    groups: Values = {}
    for change in added:
        groups.setdefault(_REVERSED[change.append], []).append(change)
    regrouped = [again for word in _HOW if word in groups for again in _by_name(groups[word])]
    if tuple(regrouped) == added and not any(change.keep_empty for change in added):
        values.update(groups)
    elif added:
        values["changes"] = added
    return values


def _by_name(changes: list[HeaderValue]) -> list[HeaderValue]:
    """In the order in which a mapping of names would give them back."""
    names: dict[str, list[HeaderValue]] = {}
    for change in changes:
        names.setdefault(change.name, []).append(change)
    return [change for same in names.values() for change in same]


CHANGES = Section(
    "header_changes",
    (
        Row("set", HeaderValues("overwrite"), "Headers that take the place of those there."),
        Row("add", HeaderValues("append"), "Headers that are added to those there."),
        Row("add_if_absent", HeaderValues("add_if_absent"), "Headers that are added unless there is one of the name."),
        Row("set_if_present", HeaderValues("overwrite_if_exists"), "Headers that take the place of those there, if any."),
        Row("remove", ListOf(CHANGED_HEADER), "Headers to remove; this comes first."),
        Row("changes", ListOf(_CHANGE), "Changes in an order of their own."),
    ),
    help="Changes of headers, made in the order written. Values are plain text.",
    make=_make_changes,
    split=_split_changes,
    title="header changes",
)

MUTATION_ROWS = (
    Row("request_headers", CHANGES, "Changes of the request's headers."),
    Row("response_headers", CHANGES, "Changes of the response's headers."),
)


def take_mutations(values: Values) -> HeaderMutations:
    """The two rows out of `values`."""
    if "request_headers" not in values and "response_headers" not in values:
        return NO_MUTATIONS
    request, response = values.pop("request_headers", ((), ())), values.pop("response_headers", ((), ()))
    return HeaderMutations(
        request_add=request[0], request_remove=request[1], response_add=response[0], response_remove=response[1]
    )


def give_mutations(mutations: HeaderMutations) -> Values:
    """The rows of `mutations`, those that say something."""
    values: Values = {}
    if mutations.request_add or mutations.request_remove:
        values["request_headers"] = (mutations.request_add, mutations.request_remove)
    if mutations.response_add or mutations.response_remove:
        values["response_headers"] = (mutations.response_add, mutations.response_remove)
    return values


_STRING_KINDS = ("exact", "prefix", "suffix", "contains", "regex")
STRING_ROWS = (
    *(Row(kind, Text(empty=kind == "exact", rule=rules.regex if kind == "regex" else None), text) for kind, text in (
        ("exact", "The whole value."),
        ("prefix", "Its beginning."),
        ("suffix", "Its end."),
        ("contains", "A part of it."),
        ("regex", "RE2, for the whole value."),
    )),
    Row("ignore_case", Flag(), "Compare without regard to case.", default=False),
)


def take_string(values: Values, path: Path, problems: Problems) -> StringMatch | None:
    """The string rows out of `values`; None when there are none."""
    given = [kind for kind in _STRING_KINDS if kind in values]
    if len(given) > 1:
        problems.error((path, given[1]), f'"{given[0]}" and "{given[1]}" are both given. Keep one.')
    ignore_case = values.pop("ignore_case", False)
    texts = [values.pop(kind) for kind in given]
    if not given:
        if ignore_case:
            problems.error((path, "ignore_case"), "there is no text to compare. Add exact, prefix, suffix, contains or regex.")
        return None
    if ignore_case and given[0] == "regex":
        problems.error((path, "ignore_case"), 'a regex says it itself. Write "(?i)" in front of the pattern.')
    return StringMatch(given[0], texts[0], ignore_case)


def give_string(match: StringMatch | None) -> Values:
    return {match.kind: match.value, "ignore_case": match.ignore_case} if match is not None else {}


class _Range:
    """`[start, end)` as a list of two whole numbers."""

    label = "[start, end]"
    _numbers = ListOf(Whole(-(2**63), 2**63 - 1), single=False)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        made = self._numbers.read(value, path, problems)
        if made is not WRONG and not (len(made) == 2 and made[0] < made[1]):
            problems.error(path, "a range is the first number and the one after the last. Write [200, 300].")
            return WRONG
        return made

    def write(self, value: tuple[int, int]) -> list[int]:
        return list(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}


def _make_condition(values: Values, path: Path, problems: Problems) -> Any:
    string = take_string(values, path, problems)
    if string is not None:
        values["string"] = string
    given = [word for word in ("string", "range", "present") if word in values]
    if len(given) > 1:
        problems.error(path, "a condition compares a text, a range or presence. Keep one.")
        return WRONG
    return HeaderMatch(name="", **({"present": True} if not given else {}), **values)


HEADER_CONDITION = Section(
    "header_condition",
    (
        *STRING_ROWS,
        Row("range", _Range(), "A decimal number from the first up to but without the second."),
        Row("present", Flag(), "Whether the header is there."),
        Row("invert", Flag(), "The condition holds when it would not.", default=False),
        Row("missing_as_empty", Flag(), "A missing header counts as an empty one.", "treat_missing_as_empty", default=False),
    ),
    HeaderMatch,
    help="A condition on one header: a text for equality, true or false for presence, or a mapping.",
    make=_make_condition,
    split=lambda match: {
        **give_string(match.string),
        **{name: getattr(match, name) for name in ("range", "present") if getattr(match, name) is not None},
        "invert": match.invert,
        "treat_missing_as_empty": match.treat_missing_as_empty,
    },
    short=lambda value: {"exact": value} if isinstance(value, str) else {"present": value} if isinstance(value, bool) else None,
    shorten=lambda written: next(iter(written.values())) if written.keys() in ({"exact"}, {"present"}) else written,
    short_schemas=({"type": ["string", "boolean"]},),
    short_label="a text, true, false",
    title="header condition",
)

QUERY_CONDITION = Section(
    "query_condition",
    STRING_ROWS,
    QueryMatch,
    help="A condition on a query parameter: a text for equality, true for presence, or a mapping.",
    make=lambda values, path, problems: QueryMatch(name="", string=take_string(values, path, problems)),
    split=lambda match: give_string(match.string),
    short=lambda value: {"exact": value} if isinstance(value, str) else {} if value is True else None,
    shorten=lambda written: True if not written else written["exact"] if written.keys() == {"exact"} else written,
    short_schemas=({"type": "string"}, {"const": True}),
    short_label="a text, true",
    title="query condition",
)


METHOD = Text("method", lambda text: "" if text.isalpha() else f'"{text}" is no method. Write it like "GET".')


def method_match(methods: tuple[str, ...]) -> StringMatch:
    """The condition on `:method`."""
    return StringMatch("exact", methods[0]) if len(methods) == 1 else StringMatch("regex", "|".join(methods))


class Conditions:
    """`{name: condition}`; a name with a list of conditions has to meet them all."""

    def __init__(self, kind: Section, rule: Callable[[str], str], rename: Callable[[Any, str], Any]) -> None:
        self.label = f"names and {kind.label}"
        self._kind = kind
        self._rule = rule
        self._rename = rename

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f'{told(value)} is given where conditions are needed. Write "name: condition" lines below.')
            return WRONG
        made = []
        for name, given in value.items():
            if wrong := self._rule(name):
                problems.error((path, name), wrong)
                continue
            for index, item in enumerate(given if type(given) is list else [given]):
                place = ((path, name), index) if type(given) is list else (path, name)
                if (condition := self._kind.read(item, place, problems)) is not WRONG:
                    made.append(self._rename(condition, name))
        return tuple(made)

    def write(self, value: tuple) -> dict[str, Any]:
        written: dict[str, list] = {}
        for condition in value:
            written.setdefault(condition.name, []).append(self._kind.write(condition))
        return {name: items[0] if len(items) == 1 else items for name, items in written.items()}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        condition = self._kind.schema(definitions)
        return {"type": "object", "additionalProperties": {"anyOf": [condition, {"type": "array", "items": condition}]}}
