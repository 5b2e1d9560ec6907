"""The reference pages of metrics and access logs, made from the tables that the code works by.

After a change of a table run `python -m meshproxy.telemetry.reference`; a test refuses a stale page.
"""

from __future__ import annotations

from pathlib import Path

from meshproxy.model import Stats, StatsSink
from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind, MetricType
from meshproxy.telemetry.histogram import SUPPORTED_QUANTILES
from meshproxy.telemetry.logs import MOST_DATAGRAM_BYTES
from meshproxy.telemetry.operators import FLAGS, OPERATORS
from meshproxy.telemetry.statsd import MOST_SAMPLES
from meshproxy.telemetry.tags import THING_TAG

DOCS = Path(__file__).parents[2] / "docs" / "reference"

_THINGS = {
    BlockKind.SERVER: "The node. `server.worker_<slot>.*` has the same of each worker, without histograms and with `downstream_rq_total`.",
    BlockKind.LISTENER: "`<name>` is the listener's `stat_prefix` or its first address with `_` for `:`.",
    BlockKind.LISTENER_SSL: "Of listeners with TLS. A cipher, curve or signature without a name of its own counts as `other`.",
    BlockKind.HTTP1: "HTTP/1 of all clients together.",
    BlockKind.HTTP2: "HTTP/2 of all clients together.",
    BlockKind.TCP: "`<name>` is the TCP proxy's `stat_prefix`.",
    BlockKind.TLS_INSPECTOR: "All listeners with this filter together.",
    BlockKind.HTTP_INSPECTOR: "All listeners with this filter together.",
    BlockKind.PROXY_PROTO: "`<name>` is the filter's `stat_prefix` with a dot, where it has one.",
    BlockKind.CONNECTION_LIMIT: "`<name>` is the filter's `stat_prefix`.",
    BlockKind.LOCAL_RATE_LIMIT: "`<name>` is the filter's `stat_prefix`.",
    BlockKind.RBAC: "`<name>` is the network filter's `stat_prefix` with a dot, where it has one.",
    BlockKind.RBAC_SHADOW: "`<name>` is `<stat_prefix>.rbac.<shadow_stat_prefix>.`, for requests with `http.` in front, without the parts "
    "that are empty.",
    BlockKind.HTTP_RBAC: "`<name>` is `<the connection manager's stat_prefix>.rbac.<the filter's>.`, without the parts that are empty.",
    BlockKind.CLUSTER_SSL: "Of clusters with TLS.",
    BlockKind.GRPC: "`<name>` is `.<cluster>.grpc.<service>.<method>.`; with the filter `grpc_stats`.",
    BlockKind.CLUSTER_HTTP2: "Of clusters that may speak HTTP/2.",
    BlockKind.HTTP: "`<name>` is the connection manager's `stat_prefix`; several with one prefix count together.",
    BlockKind.VHOST: "Only for virtual hosts with `stats`.",
    BlockKind.CLUSTER: "`<name>` is the cluster's name or `alt_stat_name`.",
    BlockKind.HOST: "Of each endpoint; shown by `/clusters`, not exported.",
}


def metrics_page() -> str:
    """`docs/reference/metrics.md`."""
    parts = [_METRICS_HEAD.format(
        quantiles=", ".join(f"{100 * q:g}" for q in SUPPORTED_QUANTILES), samples=MOST_SAMPLES,
        buckets=", ".join(f"{bound:.10g}" for bound in Stats().histogram_buckets_ms), datagram=StatsSink().max_datagram_bytes,
        tags="\n".join(f"| `{kind.value.format('<name>')}*` | `{tag}` |" for kind, tag in THING_TAG.items() if "{}" in kind.value),
    )]
    for kind, rows in CATALOGUE.items():
        if not rows:
            continue
        prefix = kind.value.format("<name>")
        parts.append(f"\n## {prefix + '*' if prefix else 'Endpoints'}\n\n{_THINGS[kind]}\n\n{_METRICS_TABLE}")
        parts += [f"| `{prefix}{row.name}` | {row.type.value} | {row.help}{_unit(row.name, row.type)} |\n" for row in rows]
    return "".join(parts)


_METRICS_TABLE = "| metric | type | what |\n| --- | --- | --- |\n"


def _unit(name: str, kind: MetricType) -> str:
    return "" if kind is not MetricType.HISTOGRAM else ", in microseconds" if name.endswith("_us") else ", in milliseconds"


