"""Header changes and conditions of Envoy's route messages."""

from __future__ import annotations

import re
from typing import Any

from meshproxy.config import rules
from meshproxy.config.envoy.address import regex, string_match
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.problems import Path
from meshproxy.model import HeaderMatch, HeaderMutations, HeaderValue, StringMatch
from meshproxy.model.route import NO_MUTATIONS, QueryMatch

MUTATION_FIELDS = "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove"
_MUTATIONS = MUTATION_FIELDS.split()
_APPEND = {
    "APPEND_IF_EXISTS_OR_ADD": "append",
    "ADD_IF_ABSENT": "add_if_absent",
    "OVERWRITE_IF_EXISTS_OR_ADD": "overwrite",
    "OVERWRITE_IF_EXISTS": "overwrite_if_exists",
}
_OLD_MATCHES = {"exact_match": "exact", "prefix_match": "prefix", "suffix_match": "suffix", "contains_match": "contains"}

TAKES: Table = {
    "envoy.config.core.v3.HeaderValueOption": takes("header append append_action keep_empty_value"),
    "envoy.config.core.v3.HeaderValue": takes("key value"),
    "envoy.config.route.v3.HeaderMatcher": takes(
        "name exact_match safe_regex_match range_match present_match prefix_match suffix_match contains_match string_match "
        "invert_match treat_missing_header_as_empty"
    ),
    "envoy.config.route.v3.QueryParameterMatcher": takes("name string_match present_match"),
}


def mutations(given: dict[str, Any], path: Path, translation: Translation) -> HeaderMutations:
    """The four fields of header changes out of a message's fields."""
    if given.keys().isdisjoint(_MUTATIONS):
        return NO_MUTATIONS
    return HeaderMutations(
        request_add=_added(given.get("request_headers_to_add", ()), (path, "request_headers_to_add"), translation),
        request_remove=_removed(given.get("request_headers_to_remove", ()), (path, "request_headers_to_remove"), translation),
        response_add=_added(given.get("response_headers_to_add", ()), (path, "response_headers_to_add"), translation),
        response_remove=_removed(given.get("response_headers_to_remove", ()), (path, "response_headers_to_remove"), translation),
    )


def request_headers(options: Any, path: Path, translation: Translation) -> tuple[tuple[str, str], ...]:
    """HeaderValueOptions of a request of our own, as pairs."""
    return tuple((header.name, header.value) for header in _added(options, path, translation))


def _removed(names: Any, path: Path, translation: Translation) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if wrong := rules.changed_header(name):
            translation.error((path, index), wrong)
    return tuple(names)


def _added(options: Any, path: Path, translation: Translation) -> tuple[HeaderValue, ...]:
    made = [_header_value(option, (path, index), translation) for index, option in enumerate(options)]
    return tuple(header for header in made if header is not None)


def _header_value(option: Any, path: Path, translation: Translation) -> HeaderValue | None:
    given = translation.fields(option, path)
    if "header" not in given:
        return None
    header = translation.fields(given["header"], (path, "header"))
    name, value = header.get("key", ""), header.get("value", "")
    if name and (wrong := rules.changed_header(name)):
        translation.error(((path, "header"), "key"), wrong)
        return None
    append = _APPEND.get(enum_name(option, "append_action"), "append")
    if "append" in given:
        if "append_action" in given:
            translation.error((path, "append"), '"append" and "append_action" are both given. Keep append_action.')
        append = "append" if given["append"].value else "overwrite"
    return HeaderValue(name, _plain(value, ((path, "header"), "value"), translation), append, given.get("keep_empty_value", False))


def _plain(value: str, path: Path, translation: Translation) -> str:
    """`%%` is a percent sign; an operator (`%START_TIME%`) would have to be evaluated for each request."""
    if "%" not in value:
        return value
    if found := re.search(r"%[A-Z_]+(\([^)]*\))?(:[0-9]+)?%", value.replace("%%", "")):
        translation.refuse(path, f'the operator {found.group()} in header value "{value}"', "Write plain text.")
    elif "%" in value.replace("%%", ""):
        translation.error(path, f'"{value}" has a single "%". Write "%%" for a percent sign.')
    return value.replace("%%", "%")


def header_match(message: Any, path: Path, translation: Translation) -> HeaderMatch | None:
    """A HeaderMatcher. Without a specifier presence is enough."""
    given = translation.fields(message, path)
    name = given.get("name", "")
    if name and (wrong := rules.header_name(name)):
        translation.error((path, "name"), wrong)
    fixed = {
        "name": name.lower(),
        "invert": given.get("invert_match", False),
        "treat_missing_as_empty": given.get("treat_missing_header_as_empty", False),
    }
    if "range_match" in given:
        return _range(given["range_match"], (path, "range_match"), translation, fixed)
    string = _string(given, path, translation)
    if string is not None:
        return HeaderMatch(string=string, **fixed)
    if "string_match" in given:
        return None
    return HeaderMatch(present=given.get("present_match", True), **fixed)


def _range(message: Any, path: Path, translation: Translation, fixed: dict[str, Any]) -> HeaderMatch | None:
    given = translation.fields(message, path)
    start, end = given.get("start", 0), given.get("end", 0)
    if start >= end:
        translation.error(path, f"the range [{start}, {end}) is empty. The end is the number after the last.")
        return None
    return HeaderMatch(range=(start, end), **fixed)


def _string(given: dict[str, Any], path: Path, translation: Translation) -> StringMatch | None:
    if "string_match" in given:
        return string_match(given["string_match"], (path, "string_match"), translation)
    if "safe_regex_match" in given:
        return StringMatch("regex", regex(given["safe_regex_match"], (path, "safe_regex_match"), translation))
    for field, kind in _OLD_MATCHES.items():
        if field in given:
            return StringMatch(kind, given[field])
    return None


def query_match(message: Any, path: Path, translation: Translation) -> QueryMatch:
    """A QueryParameterMatcher; only presence can be asked for, not absence."""
    given = translation.fields(message, path)
    if given.get("present_match") is False:
        translation.refuse((path, "present_match"), "present_match: false")
    string = string_match(given["string_match"], (path, "string_match"), translation) if "string_match" in given else None
    return QueryMatch(name=given.get("name", ""), string=string)
