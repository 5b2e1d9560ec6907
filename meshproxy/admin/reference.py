"""`docs/reference/admin.md`, made from the table of pages. `python -m meshproxy.admin.reference` writes it; a test refuses a stale one."""

from __future__ import annotations

from pathlib import Path

from meshproxy.admin.http import MAX_BODY_BYTES, MAX_HEAD_BYTES
from meshproxy.admin.pages import PAGES, Page
from meshproxy.admin.server import IDLE_S, MAX_CONNECTIONS, REQUEST_S
from meshproxy.agent.gauges import MEANING

PLACE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "admin.md"

HEAD = """# Admin API

HTTP on the address of `admin:` in the configuration (both forms have it); without it there is no admin port. It answers for the whole
node: figures are sums over all workers, and what is ordered holds for all of them. Paths and formats are Envoy's wherever Envoy has the
thing, so what reads Envoy's admin port reads this one.

The API has no passwords: whoever reaches the address may use it. So it belongs on loopback or on a UNIX socket
(`curl --unix-socket /run/meshproxy/admin.sock http://admin/ready`), and anything else must be asked for in the configuration. A web page
cannot use it through somebody's browser: a `Host` that is neither an address nor `localhost` is refused (403; where remote access is
allowed, the machine's own name is taken too), and so is a POST that another site's page made. Values whose name says that they are
secret are never shown.

What changes the node needs POST; a GET is answered 405.

`access_log` of `admin:` logs its requests in [the formats](access-log.md) that listeners have. A listener's settings do not hold for
it, nor does the `access_log` of the whole file.

## Paths

"""

_METRICS = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in MEANING.items())
TAIL = f"""
## Notes

- `/ready` is 200 with `LIVE` only when at least one worker answers and the node neither drains nor was told to look unhealthy
  (`/healthcheck/fail`); else 503 with `DRAINING` or `PRE_INITIALIZING`.
- `filter` and `name_regex` are RE2 expressions that match anywhere in the name.
- `/stats` shows a histogram as `P50(interval,cumulative)`, in milliseconds unless the name says otherwise; the interval is the last
  flush interval. What each metric counts: [metrics](metrics.md).
- `/reset_counters` changes what this API shows. statsd gets differences in any case, and workers go on counting.
- `/config_dump` has Envoy's envelope with meshproxy's own model inside; fields at their default are left out. `mask` is refused.
- `/clusters` has Envoy's lines and JSON; there is no `rq_pending_active` of a single endpoint, because here requests wait for a cluster.
- `/memory`: `allocated` is the node's memory with shared pages counted once (PSS); each process has its own figures.
- `/drain_listeners` stops accepting until the next reload; the node lives on. `meshproxy drain` ends it afterwards.
- A mistake in a query is 400, an order that the master refuses 503, both with the reason in the body.

Limits: {MAX_CONNECTIONS} connections, a head of {MAX_HEAD_BYTES // 1024} KiB, a body of {MAX_BODY_BYTES // 1024} KiB (which is ignored),
{REQUEST_S:g} s for a request to come, {IDLE_S:g} s between requests.

## Metrics of the node itself

What workers count is in [metrics](metrics.md); the agent adds these, gauges unless they say otherwise:

| metric | what |
| --- | --- |
{_METRICS}
"""


def reference() -> str:
    """The page's text."""
    rows = "\n".join(_row(path, page) for path, page in PAGES.items())
    return f"{HEAD}| path | method | what it does | parameters |\n| --- | --- | --- | --- |\n{rows}\n{TAIL}"


def _row(path: str, page: Page) -> str:
    parameters = "; ".join(f"`{name}`: {meaning}" for name, meaning in page.parameters)
    return f"| `{path}` | {'POST' if page.mutates else 'GET'} | {page.help} | {parameters} |"


if __name__ == "__main__":
    PLACE.write_text(reference())
