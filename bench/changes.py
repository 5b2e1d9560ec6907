"""Loads that change the configuration or the code of a node while it serves."""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.kill import kill_workers
from bench.phases import Changed, Phase, rows
from bench.steady import Configuration, Steady
from meshproxy.admin.client import ControlClient
from tests.peers import bootstrap
from tests.processes import meshes

RELOADS = 50
RELOADS_APART_S = 1.0
CLUSTERS, ROUTES = 1000, 10_000
BIG_RELOADS = 5
BIG_RELOADS_APART_S = 3.0
UPGRADE_LIMIT_S = 60

Facts = dict[str, float]


def run(directory: Path, name: str, seconds: float, rounds: int, tell: Callable[[str], None]) -> Changed:
    """All rounds of one of `bench.loads.CHANGES`; each has a node of its own."""
    measured: list[list[Phase]] = []
    facts: list[Facts] = []
    for turn in range(rounds):
        phases, found = LOADS[name](directory / str(turn), seconds)
        measured.append(phases)
        facts.append(found)
        tell(f"{name} round {turn + 1}/{rounds}: " + ", ".join(f"{phase.name} p99 {phase.through.p99_ms:.2f} ms" for phase in phases))
    return Changed(rows(measured), {fact: [round(found[fact], 3) for found in facts] for fact in facts[0]})


def reload_and_upgrade(directory: Path, seconds: float) -> tuple[list[Phase], Facts]:
    """50 reloads of one route, first one a second and then without a pause; one upgrade.

    They are ordered over the control socket, as `systemctl reload` does by a signal: a command of Python's size, started each time, would
    be a load of its own.
    """
    took: list[float] = []
    with Steady(directory, _one_route) as scene:
        order = ControlClient(str(scene.node.control)).order

        def reload() -> None:
            scene.node.configure(scene.configuration())
            took.append(_timed(lambda: order("reload")))

        with scene.phase("before"):
            time.sleep(seconds)
        with scene.phase("reloads, 1 a second"):
            for _ in range(RELOADS):
                reload()
                time.sleep(max(0.0, RELOADS_APART_S - took[-1]))
        with scene.phase("reloads at once"):
            for _ in range(RELOADS):
                reload()
        with scene.phase("upgrade"):
            upgrade_s = _timed(lambda: order("upgrade"))
            drain_s = _timed(lambda: _follow_upgrade(scene))
        with scene.phase("after"):
            time.sleep(seconds)
        phases = scene.end_load()
    return phases, {"reload_s": statistics.median(took), "slowest_reload_s": max(took), "upgrade_s": upgrade_s, "drain_s": drain_s}


def _one_route(port: int, origin_port: int, mark: str) -> Configuration:
    return meshes.plain(origin_port, port=port, mark=mark)


def _follow_upgrade(scene: Steady) -> None:
    """Until the old master is gone."""
    old = scene.node.process
    assert old is not None
    scene.node.heir = int(json.loads(ControlClient(str(scene.node.control)).order("status"))["pid"])
    old.wait(UPGRADE_LIMIT_S)


def big_reload(directory: Path, seconds: float, configuration: Callable[[int, int, str], Configuration]) -> tuple[list[Phase], Facts]:
    """`meshproxy reload`, the command, of 1,000 clusters that all change and a table of 10,000 routes."""
    took: list[float] = []
    with Steady(directory, configuration, services=ROUTES - 1) as scene:
        with scene.phase("before"):
            time.sleep(seconds)
        with scene.phase("reloads"):
            for _ in range(BIG_RELOADS):
                scene.node.configure(scene.configuration())
                took.append(_timed(lambda: _reload_all(scene)))
                time.sleep(max(0.0, BIG_RELOADS_APART_S - took[-1]))
        with scene.phase("after"):
            time.sleep(seconds)
        phases = scene.end_load()
    return phases, {"command_s": statistics.median(took), "slowest_command_s": max(took)}


def _reload_all(scene: Steady) -> None:
    done = scene.node.reload()
    if done.returncode != 0 or json.loads(done.stdout)["changed"] <= CLUSTERS:
        raise RuntimeError(f"the reload was to change all of {CLUSTERS} clusters: {done.stdout}{done.stderr}")


def large_native(port: int, origin_port: int, mark: str) -> str:
    """`/service-N/` for 9,999 services, and `/`. `mark`, a number, is in a time limit of every cluster and a header of the last route."""
    lines = ["listeners:", "- name: ingress", f"  address: 127.0.0.1:{port}", "  routes:"]
    for number in range(ROUTES - 1):
        lines += [f"  - prefix: /service-{number}/", f"    to: cluster-{number % CLUSTERS}"]
    lines += ["  - prefix: /", "    to: cluster-0", "    response_headers:", "      set:", f'        x-mark: "{mark}"', "clusters:"]
    for number in range(CLUSTERS):
        lines += [f"  cluster-{number}:", f"    endpoints: [127.0.0.1:{origin_port}]", f"    connect_timeout: {5000 + int(mark)}ms"]
    return "\n".join(lines) + "\n"


def large_envoy(port: int, origin_port: int, mark: str) -> dict[str, Any]:
    """The same as a bootstrap."""
    routes = [bootstrap.route(f"/service-{number}/", f"cluster-{number % CLUSTERS}") for number in range(ROUTES - 1)]
    listener = bootstrap.http_listener(
        "ingress", port, [bootstrap.virtual_host([*routes, bootstrap.route("/", "cluster-0", **meshes.marked(mark))])]
    )
    limit = f"{5 + int(mark) / 1000}s"
    clusters = [bootstrap.cluster(f"cluster-{number}", origin_port, connect_timeout=limit) for number in range(CLUSTERS)]
    return bootstrap.bootstrap([listener], clusters)


def _timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


LOADS: dict[str, Callable[[Path, float], tuple[list[Phase], Facts]]] = {
    "reload": reload_and_upgrade,
    "big-reload": functools.partial(big_reload, configuration=large_native),
    "big-reload-envoy": functools.partial(big_reload, configuration=large_envoy),
    "kill": kill_workers,
}
"""By the names of `bench.loads.CHANGES`."""
