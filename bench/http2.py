"""HTTP/2 over TLS, driven by h2load; `bench.tls` has the proxies."""

from __future__ import annotations

import re
import subprocess

from bench.loads import TlsLoad
from bench.measure import WRK_SLACK_S, Seen
from tests.peers.process import peer_environment, program


def drive(load: TlsLoad, port: int, seconds: float, cpus: set[int]) -> Seen:
    """Requests that succeeded. h2load tells no percentiles."""
    duration_s = max(1, round(seconds))
    done = subprocess.run(
        [
            "taskset", "-c", ",".join(map(str, sorted(cpus))), program("h2load", "nghttp2-client"), "-D", str(duration_s),
            "-c", str(load.connections), "-m", str(load.streams), f"https://127.0.0.1:{port}{load.path}",
        ],
        capture_output=True, text=True, timeout=duration_s + WRK_SLACK_S, env=peer_environment(),
    )  # fmt: skip
    found = re.search(r"requests: .* (\d+) succeeded, (\d+) failed", done.stdout)
    if found is None or "Application protocol: h2" not in done.stdout:
        raise RuntimeError(f"h2load ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-300:]}")
    return Seen(int(found[1]), duration_s, int(found[2]))
