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
    traced: bool = False
    """meshproxy alone, without tracing and with all requests traced."""
    unit: str = "request"
    """What the cost is counted for."""

    @property
    def closes(self) -> bool:
        """Whether each request has a connection of its own."""
        return "Connection: close" in self.headers


@dataclasses.dataclass(frozen=True)
class TlsLoad(Load):
    """TLS to the proxy, plaintext behind it."""

    newest: str = "1.3"
    """The highest version that all proxies speak."""
    resumed: bool = False
    one_by_one: bool = False
    """By OpenSSL's client, which resumes TLS 1.3 too; wrk does so up to 1.2 only."""
    streams: int = 0
    """HTTP/2 with so many at a time on each connection; 0: HTTP/1."""


@dataclasses.dataclass(frozen=True)
class TcpLoad(Load):
    """Bytes relayed. `what` is a command of tcp.c, `per` so many of what it counts as `counted` are a unit."""

    what: str = ""
    counted: str = "exchanges"
    per: int = 1


@dataclasses.dataclass(frozen=True)
class GrpcLoad(Load):
    """Unary calls, `streams` at a time on each connection."""

    streams: int = 10


CLOSE = ("Connection: close",)
LOADS = {
    load.name: load
    for load in (
        Load("small", "2-byte answers, 64 keep-alive connections"),
        Load("64k", "64 KiB answers, 64 keep-alive connections", path="/64k", body_bytes=64 << 10),
        Load("1m", "1 MiB answers, 16 keep-alive connections", path="/1m", body_bytes=1 << 20, connections=16),
        Load("connect", "a new connection for each request, 64 at a time", headers=CLOSE),
        Load("c1000", "2-byte answers, 1,000 keep-alive connections", connections=1000),
        Load(
            "realistic", "100 routes, 10 request headers, access log to a file, statsd", routes=100, realistic=True, headers=REQUEST_HEADERS
        ),
        Load("filter", "2-byte answers through meshproxy, without and with an empty Python filter", filtered=True),
        Load("tracing", "2-byte answers through meshproxy, without and with a span of each request for Zipkin", traced=True),
        Load("workers", "2-byte answers, two workers against one", workers=2),
        TlsLoad("tls", "2-byte answers over TLS, 64 keep-alive connections"),
        TlsLoad("tls-64k", "64 KiB answers over TLS, 64 keep-alive connections", path="/64k", body_bytes=64 << 10),
        TlsLoad("tls-connect", "a new TLS 1.3 connection for each request, 64 at a time, none resumed", headers=CLOSE),
        TlsLoad("tls12-connect", "a new TLS 1.2 connection for each request, 64 at a time, none resumed", headers=CLOSE, newest="1.2"),
        TlsLoad("tls12-resume", "the same, all resumed", headers=CLOSE, newest="1.2", resumed=True),
        TlsLoad(
            "tls-resume", "a new TLS 1.3 connection for each request, one at a time, all resumed", connections=1, resumed=True,
            one_by_one=True,
        ),
        TlsLoad("h2", "2-byte answers, HTTP/2 over TLS, 16 connections with 10 streams each", connections=16, streams=10),
        TlsLoad(
            "h2-64k", "64 KiB answers, HTTP/2 over TLS, 16 connections with 4 streams each", path="/64k", body_bytes=64 << 10,
            connections=16, streams=4,
        ),
        GrpcLoad(
            "grpc", "unary gRPC, HTTP/2 to HTTP/2, 8 connections with 10 streams each; meshproxy and Envoy", connections=8, unit="call",
        ),
        TcpLoad("tcp", "8 connections receive as fast as they can", what="bulk", connections=8, counted="bytes", per=10**6, unit="MB"),
        TcpLoad("tcp-echo", "64 connections send 64 bytes and get them back", what="echo", unit="echo"),
        TcpLoad("tcp-connect", "64 at a time: connect, 64 bytes there and back, close", what="connect", unit="connection"),
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
ATTACKS = "attacks"
ALL_LOADS = [*LOADS, IDLE, START, *CHANGES, ATTACKS]
