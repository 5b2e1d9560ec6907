"""What is asked of control planes in native YAML: endpoints of a cluster, routes of a listener, a secret; and of which one."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshproxy.config import control_planes, rules
from meshproxy.config.native.kinds import Definitions, Duration, Flag, Fraction, Text, Whole
from meshproxy.config.native.rows import WRONG, Row, Section, Values
from meshproxy.config.problems import Path, Problems, told
from meshproxy.model import ConfigSource, EdsSource, GrpcService

DEFAULT = ConfigSource()
_ABSOLUTE = Text("path", lambda text: "" if text.startswith("/") else f'"{text}" is not absolute. Write the whole path.')
_OF_SERVICE = ("cluster", "target_uri", "authority", "timeout_s", "initial_metadata")


class Headers:
    """Names and values, a value or several of each: pairs in the model, names in lower case."""

    label = "names and values"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if type(value) is not dict:
            problems.error(path, f'{told(value)} is given where names are needed. Write "name: value" lines below.')
            return WRONG
        made: list[tuple[str, str]] = []
        for name, given in value.items():
            wrong = rules.header_name(name)
            for text in given if type(given) is list else [given]:
                if not wrong and type(text) is not str:
                    wrong = f"{told(text)} is no text. Put it in quotes."
                if wrong := wrong or rules.header_value(text):
                    problems.error((path, name), wrong)
                    return WRONG
                made.append((name.lower(), text))
        return tuple(made)

    def write(self, value: tuple[tuple[str, str], ...]) -> dict[str, Any]:
        by_name: dict[str, list[str]] = {}
        for name, text in value:
            by_name.setdefault(name, []).append(text)
        return {name: texts[0] if len(texts) == 1 else texts for name, texts in by_name.items()}

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        text = {"type": "string"}
        return {"type": "object", "additionalProperties": {"anyOf": [text, {"type": "array", "items": text}]}}


STREAM_ROWS = (
    Row("cluster", Text(), "Instead: the cluster of this file that it is reached by.", default="", shown_default="none"),
    Row("target", Text(), "Instead: where it is in gRPC's own words, without TLS, like `dns:///xds.example:18000`.", "target_uri",
        default="", shown_default="none"),
    Row("delta", Flag(), "Only differences are sent; false: the state of the world each time.", default=True),
    Row("metadata", Headers(), "Headers of each call, like a token; rather a variable, `${NAME}`, than the text itself.",
        "initial_metadata", default=(), shown_default="none"),
    Row("authority", Text(), "The name that calls are for.", default="", shown_default="the cluster's, or the target"),
    Row("connect_timeout", Duration(), "Until a call is connected.", "timeout_s", default=0.0),
    Row("node_once", Flag(), "Only the first message of a stream says who the node is.", "first_node_only", default=False),
    Row("rate_limit", Whole(), "Most requests at once; 0 = no limit.", "rate_limit_tokens", default=0),
    Row("rate_limit_per_second", Fraction(0, 1e6, "number"), "How fast they come back.", "rate_limit_per_s",
        default=DEFAULT.rate_limit_per_s),
)
_FETCH_TIMEOUT = Row("fetch_timeout", Duration(zero="wait for ever"), "How long the first answer is waited for, before going on without.",
                     "initial_fetch_timeout_s", default=DEFAULT.initial_fetch_timeout_s)


def _make_source(values: Values, path: Path, problems: Problems) -> Any:
    given = [word for word, field in (("cluster", "cluster"), ("target", "target_uri"), ("path", "path")) if values.get(field)]
    if len(given) > 1:
        problems.error((path, given[1]), f'"{given[0]}" and "{given[1]}" are both given. Keep one.')
        return WRONG
    rest = values.pop("rest", False)
    if rest != ("refresh_s" in values):
        wrong = '"refresh" is missing: how long to wait between two polls. Add it.' if rest else '"refresh" is for rest: true. Add that.'
        problems.error(path, wrong)
        return WRONG
    if values.get("path"):
        values.pop("delta", None)
        return ConfigSource(kind="path", **values)
    if not given:
        problems.refer(control_planes.STREAM, "ads_config", path)
        values.pop("delta", None)
        return ConfigSource(**values)
    if not rest:
        return by_stream(values, (path, given[0]), problems)
    if given[0] != "cluster":
        problems.error((path, given[0]), "rest needs a cluster. Name one.")
        return WRONG
    problems.refer(control_planes.CLUSTER, values["cluster"], (path, "cluster"))
    values["clusters"] = (values.pop("cluster"),)
    values.pop("delta", None)
    return ConfigSource(kind="rest", **values)


def by_stream(values: Values, path: Path, problems: Problems) -> ConfigSource:
    service = GrpcService(**{field: values.pop(field) for field in _OF_SERVICE if field in values})
    if service.cluster:
        problems.refer(control_planes.CLUSTER, service.cluster, path)
    kind = "delta_grpc" if values.pop("delta", True) else "grpc"
    return ConfigSource(kind=kind, services=(service,), **values)  # type: ignore[arg-type]


def split_source(source: ConfigSource) -> Values:
    values: Values = {field: getattr(source, field) for field in source.__struct_fields__ if field not in ("kind", "services", "clusters")}
    values["delta"] = source.kind != "grpc"
    if source.services:
        values.update({field: getattr(source.services[0], field) for field in _OF_SERVICE})
    if source.kind == "rest":
        values.update(rest=True, cluster=source.clusters[0])
    else:
        del values["refresh_s"]
    return values


CONTROL_PLANE = Section(
    "control_plane",
    (
        *STREAM_ROWS,
        Row("rest", Flag(), "It is polled by HTTP at `cluster`.", default=False),
        Row("refresh", Duration(zero=""), "Between two polls.", "refresh_s", shown_default="*required* with rest"),
        Row("request_timeout", Duration(zero=""), "Of a poll.", "request_timeout_s"),
        Row("path", _ABSOLUTE, "Instead: a file with a DiscoveryResponse.", shown_default="none"),
        Row("watched_directory", _ABSOLUTE, "Read it again only when something is moved in this folder.", shown_default="none"),
        _FETCH_TIMEOUT,
    ),
    ConfigSource,
    help="Whom resources are asked of: `ads` is the one stream of `xds`; or a mapping, for a stream of their own, polls or a file.",
    make=_make_source,
    split=split_source,
    short=lambda value: {} if value == "ads" else None,
    shorten=lambda written: written or "ads",
    short_schemas=({"const": "ads"},),
    short_label="ads",
    title="control plane",
)
FROM = Row("from", CONTROL_PLANE, "Whom it is asked of.", "source", default=DEFAULT, shown_default="ads")


def sourced(make: Any, what: str) -> Any:
    """`make` of a section, which also tells that something comes from a control plane."""

    def made(values: Values, path: Path, problems: Problems) -> Any:
        problems.sourced.append((path, what))
        if "source" not in values:
            problems.refer(control_planes.STREAM, "ads_config", path)
        return make(values)

    return made


EDS = Section(
    "eds",
    (Row("service", Text(), "The service's name there.", shown_default="the cluster's name"), FROM),
    EdsSource,
    help="What a control plane says of a service's endpoints: the service's name, or a mapping.",
    make=sourced(lambda values: EdsSource(**values), "eds"),
    short=lambda value: {"service": value} if isinstance(value, str) else None,
    shorten=lambda written: written["service"] if written.keys() == {"service"} else written,
    short_schemas=({"type": "string", "minLength": 1},),
    short_label="a service's name",
    title="eds",
)


class Asked(NamedTuple):
    """A name, and whom what has it is asked of."""

    name: str
    source: ConfigSource


RDS = Section(
    "rds",
    (Row("name", Text(), "Its name there.", required=True), FROM),
    help="A route table that a control plane sends: its name, or a mapping.",
    make=sourced(lambda values: Asked(values["name"], values.get("source", DEFAULT)), "rds"),
    split=lambda asked: asked._asdict(),
    short=lambda value: {"name": value} if isinstance(value, str) else None,
    shorten=lambda written: written["name"] if written.keys() == {"name"} else written,
    short_schemas=({"type": "string", "minLength": 1},),
    short_label="its name",
    title="rds",
)


SDS = Section(
    "sds",
    (Row("name", Text(), "Its name there.", default="", shown_default="the secret's name"), FROM),
    help="A secret that a control plane sends: its name there, or a mapping.",
    make=sourced(lambda values: Asked(values.get("name", ""), values.get("source", DEFAULT)), "sds"),
    split=lambda asked: asked._asdict(),
    short=lambda value: {"name": value} if isinstance(value, str) else None,
    shorten=lambda written: written["name"] if written.keys() == {"name"} else written,
    short_schemas=({"type": "string"},),
    short_label="its name",
    title="sds",
)
