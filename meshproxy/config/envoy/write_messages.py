"""Small messages that all writers of Envoy's form need: addresses, data sources, access loggers."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from meshproxy.model import AccessLog, Address, PipeAddress
from meshproxy.model.telemetry import DEFAULT_FORMAT

_URL = "type.googleapis.com/"
_LOGGERS = {"file": "file.v3.FileAccessLog", "stdout": "stream.v3.StdoutAccessLog", "stderr": "stream.v3.StderrAccessLog"}
Data = dict[str, Any]


def changed(value: msgspec.Struct, default: msgspec.Struct) -> list[str]:
    """Fields that differ from the default."""
    return [field for field in value.__struct_fields__ if getattr(value, field) != getattr(default, field)]


def typed(name: str, fields: Data) -> Data:
    """An Any."""
    return {"@type": _URL + name, **fields}


def put(data: Data, name: str, value: Any) -> None:
    """Into `data`, unless it is empty."""
    if value:
        data[name] = value


def address(place: Address, ipv4_compat: bool = False) -> Data:
    if isinstance(place, PipeAddress):
        return {"pipe": {"path": place.path, **({"mode": place.mode} if place.mode else {})}}
    compat = {"ipv4_compat": True} if ipv4_compat and place.host == "::" else {}
    return {"socket_address": {"address": place.host, "port_value": place.port, **compat}}


def duration(seconds: float) -> str:
    """proto3's JSON form, exact to the nanosecond that it can say."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def cidr(text: str) -> Data:
    """`10.0.0.0/8` as a CidrRange."""
    prefix, _, length = text.partition("/")
    return {"address_prefix": prefix, "prefix_len": int(length)}


def content(inline: bytes, file: str = "") -> Data:
    """A DataSource: the file, or what is in it when there is none."""
    if file:
        return {"filename": file}
    try:
        return {"inline_string": inline.decode()}
    except UnicodeDecodeError:
        return {"inline_bytes": base64.b64encode(inline).decode()}


def access_logs(logs: tuple[AccessLog, ...], owner: str, lost: list[str]) -> list[Data]:
    lost += [f"{owner} access_log to syslog {log.path}: Envoy has no syslog" for log in logs if log.sink == "syslog"]
    return [_access_log(log) for log in logs if log.sink != "syslog"]


def _access_log(log: AccessLog) -> Data:
    fields: Data = {"path": log.path} if log.sink == "file" else {}
    if log.json is not None:
        fields["log_format"] = {"json_format": log.json}
    elif log.text != DEFAULT_FORMAT or log.omit_empty_values:
        fields["log_format"] = {"text_format_source": {"inline_string": log.text}}
    if log.omit_empty_values:
        fields["log_format"]["omit_empty_values"] = True
    data: Data = {"name": f"envoy.access_loggers.{log.sink}"}
    if log.min_status:
        # RuntimeUInt32 needs a key; without runtime its default value holds.
        value = {"default_value": log.min_status, "runtime_key": "access_log.min_status"}
        data["filter"] = {"status_code_filter": {"comparison": {"op": "GE", "value": value}}}
    return {**data, "typed_config": typed(f"envoy.extensions.access_loggers.{_LOGGERS[log.sink]}", fields)}
