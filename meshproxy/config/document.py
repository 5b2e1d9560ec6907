"""One configuration file as plain Python data, with the lines that its fields are on.

YAML is composed by libyaml and turned into data here, not by PyYAML's constructor: that takes a third of the time, finds duplicate keys,
and keeps the nodes, which know their lines. Scalars follow YAML 1.2's core schema: `on`, `yes`, dates and 1:30 are strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from meshproxy.errors import ConfigError, Problem

MOST_BYTES = 64 << 20
"""Some 30 times the file of a mesh of 1,000 clusters and 10,000 routes."""
MOST_VALUES = 5_000_000
"""After aliases are expanded: a kilobyte of nested aliases could stand for more values than there is memory."""
MOST_LEVELS = 100
"""The deepest Envoy configuration seen has 25."""

_TAG = "tag:yaml.org,2002:"
_BOOL, _INT, _FLOAT, _NULL, _STR, _MERGE = (_TAG + name for name in ("bool", "int", "float", "null", "str", "merge"))


class _Composer(yaml.CSafeLoader):
    """libyaml's parser with YAML 1.2's idea of a number and a truth value; numbers with a leading 0 are octal (file modes)."""

    yaml_implicit_resolvers: dict = {}


_Composer.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
_Composer.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|0o?[0-7]+|[1-9][0-9]*|0)\Z"), list("-+0123456789"))
_Composer.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"), list("-+.0123456789")
)
_Composer.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Composer.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


_ABSENT = object()
"""What a plain `${NAME:-}` becomes when it is empty: as if the setting were not written."""


class Document:
    """A file that could be parsed. `data` is dicts, lists and scalars."""

    def __init__(self, file: str, text: str, data: Any, node: yaml.Node | None) -> None:
        self.file = file
        self.text = text
        self.data = data
        self._node = node

    def line_of(self, keys: list[str | int]) -> int:
        """The line of the field, counted from 1; of its nearest parent when the field itself is not in the file."""
        node = self._composed()
        if node is None:
            return 0
        line = node.start_mark.line
        for key in keys:
            found = _child(node, key)
            if found is None:
                break
            line, node = found
        return line + 1

    def line_with(self, text: str) -> int:
        """The first line that has `text`, 0 = none."""
        at = self.text.find(text)
        return self.text.count("\n", 0, at) + 1 if at >= 0 else 0

    def expanded(self, substitute: Callable[[str], str], problems: list[Problem]) -> Any:
        """The data again, with `substitute` called on every scalar that has `${`.

        A plain scalar gets its type afterwards, and one that became empty is left out with its key.
        """
        builder = _Builder(self.file, problems, substitute)
        return builder.build(self._composed()) if self._node is not None else _walk(self.data, substitute)

    def _composed(self) -> yaml.Node | None:
        if self._node is None:
            try:
                self._node = _compose(self.text)
            except yaml.YAMLError:
                return None
        return self._node


def read(file: str) -> Document:
    """The file's content; raises ConfigError when it cannot be read or parsed, naming all duplicate keys at once."""
    try:
        with open(file, "rb") as opened:
            raw = opened.read(MOST_BYTES + 1)
    except OSError as error:
        remedy = {"FileNotFoundError": "Check the path", "PermissionError": "Let the user that runs meshproxy read it"}
        reason = error.strerror or str(error)
        raise _refused(file, f"cannot read the file: {reason}. {remedy.get(type(error).__name__, 'Name a regular file')}.") from None
    if len(raw) > MOST_BYTES:
        raise _refused(file, f"the file has more than {MOST_BYTES >> 20} MiB. Split it, or send resources by xDS.")
    try:
        return parse(file, raw.decode())
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _refused(file, f"byte {raw[error.start]:#04x} is not UTF-8. Save the file as UTF-8.", line) from None


def parse(file: str, text: str) -> Document:
    """A document of `text`: JSON when it is that, else YAML. Raises ConfigError with the place of the mistake."""
    problems: list[Problem] = []
    if text.lstrip()[:1] == "{" or Path(file).suffix == ".json":
        document = _parse_json(file, text, problems)
    else:
        document = _parse_yaml(file, text, problems)
    if problems:
        raise ConfigError(problems)
    return document


