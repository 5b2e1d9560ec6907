"""Nanoseconds of CPU to find a route, and what it takes to compile and to free a table.

    python -m bench.micro.bench_router [--seconds S]

Each row is the best of five runs of `--seconds` / 5: the machine's noise only ever adds. The route that is asked for is the last but one;
behind it is a catch-all, as in most tables. With conditions, every route of the table has them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from meshproxy.clock import monotonic_ns
from meshproxy.model import ForwardAction, HeaderMatch, PathMatch, Route, RouteTable, StringMatch, VirtualHost, WeightedCluster
from meshproxy.proxy.router import Router, compile_router, compile_slices

RUNS = 5
SLICE_NS = 1_000_000
ACTION = ForwardAction(clusters=(WeightedCluster(name="c"),))
CONDITIONS = (
    HeaderMatch(name="x-tenant", string=StringMatch("exact", "blue")),
    HeaderMatch(name="user-agent", string=StringMatch("prefix", "curl/")),
    HeaderMatch(name="x-release", present=True),
)
HEADERS = [
    ("User-Agent", "curl/8.5.0"), ("Accept", "*/*"), ("Accept-Encoding", "gzip, br"), ("X-Forwarded-For", "198.51.100.17"),
    ("X-Request-ID", "3f2b8c1e-7a44-4c0f-9a51-0d5b8f0e2c77"), ("Cookie", "session=0123456789abcdef"), ("X-Tenant", "blue"),
    ("X-Release", "7"),
]
Path = Callable[[int], PathMatch]
KINDS: dict[str, Path] = {
    "prefix": lambda number: PathMatch("prefix", f"/service/{number}/"),
    "exact": lambda number: PathMatch("exact", f"/service/{number}/item"),
    "regex": lambda number: PathMatch("regex", f"/service/{number}/[a-z]+"),
}


def table(kind: str, count: int, headers: tuple[HeaderMatch, ...] = ()) -> RouteTable:
    """`count` routes, the last of them for everything."""
    paths = [KINDS[kind](number) for number in range(count - 1)] + [PathMatch("prefix", "/")]
    routes = tuple(Route(path=path, action=ACTION, headers=headers) for path in paths)
    return RouteTable(name="t", virtual_hosts=(VirtualHost(name="v", domains=("*.example.com",), routes=routes),))


def find_ns(router: Router, path: str, seconds: float) -> float:
    times = 1000
    begin = time.process_time_ns()
    assert router.repeat_find("GET", "www.example.com", path, HEADERS, times) == times, "there is no such route"
    per_call_ns = max((time.process_time_ns() - begin) / times, 1.0)
    times = max(int(seconds / RUNS * 1e9 / per_call_ns), times)
    best = float("inf")
    for _ in range(RUNS):
        begin = time.process_time_ns()
        router.repeat_find("GET", "www.example.com", path, HEADERS, times)
        best = min(best, (time.process_time_ns() - begin) / times)
    return best


def print_compiling(count: int) -> None:
    routes = table("prefix", count)
    begin = monotonic_ns()
    router = compile_router(routes)
    compiled_ms = (monotonic_ns() - begin) / 1e6
    longest_ns, begin = 0, monotonic_ns()
    for _ in compile_slices(routes, SLICE_NS, monotonic_ns):
        now = monotonic_ns()
        longest_ns, begin = max(longest_ns, now - begin), now
    begin = monotonic_ns()
    del router
    freed_ms = (monotonic_ns() - begin) / 1e6
    print(f"{count} routes: compiled in {compiled_ms:.1f} ms, longest slice {longest_ns / 1e6:.2f} ms, freed in {freed_ms:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description="Nanoseconds of CPU to find a route.")
    parser.add_argument("--seconds", type=float, default=0.25, help="for each row")
    options = parser.parse_args()
    print(f"{'routes':<10}{'number':>8}{'headers matched':>17}{'ns':>10}")
    for kind in KINDS:
        for count in (1, 5, 11, 12, 100, 10_000):
            for headers in ((), CONDITIONS):
                if kind == "regex" and count > 100:
                    continue                     # patterns are looked at one by one
                path = f"/service/{count - 2}/item" if count > 1 else "/"
                ns = find_ns(compile_router(table(kind, count, headers)), path, options.seconds)
                print(f"{kind:<10}{count:>8}{len(headers):>17}{ns:>10.1f}")
    print_compiling(10_000)


if __name__ == "__main__":
    main()
