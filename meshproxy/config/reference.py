"""The reference pages of both forms, made from the tables that the loaders work by.

After a change of a table run `python -m meshproxy.config.reference`; a test refuses a stale page.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from meshproxy.config.native.actions import DIRECT, REDIRECT, RETRY, WEIGHTED
from meshproxy.config.native.catalog import CATALOG
from meshproxy.config.native.chain import CHAIN, MATCH
from meshproxy.config.native.cluster import BREAKERS, CLUSTER, ENDPOINT, RETRY_BUDGET, UPSTREAM_HTTP2
from meshproxy.config.native.consul import CONSUL, REGISTRATION
from meshproxy.config.native.control_plane import CONTROL_PLANE, EDS, RDS, SDS
from meshproxy.config.native.discovery import CONSUL_SERVER, CONSUL_SERVICE, DNS_SRV, SOURCE
from meshproxy.config.native.headers import CHANGES, HEADER_CONDITION, QUERY_CONDITION
from meshproxy.config.native.http import CLIENT_CERT_HEADER, FILTER, GRPC_HTTP1_BRIDGE, GRPC_STATS, HTTP, HTTP2, KEEP_ALIVE
from meshproxy.config.native.listener import LISTENER
from meshproxy.config.native.listener_filter import LISTENER_FILTER, PROXY_PROTOCOL, TLS_INSPECTOR
from meshproxy.config.native.node import ADMIN, NODE, OVERLOAD, TOP
from meshproxy.config.native.rbac import HTTP_POLICY, HTTP_RBAC, HTTP_RULE, HTTP_RULES, POLICY, RBAC, RULE, RULES, STRING
from meshproxy.config.native.route import ROUTE, ROUTE_TABLE, VIRTUAL_HOST
from meshproxy.config.native.rows import DERIVED, UNSET, Row, Section
from meshproxy.config.native.secrets import CERTIFICATE, SECRET
from meshproxy.config.native.tcp import CONNECTION_FILTER, CONNECTION_LIMIT, LOCAL_RATE_LIMIT, TCP
from meshproxy.config.native.telemetry import ACCESS_LOG, STATS_TAG, STATSD
from meshproxy.config.native.tls import DOWNSTREAM_TLS, KEY_LOG, SAN, UPSTREAM_TLS
from meshproxy.config.native.xds import XDS

SECTIONS: tuple[Section, ...] = (
    TOP, LISTENER, CHAIN, MATCH, DOWNSTREAM_TLS, CERTIFICATE, SAN, KEY_LOG, HTTP, HTTP2, KEEP_ALIVE, CLIENT_CERT_HEADER, FILTER, GRPC_STATS,
    GRPC_HTTP1_BRIDGE, HTTP_RBAC, HTTP_RULES, HTTP_POLICY, HTTP_RULE, TCP, LISTENER_FILTER, PROXY_PROTOCOL, TLS_INSPECTOR,
    CONNECTION_FILTER, CONNECTION_LIMIT, LOCAL_RATE_LIMIT, RBAC,
    RULES, POLICY, RULE, STRING, ROUTE, WEIGHTED, REDIRECT, DIRECT, RETRY, VIRTUAL_HOST, ROUTE_TABLE, CHANGES, HEADER_CONDITION,
    QUERY_CONDITION, CLUSTER, ENDPOINT, SOURCE, CONSUL_SERVICE, CONSUL_SERVER, DNS_SRV, EDS, RDS, SDS, CONTROL_PLANE, XDS, CONSUL,
    REGISTRATION, CATALOG,
    UPSTREAM_TLS, UPSTREAM_HTTP2, BREAKERS, RETRY_BUDGET, SECRET, ACCESS_LOG,
    STATSD, STATS_TAG, ADMIN, NODE, OVERLOAD,
)
"""In the order of the page."""

_NATIVE_HEAD = """\
# Configuration

Every setting of meshproxy's own YAML. The shortest proxy:

```yaml
listeners:
- address: 0.0.0.0:8080
  to: web
clusters:
  web: [10.0.0.1:8000, 10.0.0.2:8000]
```