_METRICS_HEAD = """\
# Metrics

What a node counts, under Envoy's names for the same things. Workers count in shared memory; the agent adds up and exports:

- `/stats` on the admin address: text, `?format=json`, `?usedonly`, `?filter=<regex>` (RE2, searched in the name),
  `?type=Counters|Gauges|Histograms`. A histogram shows the quantiles {quantiles} of the last flush interval and of all time.
- `/stats/prometheus`: text format 0.0.4.
- statsd, by UDP or TCP, plain or with DogStatsD tags.

A counter only grows, also when a worker dies. A gauge is the sum of what the workers hold. A histogram knows a value to 12.5 percent.

## Prometheus

`cluster.web.upstream_rq_total` becomes `envoy_cluster_upstream_rq_total{{envoy_cluster_name="web"}}`: Envoy's names and labels, so that its
dashboards work. `upstream_rq_503` is `envoy_cluster_upstream_rq{{envoy_response_code="503"}}` and `upstream_rq_5xx` is
`envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5"}}`. Histograms are in milliseconds with the upper bounds
{buckets}.

## statsd

Each flush sends counters that changed (`|c`, the difference), gauges that were ever used (`|g`) and histograms that got values (`|ms`).
Lines are gathered up to `max_datagram_bytes` ({datagram}).

statsd computes percentiles from the values it gets. A histogram sends at most {samples} values a flush, which lie evenly over the ranks of
what was recorded and share a sample rate (`|ms|@0.032`). Percentiles are then right to 12.5 percent of the value and to
1/{samples} of the rank; the highest value is always sent; the server's count is right, because it divides by the rate.

A server that is away costs nothing but its data: UDP datagrams are lost; TCP is tried again after 0.5 s, doubling to 30 s, and up to 4 MiB
of lines wait for it.

The DogStatsD dialect sends `cluster.upstream_rq_total` with tags in place of the long name:

| metrics | tag |
| --- | --- |
{tags}
| `server.worker_<slot>.*` (as `server.worker.*`) | `envoy.worker_id` |
| `*_rq_503` (as `*_rq`) | `envoy.response_code` |
| `*_rq_5xx` (as `*_rq_xx`) | `envoy.response_code_class` |

`conf/dashboards/meshproxy-statsd.json` is a Grafana dashboard for the plain names in Graphite. Set `percentThreshold: [90, 99]` in statsd.

## Derived gauges

Of each cluster, `circuit_breakers.<default|high>.<cx|rq_pending|rq|rq_retry>_open` is 1 while as much is held as the limit allows;
`membership_total`, `membership_healthy` count endpoints.
"""


def access_log_page() -> str:
    """`docs/reference/access-log.md`."""
    parts = [_ACCESS_LOG_HEAD.format(datagram=MOST_DATAGRAM_BYTES)]
    for name, row in OPERATORS.items():
        shape = f"({row.argument})".replace("|", "\\|") if row.argument else ""
        parts.append(f"| `%{name}{shape}%` | {'number' if row.number else 'text'} | {row.help} |\n")
    parts.append("\n## Response flags\n\n| flag | long |\n| --- | --- |\n")
    parts += [f"| `{short}` | `{long}` |\n" for short, long in FLAGS]
    return "".join(parts)


_ACCESS_LOG_HEAD = """\
# Access log

One line for each request, at its end. A format is text with Envoy's operators, or JSON whose leaves are such texts. `%%` is a percent sign.
An operator that Envoy does not know is refused in Envoy's words; one that Envoy has and meshproxy has not is refused by its name.

- **Absent** values are `-` in text and `null` in JSON; with `omit_empty_values` they are empty in text, and JSON leaves them out, with the
  objects and lists that become empty by it.
- **JSON** keeps the order of its keys. A leaf that is one operator alone keeps its type: a number, or a string.
- **Headers** take an alternative (`%REQ(X-A?X-B)%`) and a length in bytes (`%REQ(USER-AGENT):20%`). Of several lines of one name the
  first counts.
- **Times** take strftime's conversions and `%s` (seconds since 1970), `%f` (nanoseconds), `%1f` to `%9f`, `%E0S` to `%E9S`, always UTC.
- **What a client sent cannot end a line or a field.** In text, control bytes, DEL, `"` and `\\` become `\\xHH`. In JSON they become
  `\\u00HH`, and so does every byte that is no UTF-8. (Envoy's text format prints them as they came.)

## Where lines go

- **Files** are appended to and opened again on SIGUSR1. When the disk is full, lines are lost, counted
  and told once a minute, until there is room again; the file never has two lines joined.
- **stdout, stderr**: a reader that is slow has 1 MiB of patience; then lines are lost. `/dev/stdout` as a file path means the same.
- **syslog**: one datagram a line, framed by RFC 3164, to a UDP server or to a socket such as `/dev/log`; cut at {datagram} bytes.

A worker writes its lines into shared memory, never to a file. A ring of 1 MiB for each worker holds them until the agent takes them; what
finds it full is dropped and counted in `server.records_dropped`.

## Operators

| operator | in JSON | what |
| --- | --- | --- |
"""

PAGES = {"metrics.md": metrics_page, "access-log.md": access_log_page}


if __name__ == "__main__":
    DOCS.mkdir(parents=True, exist_ok=True)
    for page, make in PAGES.items():
        (DOCS / page).write_text(make())
