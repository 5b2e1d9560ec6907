"""Envoy's access loggers."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from meshproxy.config.envoy.address import data_source
from meshproxy.config.envoy.translation import Table, Translation, enum_name, takes
from meshproxy.config.native.telemetry import wrong_formats
from meshproxy.config.problems import Path
from meshproxy.model import AccessLog
from meshproxy.model.telemetry import DEFAULT_FORMAT

_LOG = "envoy.config.accesslog.v3."
_FILE = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
_STDOUT = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
_STDERR = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog"
_SINKS = {_FILE: "file", _STDOUT: "stdout", _STDERR: "stderr"}
_DEVICES = {"/dev/stdout": "stdout", "/dev/stderr": "stderr"}
"""Opening these by name fails once the process runs as another user."""

TAKES: Table = {
    _LOG + "AccessLog": takes("filter typed_config", name="is a label only"),
    _LOG + "AccessLogFilter": takes(
        "status_code_filter",
        later="duration_filter not_health_check_filter traceable_filter runtime_filter and_filter or_filter header_filter "
        "response_flag_filter grpc_status_filter extension_filter metadata_filter log_type_filter",
    ),
    _LOG + "StatusCodeFilter": takes("comparison"),
    _LOG + "ComparisonFilter": takes("value", only={"op": ("GE",)}),
    "envoy.config.core.v3.RuntimeUInt32": takes("default_value", runtime_key="!has no effect: there is no runtime, the default is used."),
    _FILE: takes("path format json_format typed_json_format log_format"),
    _STDOUT: takes("log_format"),
    _STDERR: takes("log_format"),
    "envoy.config.core.v3.SubstitutionFormatString": takes(
        "text_format text_format_source json_format omit_empty_values", content_type="concerns local replies only",
        later="formatters json_format_options",
    ),
}


def access_logs(messages: Any, path: Path, translation: Translation) -> tuple[AccessLog, ...]:
    """All loggers of a connection manager or the admin API."""
    made = [access_log(message, (path, index), translation) for index, message in enumerate(messages)]
    return tuple(log for log in made if log is not None)


def access_log(message: Any, path: Path, translation: Translation) -> AccessLog | None:
    """One logger; None when it is of a kind that was refused."""
    given = translation.fields(message, path)
    min_status = _min_status(given["filter"], (path, "filter"), translation) if "filter" in given else 0
    if "typed_config" not in given:
        translation.error(path, 'access log: "typed_config" is missing. Add it.')
        return None
    place = (path, "typed_config")
    logger = translation.unpack(given["typed_config"], place, _SINKS, "access logger", later=True)
    if logger is None:
        return None
    settings = translation.fields(logger, place)
    sink, file = _place(_SINKS[logger.DESCRIPTOR.full_name], settings.get("path", ""))
    formats, where = _formats(settings, place, translation)
    for wrong in wrong_formats(formats.get("json", formats.get("text", ""))):
        translation.error(where, wrong)
    return AccessLog(sink=sink, path=file, min_status=min_status, **formats)


def file_log(path: str) -> AccessLog:
    """Of the one field that Envoy's Admin had before it had loggers."""
    sink, file = _place("file", path)
    return AccessLog(sink=sink, path=file, text=DEFAULT_FORMAT)


def _place(sink: str, path: str) -> tuple[Any, str]:
    return (_DEVICES[path], "") if path in _DEVICES else (sink, path)


def _min_status(message: Any, path: Path, translation: Translation) -> int:
    given = translation.fields(message, path)
    if "status_code_filter" not in given:
        return 0
    place = (path, "status_code_filter")
    inner = translation.fields(given["status_code_filter"], place)
    if "comparison" not in inner:
        return 0
    place = (place, "comparison")
    if enum_name(inner["comparison"], "op") != "GE":
        # EQ is the default and so is not among the fields that are set.
        translation.later((place, "op"), f"a status filter with {enum_name(inner['comparison'], 'op')}", "Use GE.")
    comparison = translation.fields(inner["comparison"], place)
    value = translation.fields(comparison["value"], (place, "value")) if "value" in comparison else {}
    return value.get("default_value", 0)


def _formats(settings: dict[str, Any], path: Path, translation: Translation) -> tuple[dict[str, Any], Path]:
    """The model's fields for a format, and where it stands."""
    for field in ("json_format", "typed_json_format"):
        if field in settings:
            return {"json": plain_struct(settings[field])}, (path, field)
    if "format" in settings:
        return {"text": settings["format"]}, (path, "format")
    if "log_format" not in settings:
        return {"text": DEFAULT_FORMAT}, path
    place = (path, "log_format")
    given = translation.fields(settings["log_format"], place)
    made: dict[str, Any] = {"omit_empty_values": given.get("omit_empty_values", False)}
    if "json_format" in given:
        return {**made, "json": plain_struct(given["json_format"])}, (place, "json_format")
    if "text_format_source" in given:
        text = data_source(given["text_format_source"], (place, "text_format_source"), translation).decode(errors="replace")
        return {**made, "text": text}, (place, "text_format_source")
    return {**made, "text": given.get("text_format") or DEFAULT_FORMAT}, (place, "text_format")


def plain_struct(struct: Any) -> dict[str, Any]:
    """A Struct as data; its numbers are all floats, whole ones are written as such."""
    return {key: _whole(value) for key, value in json_format.MessageToDict(struct).items()}


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value



