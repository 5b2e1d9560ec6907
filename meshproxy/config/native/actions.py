"""What a route does: forward, redirect or answer, in native YAML."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from meshproxy.config import rules
from meshproxy.config.native.headers import (
    MUTATION_ROWS,
    give_mutations,
    take_mutations,
)
from meshproxy.config.native.kinds import Definitions, Duration, Flag, ListOf, Status, Text, Whole, Word
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import (
    DirectResponse,
    Redirect,
    RetryPolicy,
    WeightedCluster,
)

MOST_BODY_BYTES = 1 << 20
"""A direct response lives in every worker's memory; larger answers belong to a server."""
DEFAULT_RETRY_ON = ("connect-failure", "reset-before-request")
"""Nothing of the request was worked on yet, so it may be sent again whatever its method."""


class TextPath(Text):
    """Something that begins with "/"."""

    def __init__(self) -> None:
        super().__init__("path", lambda text: "" if text.startswith("/") else f'"{text}" does not begin with "/". Write "/{text}".')


class Rewrite:
    """`{pattern, substitution}`: RE2 and what takes its place."""

    label = "pattern and substitution"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict or value.keys() != {"pattern", "substitution"} or not all(type(text) is str for text in value.values()):
            problems.error(path, f'{told(value)} is given where "pattern" and "substitution" are needed. Write both below.')
            return WRONG
        if wrong := rules.substitution(value["pattern"], value["substitution"]):
            problems.error(path, wrong)
            return WRONG
        return value["pattern"], value["substitution"]

    def write(self, value: tuple[str, str]) -> dict[str, str]:
        return {"pattern": value[0], "substitution": value[1]}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        text = {"type": "string"}
        return {"type": "object", "required": ["pattern", "substitution"], "additionalProperties": False,
                "properties": {"pattern": text, "substitution": text}}


RETRY = Section(
    "retry",
    (
        Row("on", ListOf(Word("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "refused-stream",
                              "retriable-4xx", "retriable-status-codes", "cancelled", "deadline-exceeded", "internal",
                              "resource-exhausted", "unavailable")),
            "When a request is tried again; Envoy's words, the last five are statuses of gRPC.", default=DEFAULT_RETRY_ON,
            shown_default=", ".join(DEFAULT_RETRY_ON)),
        Row("times", Whole(0, 100), "How often at most.", "num_retries"),
        Row("per_try_timeout", Duration(zero="the route's timeout"), "For each try.", "per_try_timeout_s"),
        Row("status_codes", ListOf(Whole(100, 599)), "For `retriable-status-codes`.", "retriable_status_codes"),
        Row("backoff", Duration(zero=""), "Wait before the first retry, at most; it grows.", "backoff_base_s"),
        Row("backoff_max", Duration(zero=""), "The longest wait.", "backoff_max_s"),
        Row("avoid_previous_hosts", Flag(), "Try another endpoint."),
        Row("host_selection_attempts", Whole(1, 100), "How often one is looked for."),
    ),
    RetryPolicy,
    help="How a failed request is tried again: how often, or a mapping.",
    make=lambda values, path, problems: _make_retry(values, path, problems),
    short=lambda value: {"times": value} if type(value) is int else None,
    shorten=lambda written: written["times"] if written.keys() == {"times"} else written,
    short_schemas=({"type": "integer"},),
    short_label="a number of times",
)


def _make_retry(values: Values, path: Path, problems: Problems) -> Any:
    values.setdefault("on", DEFAULT_RETRY_ON)
    base = values.get("backoff_base_s", 0.025)
    longest = values.setdefault("backoff_max_s", max(0.250, base))
    if longest < base:
        problems.error((path, "backoff_max"), "the longest wait is shorter than the first. Raise it or lower backoff.")
        return WRONG
    return RetryPolicy(**values)


WEIGHTED = Section(
    "weighted_cluster",
    (
        Row("cluster", Text(), "The cluster.", "name", required=True),
        Row("weight", Whole(0), "Its share."),
        Row("host_rewrite", Text("host", rules.header_value), "The Host that it gets."),
        *MUTATION_ROWS,
    ),
    WeightedCluster,
    help="One share of a route's requests.",
    make=lambda values, path, problems: WeightedCluster(mutations=take_mutations(values), **values),
    split=lambda item: {"name": item.name, "weight": item.weight, "host_rewrite": item.host_rewrite, **give_mutations(item.mutations)},
    title="weighted cluster",
)


