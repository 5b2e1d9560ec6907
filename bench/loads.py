"""The loads: what is asked of every proxy, by name."""

from __future__ import annotations

import dataclasses

REQUEST_HEADERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: application/json, text/plain;q=0.9, */*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br",
    "Referer: https://shop.example.com/catalogue/items?page=1",
    "Cookie: session=3c9d2a4f5b6e7180; theme=dark; consent=necessary",
    "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl",
    "Cache-Control: no-cache",
    "X-Tenant: blue",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
"""Ten, as a browser behind a front door sends them."""


@dataclasses.dataclass(frozen=True)
class Load:
    """One load. `path` is asked for, or the paths of `routes` services in turn."""

    name: str
    about: str
    path: str = "/"
    body_bytes: int = 2
    connections: int = 64
    headers: tuple[str, ...] = ()
    routes: int = 1
    realistic: bool = False
    workers: int = 1
    filtered: bool = False
    """meshproxy alone, without and with a Python filter."""

    @property
    def closes(self) -> bool:
        """Whether each request has a connection of its own."""
        return "Connection: close" in self.headers


LOADS = {
    load.name: load
    for load in (
        Load("small", "2-byte answers, 64 keep-alive connections"),
        Load("64k", "64 KiB answers, 64 keep-alive connections", path="/64k", body_bytes=64 << 10),
        Load("1m", "1 MiB answers, 16 keep-alive connections", path="/1m", body_bytes=1 << 20, connections=16),
        Load("connect", "a new connection for each request, 64 at a time", headers=("Connection: close",)),
        Load("c1000", "2-byte answers, 1,000 keep-alive connections", connections=1000),
        Load(
            "realistic", "100 routes, 10 request headers, access log to a file, statsd", routes=100, realistic=True, headers=REQUEST_HEADERS
        ),
        Load("filter", "2-byte answers through meshproxy, without and with an empty Python filter", filtered=True),
        Load("workers", "2-byte answers, two workers against one", workers=2),
    )
}
IDLE = "idle"
START = "start"
CHANGES = {
    "reload": "50 reloads of a small configuration, one a second and then without a pause, and an upgrade",
    "big-reload": "`meshproxy reload` of 1,000 clusters and 10,000 routes in the native form",
    "big-reload-envoy": "the same in Envoy's form",
    "kill": "kill -9 of one of two workers, ten times",
}
"""Of meshproxy alone, with two workers under a steady load."""
ALL_LOADS = [*LOADS, IDLE, START, *CHANGES]
