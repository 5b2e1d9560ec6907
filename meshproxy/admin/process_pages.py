"""Pages about the node's processes: `/ready`, `/server_info`, `/memory`, `/hot_restart_version`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from meshproxy import __version__
from meshproxy.admin.config_dump import shown_node
from meshproxy.admin.http import Request, Response, text
from meshproxy.admin.mesh_pages import as_json
from meshproxy.admin.node import AdminNode

SMAPS_LINE = re.compile(r"^(Rss|Pss):\s+(\d+) kB", re.MULTILINE)


def ready(node: AdminNode, request: Request) -> Response:
    """200 only when workers answer and the node is not told to look unhealthy or to drain."""
    return text(node.view.server_state, 200 if node.view.serving else 503)


def server_info(node: AdminNode, request: Request) -> Response:
    """Who this node is, as Envoy tells it."""
    state = node.view.state
    return as_json(
        {
            "version": f"meshproxy/{__version__}/{'.'.join(map(str, sys.version_info[:3]))}",
            "state": node.view.server_state,
            "uptime_current_epoch": f"{int(node.view.uptime_s)}s",
            "uptime_all_epochs": f"{int(node.view.uptime_s)}s",
            "hot_restart_version": hot_restart(),
            "command_line_options": {
                "concurrency": len(state.workers),
                "config_path": state.config_file,
                "log_level": node.view.settings.log_level,
                "restart_epoch": state.restart_epoch,
                "mode": "Serve",
            },
            "node": shown_node(node.view),
            "config_version": state.config_version,
            "pid": state.pid,
        }
    )


def hot_restart() -> str:
    """What two builds must have in common to hand over to each other; the page of Envoy's `--hot-restart-version`."""
    return f"meshproxy.{__version__}"


def hot_restart_version(node: AdminNode, request: Request) -> Response:
    """One line."""
    return text(hot_restart())


def memory(node: AdminNode, request: Request) -> Response:
    """Of the whole node: shared pages are counted once (PSS). A process that may not be looked at has no numbers."""
    rows = [{"title": title, "pid": pid, **process_memory(pid)} for title, pid in processes(node)]
    total = sum(row.get("pss_bytes", 0) for row in rows)
    resident = sum(row.get("rss_bytes", 0) for row in rows)
    # `allocated` and the next are Envoy's names, so that what reads them there reads them here.
    return as_json({"allocated": str(total), "total_physical_bytes": str(total), "heap_size": str(resident), "processes": rows})


def processes(node: AdminNode) -> list[tuple[str, int]]:
    """All processes of the node that are alive, by title and pid."""
    state = node.view.state
    listed = [("master", state.pid), *((f"worker {row.slot}", row.pid) for row in state.workers if row.state != "GONE")]
    return listed + ([("agent", state.agent.pid)] if state.agent is not None else [])


def process_memory(pid: int) -> dict[str, int]:
    """`rss_bytes` and `pss_bytes`; {} when the kernel does not tell (gone, or of another user)."""
    try:
        smaps = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return {}
    return {f"{name.lower()}_bytes": int(kilobytes) * 1024 for name, kilobytes in SMAPS_LINE.findall(smaps)}
