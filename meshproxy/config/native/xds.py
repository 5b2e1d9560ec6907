"""The control plane that drives the node, in native YAML: `xds: consul.example:8502`."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from meshproxy.config import rules
from meshproxy.config.native.address import Place
from meshproxy.config.native.control_plane import CONTROL_PLANE, DEFAULT, STREAM_ROWS, by_stream, split_source
from meshproxy.config.native.kinds import Definitions, ListOf
from meshproxy.config.native.rows import DERIVED, WRONG, Row, Section, Values
from meshproxy.config.native.secrets import Secured
from meshproxy.config.native.tls import UPSTREAM_TLS, Draft
from meshproxy.config.problems import Path, Problems
from meshproxy.config.tls_rules import UPSTREAM_ALPN
from meshproxy.model import Cluster, ConfigSource, Dynamic, Endpoint, Secret, SocketAddress

NAME = "xds"
"""The cluster that `server` stands for."""


class Xds(NamedTuple):
    """`xds` of a file: what it stands for, and the cluster that `server` makes."""

    dynamic: Dynamic
    cluster: Cluster | None = None


class _All:
    """`true`, `false`, or a control plane: a ConfigSource or None in the model."""

    label = f"true, false, or {CONTROL_PLANE.label}"

    def read(self, value: Any, path: Path, problems: Problems) -> Any:
        if value is False:
            return None
        return CONTROL_PLANE.read("ads" if value is True else value, path, problems)

    def write(self, value: ConfigSource | None) -> Any:
        return False if value is None else True if value == DEFAULT else CONTROL_PLANE.write(value)

    def schema(self, definitions: Definitions) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, *CONTROL_PLANE.schema(definitions)["anyOf"]]}


def _make_xds(values: Values, path: Path, problems: Problems) -> Any:
    problems.sourced.append((path, "xds"))
    whole: Values = {field: values.pop(field) for field in ("cds", "lds") if field in values}
    servers, draft = values.pop("server", ()), values.pop("tls", None)
    given = [word for word, field in (("cluster", "cluster"), ("target", "target_uri")) if values.get(field)]
    if servers:
        given.insert(0, "server")
    if len(given) > 1:
        problems.error((path, given[1]), f'xds: "{given[0]}" and "{given[1]}" are both given. Keep one.')
        return WRONG
    if draft is not None and not servers:
        problems.error((path, "tls"), 'xds: "tls" is for "server". A cluster has its own.')
        return WRONG
    if not given:
        if values or not any(whole.values()):
            problems.error(path, 'xds: nobody is named. Add "server", like consul.example:8502.')
            return WRONG
        return Xds(Dynamic(**whole))
    cluster = _cluster(servers, draft) if servers else None
    if cluster is not None:
        values["cluster"] = NAME
    ads = by_stream(values, (path, given[0]), problems)
    # All that is not spoken of comes by the stream too: that is what it is for.
    return Xds(Dynamic(ads=ads, **{"cds": DEFAULT, "lds": DEFAULT, **whole}), cluster)


def _cluster(servers: tuple, draft: Draft | None) -> Cluster:
    named = any(isinstance(place, SocketAddress) and not rules.ip(place.host) for place in servers)
    tls = None
    if draft is not None:
        tls = draft.tls if draft.alpn_given else msgspec.structs.replace(draft.tls, alpn=UPSTREAM_ALPN["http2"])
    return Cluster(
        name=NAME, discovery="strict_dns" if named else "static", endpoints=tuple(Endpoint(address=place) for place in servers),
        protocol="http2", tls=tls,
    )


class Written(NamedTuple):
    """What is to be written: all that is asked for, the cluster of that name, and the secrets that it may name."""

    dynamic: Dynamic
    cluster: Cluster | None
    secrets: dict[str, Secret]


def server_cluster(dynamic: Dynamic, clusters: tuple[Cluster, ...]) -> Cluster | None:
    """The cluster that `server` makes, when there is one that says no more than that."""
    if dynamic.ads is None or dynamic.ads.services[0].cluster != NAME:
        return None
    for cluster in clusters:
        if cluster.name == NAME and cluster.endpoints:
            places = tuple(endpoint.address for endpoint in cluster.endpoints)
            draft = Draft(cluster.tls, True) if cluster.tls is not None else None
            return cluster if _cluster(places, draft) == cluster else None
    return None


def _split_xds(written: Written) -> Values:
    dynamic, cluster = written.dynamic, written.cluster
    values: Values = {}
    if dynamic.ads is None:
        values = {field: each for field, each in (("cds", dynamic.cds), ("lds", dynamic.lds)) if each is not None}
        return values
    split = split_source(dynamic.ads)
    values = {row.field: split[row.field] for row in STREAM_ROWS if row.field in split}
    if cluster is not None:
        values["cluster"] = ""
        values["server"] = tuple(endpoint.address for endpoint in cluster.endpoints)
        if cluster.tls is not None:
            values["tls"] = (Draft(cluster.tls, cluster.tls.alpn != UPSTREAM_ALPN["http2"]), Secured(cluster, written.secrets))
    for field, source in (("cds", dynamic.cds), ("lds", dynamic.lds)):
        if source != DEFAULT:
            values[field] = source
    return values


XDS = Section(
    "xds",
    (
        Row("server", ListOf(Place(names=True, zero_port=False)), "Where it takes gRPC: one address or several.", default=(),
            shown_default="none"),
        Row("tls", UPSTREAM_TLS, "TLS with `server`.", default=None, shown_default="none"),
        *STREAM_ROWS,
        Row("clusters", _All(), "Take all clusters that it has (CDS).", "cds", default=DERIVED, shown_default="true with a stream"),
        Row("listeners", _All(), "Take all listeners that it has (LDS).", "lds", default=DERIVED, shown_default="true with a stream"),
    ),
    help="The control plane that drives the node, on one stream (ADS): an address, or a mapping.",
    make=_make_xds,
    split=_split_xds,
    short=lambda value: {"server": value} if isinstance(value, str) else None,
    shorten=lambda written: written["server"] if written.keys() == {"server"} and isinstance(written["server"], str) else written,
    short_schemas=({"type": "string", "pattern": ":"},),
    short_label="an address",
    title="xds",
)
