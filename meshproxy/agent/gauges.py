"""Metrics that no worker counts, because they are about the node as a whole. Names are Envoy's where Envoy has the thing."""

from __future__ import annotations

import re

from meshproxy import __version__
from meshproxy.agent.view import NodeView

STATES = {"LIVE": 0, "DRAINING": 1, "PRE_INITIALIZING": 2}
"""Envoy's numbers for `server.state`."""

MEANING = {
    "server.live": "1 when workers answer and the node neither drains nor looks unhealthy by order",
    "server.state": "0 live, 1 draining, 2 no worker is ready yet",
    "server.uptime": "seconds since the node started",
    "server.concurrency": "worker slots",
    "server.hot_restart_epoch": "upgrades since the first start",
    "server.version": "0.1.2 as 102",
    "server.workers_ready": "workers that serve",
    "server.worker_restarts": "heirs of workers that died",
    "server.longest_turn_us": "longest turn of any worker's loop since the last export",
    "listener_manager.total_listeners_active": "listeners",
    "listener_manager.total_listeners_warming": "listeners of control planes that wait for their routes or secrets",
    "listener_manager.listener_added": "listeners that control planes brought (counter)",
    "listener_manager.listener_modified": "listeners that they changed (counter)",
    "listener_manager.listener_removed": "listeners that they took away (counter)",
    "cluster_manager.active_clusters": "clusters",
    "cluster_manager.warming_clusters": "clusters of control planes that wait for their endpoints or secrets",
    "cluster_manager.cluster_added": "clusters that control planes brought (counter)",
    "cluster_manager.cluster_modified": "clusters that they changed (counter)",
    "cluster_manager.cluster_removed": "clusters that they took away (counter)",
    "cluster_manager.cds.update_attempt": "answers of a control plane about clusters, failures and the first question (counter)",
    "cluster_manager.cds.update_success": "answers that were accepted as a whole (counter)",
    "cluster_manager.cds.update_failure": "times that it could not be asked (counter)",
    "cluster_manager.cds.update_rejected": "answers of which something was refused (counter)",
    "cluster_manager.cds.init_fetch_timeout": "times that the first answer did not come in time (counter)",
    "cluster_manager.cds.update_time": "when the last answer was accepted, milliseconds of UNIX time",
    "cluster_manager.cds.version": "xxHash64 of the version that was accepted last, as in Envoy",
    "listener_manager.lds.update_attempt": "answers of a control plane about listeners, failures and the first question (counter)",
    "listener_manager.lds.update_success": "answers that were accepted as a whole (counter)",
    "listener_manager.lds.update_failure": "times that it could not be asked (counter)",
    "listener_manager.lds.update_rejected": "answers of which something was refused (counter)",
    "listener_manager.lds.init_fetch_timeout": "times that the first answer did not come in time (counter)",
    "listener_manager.lds.update_time": "when the last answer was accepted, milliseconds of UNIX time",
    "listener_manager.lds.version": "xxHash64 of the version that was accepted last, as in Envoy",
    "control_plane.connected_state": "1 while the aggregated stream is open",
    "control_plane.pending_requests": "requests that wait for the rate limit",
    "control_plane.rate_limit_enforced": "requests that had to wait for it (counter)",
    "control_plane.last_known_good": "1 while something is in force that a control plane said to an earlier process, because it is away",
    "cluster.<name>.membership_total": "endpoints",
    "cluster.<name>.membership_healthy": "endpoints that get requests",
    "cluster.<name>.membership_degraded": "always 0",
    "cluster.<name>.update_attempt": "lookups of the names of a DNS cluster, questions to the sources of a found one (counter)",
    "cluster.<name>.update_success": "those that were answered (counter)",
    "cluster.<name>.update_failure": "those that failed, so that the last endpoints stay (counter)",
    "cluster.<name>.update_empty": "answers of a source that had no endpoints (counter)",
    "consul.catalogue.services": "services of Consul's catalogue that have a cluster",
    "consul.catalogue.update_age": "seconds since the last good answer of the catalogue",
    "consul.catalogue.update_attempt": "questions to the catalogue (counter)",
    "consul.catalogue.update_failure": "those that failed, so that the last services stay (counter)",
    "consul.catalogue.update_empty": "answers that had no services any more (counter)",
    "consul.config.update_attempt": "times that Consul was asked for this node's configuration (counter)",
    "consul.config.update_failure": "those that failed (counter)",
    "consul.config.update_rejected": "configurations in Consul that were refused, so that the one before stays (counter)",
    "consul.registration.update_attempt": "times that Consul was asked for, or told of, a service of this node (counter)",
    "consul.registration.update_failure": "those that failed (counter)",
    "consul.registration.registered": "services of this node that Consul has",
    "consul.registration.missing": "services of this node that Consul should have and does not, as far as is known",
    "cluster.<name>.update_age": "seconds since the last good answer of that source of a found cluster that is the longest without one",
    "server.secret_updates": "secrets whose files changed (counter)",
    "server.secret_updates_rejected": "files of secrets that were bad, so that the secret before stays (counter)",
    "server.days_until_first_cert_expiring": "whole days; of all certificates and CAs; 0 without any",
    "server.access_log_lines_lost": "lines that a file or syslog server did not take (counter)",
    "server.access_log_records_dropped": "lines and spans that found a worker's ring full (counter)",
    "server.access_log_ring_corrupt": "times that a ring had to be emptied unread (counter)",
    "server.statsd_dropped_lines": "lines given up because the server was away too long (counter)",
    "server.statsd_dropped_datagrams": "datagrams that the kernel refused (counter)",
    "server.statsd_connect_failures": "connections to servers that failed or broke (counter)",
    "tracing.<zipkin or opentelemetry>.spans_sent": "spans that a collector took (counter)",
    "tracing.<zipkin or opentelemetry>.spans_dropped": "spans given up: too many waited, or their report was not taken (counter)",
    "tracing.<zipkin or opentelemetry>.timer_flushed": "times that less than a whole batch was sent because time was up (counter)",
    "tracing.<zipkin or opentelemetry>.reports_sent": "reports that a collector took (counter)",
    "tracing.<zipkin or opentelemetry>.reports_dropped": "reports that a collector refused (counter)",
    "tracing.<zipkin or opentelemetry>.reports_failed": "reports without an answer (counter)",
    "tracing.<zipkin or opentelemetry>.reports_skipped_no_cluster": "reports for which no collector was known (counter)",
}
"""What the agent adds to the metrics that workers count; the reference page is made from it."""


