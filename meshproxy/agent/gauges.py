"""Metrics that no worker counts, because they are about the node as a whole. Names are Envoy's where Envoy has the thing."""

from __future__ import annotations

import re

from meshproxy import __version__
from meshproxy.agent.view import NodeView

STATES = {"LIVE": 0, "DRAINING": 1, "PRE_INITIALIZING": 2}
"""Envoy's numbers for `server.state`."""


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
