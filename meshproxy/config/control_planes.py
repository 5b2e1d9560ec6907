"""What must hold of control planes in a file, whichever form it is in."""

from __future__ import annotations

from collections.abc import Iterable

from meshproxy.config.problems import Problems
from meshproxy.model import Cluster, Dynamic, Node

CLUSTER = "static cluster without EDS"
"""What a control plane is reached by; a kind of reference for `Problems.refer`."""
STREAM = "aggregated stream"
"""The one that what is asked of `ads` comes by; another kind."""


def check_control_planes(
    problems: Problems, clusters: Iterable[Cluster], dynamic: Dynamic, node: Node, add_cluster: str, add_stream: str
) -> None:
    """References to the clusters that control planes are reached by, and to the stream, are resolved. The last two are remedies."""
    problems.unresolved(CLUSTER, {cluster.name: None for cluster in clusters if cluster.discovery != "found"}, add_cluster)
    check_stream(problems, dynamic, add_stream)
    if problems.sourced and not (node.id and node.cluster):
        where, what = problems.sourced[0]
        wrong = f'{what}: a control plane tells proxies apart by node "id" and "cluster", and one of them is missing.'
        problems.error(where, f"{wrong} Set both under node.")


def check_stream(problems: Problems, dynamic: Dynamic, add_stream: str) -> None:
    problems.unresolved(STREAM, {"ads_config": None} if dynamic.ads is not None else {}, add_stream)