- `meshproxy check FILE` lists everything that is wrong with a file; `meshproxy config schema` prints a JSON Schema for editors.
- **Durations** are a number and a unit, `250ms`, `5s`, `1h30m`; **sizes** are bytes or `64KiB`, `1MiB`.
- **Addresses** are `10.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock` or, with file permissions, `{unix: /run/x.sock, mode: "0660"}`.
- Where a list is wanted, one thing alone will do.
- `${NAME}` is an environment variable, `${NAME:-default}` gives it a default, `$${` stands for `${`. A setting whose whole value
  becomes empty by this is as if it were not written.
- `include:` takes in more files; what is a list or has names is gathered, other settings may be in one file only.
- Top-level keys that begin with `x-` are ignored: a place for YAML anchors. Scalars are read as YAML 1.2 has it: `on`, `yes` and
  dates are text.
- JSON is taken too.
- A setting that is not reloadable keeps its value until the node starts anew; `meshproxy check --plan` names it.
"""

_ENVOY_HEAD = """\
# What is taken of Envoy's v3 API

A bootstrap in YAML or JSON, field names as snake_case or camelCase. What is not on this page is refused by name, with its path. Rules
that Envoy's API states itself (ranges, lengths, required fields) hold here as well. Defaults are Envoy's, as are `server: envoy` and the
statsd prefix `envoy`. Fields marked *ignored* change nothing here, for the reason given; with *warning*, `meshproxy check` says so.

Control planes send every proxy the same. In what they send, fields that nobody knows are skipped, and fields marked *not in force* are
told, not refused; everything else that is not on this page refuses that one resource, because it decides who may pass or where a request
goes.
"""


def native_page() -> str:
    """docs/reference/configuration.md"""
    return _NATIVE_HEAD + "".join(_section(section) for section in SECTIONS)


def _section(section: Section) -> str:
    short = f"Short form: {section.short_label}.\n\n" if section.short_label else ""
    rows = "".join(_row(row) for row in section.rows)
    heads = "| setting | value | default | reload | since | |\n| --- | --- | --- | --- | --- | --- |\n"
    return f"\n## {section.name.replace('_', '-')}\n\n{section.help}\n\n{short}{heads}{rows}"


def _row(row: Row) -> str:
    cells = (f"`{row.name}`", row.kind.label, _default(row), "yes" if row.reloadable else "no", row.since, row.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(row: Row) -> str:
    if row.required:
        return "*required*"
    if row.shown_default:
        return row.shown_default
    if row.default in (UNSET, DERIVED, None) or row.default in ("", (), {}):
        return ""
    written = row.kind.write(row.default)
    if isinstance(written, bool):
        return "true" if written else "false"
    return f"{written}" if isinstance(written, (str, int, float)) else ""


def envoy_page() -> str:
    """docs/reference/envoy.md"""
    from meshproxy.config.envoy.bootstrap import TABLE

    text = _ENVOY_HEAD
    for name, taken in sorted(TABLE.items()):
        text += f"\n## {name}\n\n"
        lines = [f"Taken: {', '.join(f'`{field}`' for field in sorted(taken.fields))}."] if taken.fields else []
        lines += [f"`{field}`: only {', '.join(map(_value, values))}." for field, values in sorted(taken.only.items())]
        for field, reason in sorted(taken.ignored.items()):
            told = f"ignored, with a warning: it {reason[1:]}" if reason.startswith("!") else f"ignored: it {reason}"
            lines.append(f"`{field}`: {told.rstrip('.')}.")
        if taken.later:
            lines.append(f"Not in force where a control plane sends it: {', '.join(f'`{field}`' for field in sorted(taken.later))}.")
        lines = lines or ["Taken when it is empty."]
        text += "".join(textwrap.fill(f"- {line}", 139, subsequent_indent="  ", break_on_hyphens=False) + "\n" for line in lines)
    return text


def _value(value: object) -> str:
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


PAGES = {"configuration.md": native_page, "envoy.md": envoy_page}


def main() -> None:
    """Writes the pages into docs/reference of the checkout that this module is in."""
    folder = Path(__file__).resolve().parents[2] / "docs" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page())


if __name__ == "__main__":
    main()