def _parse_json(file: str, text: str, problems: list[Problem]) -> Document:
    """JSON, or YAML that begins like it."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            repeated.append(next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index])))
        return made

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise _refused(file, f"values are nested deeper than {MOST_LEVELS} levels") from None
    except json.JSONDecodeError as error:
        if Path(file).suffix == ".json":
            raise _refused(file, f"not valid JSON: {error.msg} in column {error.colno}. Mend the syntax.", error.lineno) from None
        return _parse_yaml(file, text, problems)
    if repeated:
        # Composing again finds the lines; it also lists every one of them.
        document = _parse_yaml(file, text, problems)
        problems[:] = problems or [Problem(f'key "{key}" is given twice. Keep one.', file=file) for key in repeated]
        return document
    return Document(file, text, data, None)


def _parse_yaml(file: str, text: str, problems: list[Problem]) -> Document:
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ", ".join(part for part in (error.context, error.problem) if part)
        hint = " Indent with spaces." if "\\t" in told else " Mend the syntax (quotes, indentation, brackets)."
        raise _refused(file, f"not valid YAML: {told}.{hint}", mark.line + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(file, f"not valid YAML: character {error.character:#04x} is a control character. Remove it.", line) from None
    data = _Builder(file, problems).build(node) if node is not None else None
    return Document(file, text, data, node)


def stays_text(text: str) -> bool:
    """Whether a plain scalar is read as this text, and not as a number or another type."""
    return not any(pattern.match(text) for _, pattern in _Composer.yaml_implicit_resolvers.get(text[:1], ()))


def _compose(text: str) -> yaml.Node | None:
    composer = _Composer(text)
    try:
        return composer.get_single_node()
    finally:
        composer.dispose()


def _refused(file: str, message: str, line: int = 0) -> ConfigError:
    return ConfigError([Problem(message, file=file, line=line)])


class _Builder:
    """Nodes to data. Problems are appended and the building goes on, except at a bound."""

    def __init__(self, file: str, problems: list[Problem], substitute: Callable[[str], str] | None = None) -> None:
        self._file = file
        self._problems = problems
        self._substitute = substitute
        self._resolve = _Composer("").resolve
        self._values = 0

    def build(self, node: yaml.Node, level: int = 0) -> Any:
        kind = type(node)
        if kind is yaml.ScalarNode:
            if node.tag == _STR and self._substitute is None:
                return node.value
            return self._scalar(node)
        self._values += len(node.value)
        if level > MOST_LEVELS:
            raise self._bound(node, f"values are nested deeper than {MOST_LEVELS} levels. An alias may refer to itself.")
        if self._values > MOST_VALUES:
            raise self._bound(node, f"more than {MOST_VALUES} values after aliases are expanded. Use fewer aliases.")
        if not node.tag.startswith((_TAG + "map", _TAG + "seq")):
            self._wrong(node, f"tag {node.tag} is not taken. Remove it.")
        if kind is yaml.SequenceNode:
            build = self.build
            items = [build(item, level + 1) for item in node.value]
            return items if self._substitute is None else [item for item in items if item is not _ABSENT]
        return self._mapping(node, level + 1)

    def _mapping(self, node: yaml.MappingNode, level: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        merges = []
        for key_node, value_node in node.value:
            if type(key_node) is not yaml.ScalarNode:
                self._wrong(key_node, "a key is a list or a mapping. Use a word.")
                continue
            key = key_node.value
            if key_node.tag == _MERGE:
                merges.append(value_node)
                continue
            if key in made:
                self._wrong(key_node, f'key "{key}" is given twice. Keep one.')
            value = self.build(value_node, level)
            if value is not _ABSENT:
                made[key] = value
        for value_node in merges:
            self._merge(made, value_node, level)
        return made

    def _merge(self, made: dict[str, Any], node: yaml.Node, level: int) -> None:
        """`<<: *base` or `<<: [*a, *b]`: keys that are not there yet."""
        sources = node.value if type(node) is yaml.SequenceNode else [node]
        for source in sources:
            if type(source) is not yaml.MappingNode:
                self._wrong(source, '"<<" takes a mapping or a list of mappings, usually an alias like *base.')
                continue
            for key, value in self.build(source, level).items():
                made.setdefault(key, value)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        tag, text = node.tag, node.value
        if self._substitute is not None and "${" in text:
            text = self._substitute(text)
            if not text and not node.style:
                return _ABSENT
            tag = self._resolve(yaml.ScalarNode, text, (True, False)) if not node.style else tag
        try:
            return _typed(tag, text)
        except KeyError:
            self._wrong(node, f"tag {tag} is not taken. Remove it.")
        except ValueError:
            self._wrong(node, f"{text!r} is no {tag.removeprefix(_TAG)}. Correct the value or remove the tag.")
        return None

    def _wrong(self, node: yaml.Node, message: str) -> None:
        self._problems.append(Problem(message, file=self._file, line=node.start_mark.line + 1))

    def _bound(self, node: yaml.Node, message: str) -> ConfigError:
        return _refused(self._file, message, node.start_mark.line + 1)


def _integer(text: str) -> int:
    digits = text.lstrip("+-").lower()
    base = 16 if digits.startswith("0x") else 8 if len(digits) > 1 and digits[0] == "0" else 10
    return int(text, base)


_SCALARS: dict[str, Callable[[str], Any]] = {
    _STR: str,
    _INT: _integer,
    _FLOAT: float,
    _BOOL: lambda text: {"true": True, "false": False}.get(text.lower(), text),
    _NULL: lambda text: None,
    _MERGE: str,
}


def _typed(tag: str, text: str) -> Any:
    return _SCALARS[tag](text)


def _walk(data: Any, substitute: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return substitute(data) if "${" in data else data
    if isinstance(data, list):
        return [_walk(item, substitute) for item in data]
    if isinstance(data, dict):
        return {key: _walk(value, substitute) for key, value in data.items()}
    return data


def _child(node: yaml.Node, key: str | int) -> tuple[int, yaml.Node] | None:
    """The line and node under `key`. A path says snake_case where the file may say camelCase; a merged key is looked up at its source."""
    if type(node) is yaml.SequenceNode:
        if isinstance(key, int) and key < len(node.value):
            child = node.value[key]
            return child.start_mark.line, child
        return None
    if type(node) is not yaml.MappingNode:
        return None
    camel = _camel(str(key))
    for key_node, value_node in node.value:
        if type(key_node) is yaml.ScalarNode and key_node.value in (key, camel):
            return key_node.start_mark.line, value_node
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            for source in value_node.value if type(value_node) is yaml.SequenceNode else [value_node]:
                if (found := _child(source, key)) is not None:
                    return found
    return None


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)
