"""Tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bench.attacks import Attacked
from bench.loads import CHANGES, LOADS
from bench.phases import Changed
from bench.rounds import Row
from tests.peers.process import PeerMissingError, program


def table(headings: list[str], lines: list[list[str]]) -> str:
    """Columns wide enough; the first is flush left, the others right."""
    widths = [max(len(line[column]) for line in [headings, *lines]) for column in range(len(headings))]

    def form(line: list[str]) -> str:
        first, *others = (cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True)))
        return "  ".join([first, *others])

    return "\n".join([form(headings), "  ".join("-" * width for width in widths), *map(form, lines)])


def ratios(rows: list[Row], row: Row) -> dict[str, float | None]:
    """The cost over that of the best of the others, HAProxy's, Envoy's and, where numbers of workers are compared, one worker's.

    `envoy x2` is Envoy with two workers, compared with the others that have two.
    """
    name, _, workers = row.peer.partition(" ")
    costs = {other.peer: other.cpu_us for other in rows}
    suffix = f" {workers}" if workers else ""
    others = [cost for peer, cost in costs.items() if peer.endswith(suffix) and peer.split()[0] not in {name, "meshproxy"}]

    def over(cost: float | None) -> float | None:
        return row.cpu_us / cost if cost else None

    return {
        "to_best_peer": over(min(others, default=None)),
        "to_haproxy": over(costs.get("haproxy" + suffix)),
        "to_envoy": over(costs.get("envoy" + suffix)),
        "to_one_worker": over(costs.get(f"{name} x1")),
    }


def load_table(name: str, rows: list[Row]) -> str:
    """One load, with all proxies."""
    unit = LOADS[name].unit
    headings = ["proxy", f"CPU us/{unit}", "(min-max)", f"{unit}/s", "p50 ms", "p99 ms", "PSS MB", "busy", "failed"]
    headings += ["/best peer", "/HAProxy", "/Envoy", "/one worker"]
    lines = []
    for row in rows:
        compared = ratios(rows, row)
        lines.append([
            row.peer, f"{row.cpu_us:.2f}", f"{row.cpu_spread[0]:.1f}-{row.cpu_spread[1]:.1f}", f"{row.rate_per_s:,.0f}",
            _or_dash(row.p50_ms), _or_dash(row.p99_ms), f"{row.pss_mb:.1f}", f"{row.busy:.2f}", str(row.failed),
            *map(_or_dash, compared.values()),
        ])  # fmt: skip
    return f"{name}: {LOADS[name].about}\n{table(headings, lines)}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def idle_table(measured: dict[str, dict[str, float]]) -> str:
    lines = [
        [name, f"{row['connections']:.0f}", f"{row['bytes_per_connection'] / 1024:.2f}", f"{row['pss_bytes_before'] / 1e6:.1f}"]
        for name, row in measured.items()
    ]
    return "idle: keep-alive connections that served one request\n" + table(
        ["proxy", "connections", "KiB PSS each", "PSS MB without"], lines
    )


def start_table(measured: dict[str, dict[str, float]]) -> str:
    lines = [[name, f"{row['first_answer_s']:.2f}", f"{row['idle_pss_bytes'] / 1e6:.1f}"] for name, row in measured.items()]
    return "start: from exec to the first answer, and the idle tree with two workers\n" + table(
        ["proxy", "first answer s", "PSS MB"], lines
    )


def change_table(name: str, changed: Changed) -> str:
    """A load that changes the node: its phases, what failed in them, and what else is to know of it."""
    headings = ["phase", "s", "req/s", "failed", "p50 ms", "p99 ms", "(min-max)", "/before", "max ms"]
    headings += ["direct p99 ms", "/before", "connects", "slowest ms", "elsewhere"]
    lines = [
        [
            row.phase, f"{row.seconds:.1f}", f"{row.rate_per_s:,.0f}", str(row.failed), f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}",
            f"{row.p99_spread[0]:.2f}-{row.p99_spread[1]:.2f}", f"{row.p99_ratio:.1f}", f"{row.max_ms:.1f}", f"{row.direct_p99_ms:.2f}",
            f"{row.direct_ratio:.1f}", str(row.connects), f"{row.slowest_connect_ms:.1f}", f"{row.elsewhere:.2f}",
        ]
        for row in changed.phases
    ]  # fmt: skip
    failures = [f"failed in {row.phase!r}: {number} {what}" for row in changed.phases for what, number in row.failures.items()]
    facts = [f"{fact} {', '.join(f'{value:g}' for value in values)}" for fact, values in changed.facts.items()]
    return "\n".join([f"{name}: {CHANGES[name]}", table(headings, lines), *failures, *facts])


def attack_table(measured: list[Attacked]) -> str:
    headings = ["attack", "attacker CPU", "p99 ms before", "meanwhile", "ratio", "direct ratio", "failed", "PSS MB more"]
    lines = [
        [
            row.attack, f"{row.attacker_cpu:.2f}", f"{row.p99_before_ms:.2f}", f"{row.p99_ms:.2f}", f"{row.p99_ratio:.1f}",
            f"{row.direct_ratio:.1f}", str(row.failed), f"{row.pss_growth_bytes / 1e6:.1f}",
        ]
        for row in measured
    ]  # fmt: skip
    told = [f"counted in {row.attack}: {', '.join(f'{name} {value}' for name, value in row.counters.items()) or '-'}" for row in measured]
    return "\n".join(["attacks: a paced client of meshproxy before and meanwhile", table(headings, lines), *told])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1].strip() for line in lines if line.startswith("model name")), "?")
    return {"kernel": platform.release(), "cpu": model, "processors": len(os.sched_getaffinity(0)), "versions": versions()}


def versions() -> dict[str, str]:
    """First lines of what the programs say of themselves."""
    commands = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "wrk": ["wrk", "-v"]}
    said = {}
    for name, (binary, option) in commands.items():
        try:
            done = subprocess.run([program(binary, binary), option], capture_output=True, text=True)
        except PeerMissingError:
            continue
        said[name] = (done.stdout + done.stderr).strip().splitlines()[0]
    return said


def as_json(loads: dict[str, list[Row]], more: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, with ratios."""
    return {
        "machine": machine(),
        "settings": settings,
        "loads": {name: [dataclasses.asdict(row) | ratios(rows, row) for row in rows] for name, rows in loads.items()},
        **{name: _plain(found) for name, found in more.items()},
    }


def _plain(found: Any) -> Any:
    if isinstance(found, list):
        return [dataclasses.asdict(row) for row in found]
    return dataclasses.asdict(found) if isinstance(found, Changed) else found