class Targets:
    """A cluster, `{cluster: weight}`, or a list of weighted clusters."""

    label = f"cluster, clusters with weights, or list of {WEIGHTED.label}"
    _weights = Whole(0)
    _list = ListOf(WEIGHTED, least=1, single=False)

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is str and value:
            problems.refer("cluster", value, path)
            return (WeightedCluster(name=value),)
        if type(value) is list:
            made = self._list.read(value, path, problems)
            self._refer(value, path, problems)
        elif type(value) is dict and value:
            weights = {name: self._weights.read(weight, (path, name), problems) for name, weight in value.items()}
            made = tuple(WeightedCluster(name=name, weight=weight) for name, weight in weights.items() if weight is not WRONG)
            for name in weights:
                problems.refer("cluster", name, (path, name))
        else:
            problems.error(path, f"{told(value)} is no cluster. Write a cluster's name, or names with weights below.")
            return WRONG
        if made and not any(target.weight for target in made):
            problems.error(path, "the weights sum up to 0. Give one cluster a weight.")
        return made or WRONG

    def _refer(self, value: list, path: Path, problems: Problems) -> None:
        for index, item in enumerate(value):
            if type(item) is dict and type(name := item.get("cluster")) is str:
                problems.refer("cluster", name, ((path, index), "cluster"))

    def write(self, value: tuple[WeightedCluster, ...]) -> Any:
        if len(value) == 1 and value[0] == WeightedCluster(name=value[0].name):
            return value[0].name
        names = {target.name for target in value}
        if len(names) == len(value) and all(target == WeightedCluster(name=target.name, weight=target.weight) for target in value):
            return {target.name: target.weight for target in value}
        return self._list.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        weights = {"type": "object", "additionalProperties": self._weights.schema(definitions), "minProperties": 1}
        return {"anyOf": [{"type": "string", "minLength": 1}, weights, self._list.schema(definitions)]}


def _short_redirect(value: Any) -> dict[str, Any] | None:
    return {"https": True} if value == "https" else {"path": value} if isinstance(value, str) and value.startswith("/") else None


def _make_redirect(values: Values, path: Path, problems: Problems) -> Any:
    for one, other in (("scheme", "https"), ("path", "prefix_rewrite"), ("path", "regex_rewrite"), ("prefix_rewrite", "regex_rewrite")):
        if values.get(one) and values.get(other):
            problems.error((path, other), f'redirect: "{one}" and "{other}" are both given. Keep one.')
            return WRONG
    return Redirect(**values)


REDIRECT = Section(
    "redirect",
    (
        Row("status", Status(301, 302, 303, 307, 308), "The answer's status."),
        Row("https", Flag(), "To https."),
        Row("scheme", Text("scheme", rules.header_value), "To this scheme."),
        Row("host", Text("host", rules.header_value), "To this host."),
        Row("port", Whole(0, 65535), "To this port; 0 = as it was."),
        Row("path", Text("path", rules.header_value), "To this path; a query in it takes the place of the request's."),
        Row("prefix_rewrite", Text("path", rules.header_value), "Takes the place of the matched beginning of the path."),
        Row("regex_rewrite", Rewrite(), "Rewrites the path."),
        Row("strip_query", Flag(), "Without the request's query."),
    ),
    Redirect,
    help="Answer with a Location; what is not given stays: `https`, a path, or a mapping.",
    make=_make_redirect,
    short=_short_redirect,
    shorten=lambda written: "https" if written == {"https": True} else written,
    short_schemas=({"type": "string", "pattern": "^(https$|/)"},),
    short_label="https, a path",
)


def _make_direct(values: Values, path: Path, problems: Problems) -> Any:
    body, encoded = values.pop("body", None), values.pop("body_base64", None)
    if body is not None and encoded is not None:
        problems.error((path, "body_base64"), '"body" and "body_base64" are both given. Keep one.')
    made = (body or "").encode()
    if encoded is not None:
        try:
            made = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            problems.error((path, "body_base64"), "this is no base64. Encode the bytes with `base64 -w0`.")
    if len(made) > MOST_BODY_BYTES:
        problems.error((path, "body"), f"the body has {len(made)} bytes, more than {MOST_BODY_BYTES}. Serve it from a cluster.")
    return DirectResponse(body=made, **values)


def _split_direct(direct: DirectResponse) -> Values:
    values: Values = {"status": direct.status, "content_type": direct.content_type}
    if direct.body:
        try:
            text = direct.body.decode()
            # YAML has no way to write most control characters in a plain text.
            values["body"] = text if text.replace("\n", "").replace("\t", "").isprintable() else None
        except UnicodeDecodeError:
            values["body"] = None
        if values["body"] is None:
            del values["body"]
            values["body_base64"] = base64.b64encode(direct.body).decode()
    return values


DIRECT = Section(
    "respond",
    (
        Row("status", Whole(200, 599), "The answer's status.", default=200),
        Row("body", Text(empty=True), "The answer's body."),
        Row("body_base64", Text(), "A body of bytes that are no text."),
        Row("content_type", Text("content type", rules.header_value), "Of the body."),
    ),
    DirectResponse,
    help="Answer from here: a status, or a mapping.",
    make=lambda values, path, problems: _make_direct({"status": 200, **values}, path, problems),
    split=_split_direct,
    short=lambda value: {"status": value} if type(value) is int else None,
    shorten=lambda written: written.get("status", 200) if written.keys() <= {"status"} else written,
    short_schemas=({"type": "integer"},),
    short_label="a status",
)
