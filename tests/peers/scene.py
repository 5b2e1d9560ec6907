"""What a proxy is asked to do, in words that every peer's configuration can say. A benchmark is fair when its scene is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Scene:
    """One listener before one origin.

    With `routes` above 1 there are so many path prefixes (`/service-007/...`), each with a header of its own to add, spread over ten
    clusters that all lead to the origin; any other path is not found.
    """

    origin_port: int
    routes: int = 1
    access_log: Path | None = None
    statsd_port: int | None = None
    forwarded_headers: bool = False
    """Add x-forwarded-for and x-request-id where the peer does not do so anyway."""
    workers: int = 1
    upstream_idle_connections: int = 256

    @property
    def prefixes(self) -> list[str]:
        return ["/"] if self.routes == 1 else [f"/service-{number:03d}/" for number in range(self.routes)]

    @property
    def clusters(self) -> list[str]:
        return ["origin"] if self.routes == 1 else [f"origin-{number}" for number in range(min(10, self.routes))]

    def cluster_of(self, index: int) -> str:
        """The cluster of the route with that index."""
        return self.clusters[index % len(self.clusters)]
