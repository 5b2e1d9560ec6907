"""The name of a metric: in one piece as in `/stats` and statsd, or with what varies taken out of it as tags, by Envoy's extraction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from meshproxy.model import StatsTag
from meshproxy.scoreboard.catalogue import BlockKind

THING_TAG = {
    BlockKind.LISTENER: "envoy.listener_address",
    BlockKind.LISTENER_SSL: "envoy.listener_address",
    BlockKind.TCP: "envoy.tcp_prefix",
    BlockKind.PROXY_PROTO: "envoy.proxy_protocol_prefix",
    BlockKind.CONNECTION_LIMIT: "envoy.connection_limit_prefix",
    BlockKind.LOCAL_RATE_LIMIT: "envoy.local_network_ratelimit_prefix",
    BlockKind.RBAC: "envoy.rbac_prefix",
    BlockKind.CLUSTER_SSL: "envoy.cluster_name",
    BlockKind.CLUSTER_HTTP2: "envoy.cluster_name",
    BlockKind.HTTP: "envoy.http_conn_manager_prefix",
    BlockKind.VHOST: "envoy.virtual_host",
    BlockKind.CLUSTER: "envoy.cluster_name",
    BlockKind.SERVER: "envoy.worker_id",
}
"""The tag that carries the thing's name. The server's blocks have one only when they are of a single worker (`worker_3`)."""

_STATUS = re.compile(r"^(.*_rq)_(\d)(\d\d|xx)$")
_PREFIXES = {kind: kind.value.replace("{}.", "").replace("{}", "") for kind in BlockKind}


Tags = tuple[tuple[str, str], ...]
MOST_KNOWN = 65536
"""Things whose tags are remembered: they come and go."""


class Tagged(NamedTuple):
    """`name` without the parts that `tags` have."""

    name: str
    tags: Tags


class TagRules:
    """The configuration's own tags, beside those of Envoy's extraction; one of a name that Envoy's has gives way to it."""

    def __init__(self, tags: Sequence[StatsTag] = ()) -> None:
        self.rows = tuple(tags)
        self._fixed = tuple((tag.name, tag.value) for tag in tags if tag.value)
        self._patterns = []
        if any(tag.regex for tag in tags):
            # Not at the top: most nodes have no patterns, and the library takes memory.
            import re2

            self._patterns = [(tag.name, re2.compile(tag.regex)) for tag in tags if tag.regex]
        self._known: dict[tuple[BlockKind | None, str], Tags] = {}

    def of(self, kind: BlockKind | None, thing: str) -> Tags:
        """Of all metrics of a thing; what has no name has only those that are on all."""
        if not self._patterns or not thing:
            return self._fixed
        known = self._known.get((kind, thing))
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[kind, thing] = (*self._fixed, *self._found(prefix_of(kind, thing)))
        return known

    def _found(self, name: str) -> Iterator[tuple[str, str]]:
        for tag, pattern in self._patterns:
            found = pattern.search(name)
            value = found and (found.group(2) if pattern.groups > 1 else found.group(1))
            if value:
                yield tag, value


def joined(first: Tags, more: Tags) -> Tags:
    """Both, each name once."""
    if not more:
        return first
    names = {name for name, _ in first}
    return (*first, *((name, value) for name, value in more if name not in names))


def clean(name: str) -> str:
    """A thing's name as a part of a metric's: ":" and NUL are "_", and "://" and ":/" become one (Envoy's rule)."""
    return name.replace("://", "_").replace(":/", "_").replace(":", "_").replace("\0", "_") if ":" in name or "\0" in name else name


def prefix_of(kind: BlockKind | None, thing: str) -> str:
    """`cluster.name.`: what all metrics of a thing begin with; "" for a metric that is nobody's (kind None)."""
    if kind is None:
        return ""
    if kind is BlockKind.SERVER:
        return f"server.{thing}." if thing else "server."
    return kind.value.format(clean(thing))


@lru_cache(maxsize=4096)
def _row_tags(kind: BlockKind, row: str) -> Tagged:
    found = _STATUS.match(row)
    if not found:
        return Tagged(_PREFIXES[kind] + row, ())
    if found[3] == "xx":
        return Tagged(f"{_PREFIXES[kind]}{found[1]}_xx", (("envoy.response_code_class", found[2]),))
    return Tagged(_PREFIXES[kind] + found[1], (("envoy.response_code", found[2] + found[3]),))


def tagged(kind: BlockKind | None, thing: str, row: str) -> Tagged:
    """The metric `row` of a thing: `cluster.upstream_rq_xx` and (cluster_name, response_code_class)."""
    if kind is None:
        return Tagged(row, ())
    name, tags = _row_tags(kind, row)
    if not thing:
        return Tagged(name, tags)
    if kind is BlockKind.SERVER:
        # A name of its own: a sum over all labels of `server.x` must not count everything twice.
        return Tagged("server.worker." + row, ((THING_TAG[kind], thing.removeprefix("worker_")),))
    if kind is BlockKind.GRPC:
        cluster, _, called = thing.partition(".grpc.")
        service, _, method = called.removesuffix(".").rpartition(".")
        named = (("envoy.grpc_bridge_service", service), ("envoy.grpc_bridge_method", method)) if called else ()
        return Tagged("cluster.grpc." + row, (("envoy.cluster_name", clean(cluster)), *named))
    if kind is BlockKind.HTTP_RBAC or (kind is BlockKind.RBAC_SHADOW and thing.startswith("http.")):
        prefix, _, part = thing.removeprefix("http.").rpartition("rbac.")
        named = (("envoy.http_conn_manager_prefix", prefix), ("envoy.rbac_prefix", part))
        return Tagged("http.rbac." + row, tuple((tag, clean(value.removesuffix("."))) for tag, value in named if value))
    if kind is BlockKind.RBAC_SHADOW:
        prefix, _, shadow = thing.rpartition("rbac.")
        named = (("envoy.rbac_prefix", prefix), ("envoy.rbac_shadow_prefix", shadow))
        return Tagged("rbac." + row, tuple((tag, clean(value.removesuffix("."))) for tag, value in named if value))
    return Tagged(name, (*tags, (THING_TAG[kind], clean(thing.removesuffix(".")))))
