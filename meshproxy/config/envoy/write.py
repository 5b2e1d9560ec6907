"""A Snapshot as Envoy's bootstrap, for `config convert`. What Envoy's API cannot say is listed, not left out in silence."""

from __future__ import annotations

from meshproxy.config.envoy.write_cluster import cluster
from meshproxy.config.envoy.write_listener import listener
from meshproxy.config.envoy.write_messages import Data, access_logs, address, changed, put, typed
from meshproxy.config.envoy.write_route import duration
from meshproxy.config.envoy.write_source import dynamic_resources, node
from meshproxy.config.envoy.write_tls import static_secrets
from meshproxy.model import Admin, HttpConnectionManager, Node, Process, Snapshot, Stats, StatsSink


def to_data(snapshot: Snapshot) -> tuple[Data, list[str]]:
    """The bootstrap as plain data, and what of the snapshot it does not say."""
    lost: list[str] = []
    tables = {table.name: table for table in snapshot.route_tables}
    secrets = {secret.name: secret for secret in snapshot.secrets}
    data: Data = {}
    if snapshot.node != Node():
        data["node"] = node(snapshot.node)
    if snapshot.admin is not None:
        data["admin"] = _admin(snapshot.admin, lost)
    data["static_resources"] = {
        "listeners": [listener(item, tables, secrets, lost) for item in snapshot.listeners],
        "clusters": [cluster(item, secrets, lost) for item in snapshot.clusters],
    }
    put(data, "dynamic_resources", dynamic_resources(snapshot.dynamic))
    put(data["static_resources"], "secrets", static_secrets(secrets, snapshot.listeners))
    stats = snapshot.stats
    if any(sink.tcp_cluster for sink in stats.sinks) and not (snapshot.node.id and snapshot.node.cluster):
        lost.append("node id and cluster: Envoy wants both for statsd by TCP; set them")
    if stats.sinks:
        data["stats_sinks"] = [sink for item in stats.sinks if (sink := _sink(item, lost)) is not None]
    if stats.tags:
        data["stats_config"] = {
            "stats_tags": [
                {"tag_name": tag.name, **({"regex": tag.regex} if tag.regex else {"fixed_value": tag.value})} for tag in stats.tags
            ],
        }
    if stats.flush_interval_s != Stats().flush_interval_s:
        data["stats_flush_interval"] = duration(stats.flush_interval_s)
    if stats.histogram_buckets_ms != Stats().histogram_buckets_ms:
        lost.append("histogram_buckets_ms: Envoy has no setting for all histograms")
    lost += [f"{field}: Envoy has it on the command line or not at all" for field in changed(snapshot.process, Process())]
    if snapshot.log_level != "info":
        lost.append("log_level: Envoy has it on the command line")
    lost += [f'route table "{table.name}": catalog: Envoy asks no Consul for routes' for table in snapshot.route_tables if table.catalog]
    if snapshot.consul is not None and snapshot.consul.services:
        lost.append("consul register: Envoy registers itself nowhere")
    used = {
        chain.terminal.route_table for item in snapshot.listeners for chain in item.all_chains
        if isinstance(chain.terminal, HttpConnectionManager)
    }
    lost += [f'route table "{name}": no listener uses it' for name in tables if name not in used]
    return data, lost


def _admin(admin: Admin, lost: list[str]) -> Data:
    data: Data = {"address": address(admin.address)}
    put(data, "access_log", access_logs(admin.access_logs, "admin", lost))
    return data


def _sink(sink: StatsSink, lost: list[str]) -> Data | None:
    if sink.transport == "tcp" and sink.address is not None:
        lost.append(f"statsd {sink.address}: Envoy reaches statsd by TCP through a cluster only; add one and use tcp_cluster")
        return None
    dog = sink.dialect == "dogstatsd"
    if dog and sink.tcp_cluster:
        lost.append(f'statsd: Envoy sends DogStatsD by UDP only, not to cluster "{sink.tcp_cluster}"')
        return None
    fields: Data = {"tcp_cluster_name": sink.tcp_cluster} if sink.tcp_cluster else {"address": address(sink.address)}
    if sink.prefix != "envoy":
        fields["prefix"] = sink.prefix
    if dog:
        fields["max_bytes_per_datagram"] = sink.max_datagram_bytes
    elif sink.max_datagram_bytes != StatsSink().max_datagram_bytes:
        lost.append("statsd max_datagram: Envoy has it for dog_statsd only")
    kind = "DogStatsdSink" if dog else "StatsdSink"
    name = f"envoy.stat_sinks.{'dog_statsd' if dog else 'statsd'}"
    return {"name": name, "typed_config": typed(f"envoy.config.metrics.v3.{kind}", fields)}