def node_gauges(view: NodeView) -> dict[str, int]:
    """The server's, the managers' and each cluster's membership, now."""
    state = view.state
    ready = [worker for worker in state.workers if worker.state == "READY"]
    gauges = {
        "server.live": int(view.serving),
        "server.state": STATES[view.server_state],
        "server.uptime": int(view.uptime_s),
        "server.concurrency": len(state.workers),
        "server.hot_restart_epoch": state.restart_epoch,
        "server.version": _version_number(),
        "server.workers_ready": len(ready),
        "server.worker_restarts": sum(worker.restarts for worker in state.workers),
        "server.days_until_first_cert_expiring": view.days_until_first_expires,
        "server.longest_turn_us": longest_turn_us(view),
        "listener_manager.total_listeners_active": len(state.listeners),
        "cluster_manager.active_clusters": len(view.facts),
    }
    for facts in view.facts.values():
        gauges[f"cluster.{facts.stat_name}.membership_total"] = facts.members
        gauges[f"cluster.{facts.stat_name}.membership_healthy"] = facts.healthy
        gauges[f"cluster.{facts.stat_name}.membership_degraded"] = 0
    return gauges


def longest_turn_us(view: NodeView) -> int:
    """Of all workers' loops since the last export."""
    region = view.region
    return max((region.longest_turn_us(slot) for slot in range(region.slots_started)), default=0)


def start_new_turns(view: NodeView) -> None:
    """After an export: the longest turn is looked for anew."""
    for slot in range(view.region.slots_started):
        view.region.longest_turn_us(slot, reset=True)


def _version_number() -> int:
    """0.1.2 as 102: a number that grows with the version, as Envoy shows its commit."""
    major, minor, patch = (int(part) for part in re.findall(r"\d+", __version__)[:3])
    return major * 10000 + minor * 100 + patch
