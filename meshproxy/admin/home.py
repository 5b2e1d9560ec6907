"""The home page: what a person wants to see first. One HTML file without anything from elsewhere, and the data it shows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from meshproxy import __version__
from meshproxy.admin.http import Request, Response
from meshproxy.admin.node import AdminNode
from meshproxy.admin.process_pages import process_memory
from meshproxy.admin.traffic import Traffic, WorkerFlow
from meshproxy.ipc.messages import WorkerRow
from meshproxy.model import Cluster

HOME_HTML = Path(__file__).with_name("home.html")
MOST_CLUSTERS = 100
"""On the page, the busiest first; `/clusters` has all."""


def home(node: AdminNode, request: Request) -> Response:
    """The page; its script asks for the data."""
    return Response(HOME_HTML.read_bytes(), content_type="text/html; charset=UTF-8")


def home_data(node: AdminNode, request: Request) -> Response:
    """All that the page shows."""
    view, traffic = node.view, node.metrics.traffic()
    clusters = list(view.clusters())
    flows = {flow.name: flow for flow in traffic.clusters}
    ranked = sorted(clusters, key=lambda each: -flows[each.stat_name].requests_per_s if each.stat_name in flows else 0)
    data = {
        "version": __version__,
        "state": view.server_state,
        "node": {"id": view.settings.node.id, "cluster": view.settings.node.cluster},
        "config_version": view.state.config_version,
        "config_file": view.state.config_file,
        "restart_epoch": view.state.restart_epoch,
        "uptime_s": view.uptime_s,
        "interval_s": traffic.interval_s,
        "total": traffic.node,
        "processes": _processes(node, traffic),
        "listeners": view.state.listeners,
        "downstream": traffic.downstream,
        "clusters": [_cluster(node, each, flows) for each in ranked[:MOST_CLUSTERS]],
        "clusters_total": len(clusters),
    }
    return Response(msgspec.json.encode(data), content_type="application/json")


def _processes(node: AdminNode, traffic: Traffic) -> list[dict]:
    state = node.view.state
    flows: dict[int, WorkerFlow] = {worker.slot: worker for worker in traffic.workers}
    rows = [{"title": "master", "pid": state.pid, "state": "READY", "uptime_s": node.view.uptime_s, **process_memory(state.pid)}]
    for row in state.workers:
        rows.append({"title": f"worker {row.slot}", **_row(row, node), "traffic": flows.get(row.slot)})
    if state.agent is not None:
        rows.append({"title": "agent", **_row(state.agent, node)})
    return rows


def _row(row: WorkerRow, node: AdminNode) -> dict:
    # An uptime is as old as the master's word about it.
    uptime_s = row.uptime_s + node.view.uptime_s - node.view.state.uptime_s
    memory = process_memory(row.pid) if row.state != "GONE" else {}
    return {"pid": row.pid, "state": row.state, "uptime_s": uptime_s, "restarts": row.restarts, "last_death": row.last_death, **memory}


def _cluster(node: AdminNode, cluster: Cluster, flows: dict) -> dict:
    endpoints = node.view.endpoints(cluster)
    return {
        "name": cluster.name,
        "discovery": cluster.discovery,
        "balance": cluster.balance,
        "endpoints": len(endpoints),
        "healthy": sum(endpoint.healthy for endpoint in endpoints),
        "flow": flows.get(cluster.stat_name),
    }
