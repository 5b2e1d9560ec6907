"""Nanoseconds of CPU for the HTTP/1 codec's work on one head or one body.

    python -m bench.micro.bench_http1 [--seconds S]

Each row is the best of five runs of `--seconds` / 5: the machine's noise only ever adds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from meshproxy.codecs import http1

RUNS = 5

BROWSER_LINES = [
    b"Host: www.example.com",
    b"Connection: keep-alive",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0 Safari/537.36",
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    b"Accept-Encoding: gzip, deflate, br",
    b"Accept-Language: en-GB,en;q=0.9",
    b"Referer: https://www.example.com/catalogue/42",
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
    b"X-Request-ID: 3f2b8c1e-7a44-4c0f-9a51-0d5b8f0e2c77",
    b"X-Forwarded-For: 198.51.100.17",
]
CURL_LINES = [b"Host: a:8080", b"User-Agent: curl/8.5.0", b"Accept: */*"]
ORIGIN_LINES = [
    b"Server: nginx/1.24.0", b"Date: Tue, 24 Nov 2026 15:00:00 GMT", b"Content-Type: application/json", b"Content-Length: 512",
    b'ETag: "1a2b"',
]
TRACING_LINES = [b"X-Custom-Header-%02d: value-of-the-header-number-%02d" % (n, n) for n in range(20)]


def head(first_line: bytes, lines: list[bytes]) -> bytes:
    return b"\r\n".join([first_line, *lines, b"", b""])


def chunked(size: int, count: int) -> bytes:
    return (b"%x\r\n" % size + b"x" * size + b"\r\n") * count + b"0\r\n\r\n"


LOADS: list[tuple[str, Callable[[bytes, int], int], bytes]] = [
    ("request, 1 header", http1.repeat_request, head(b"GET / HTTP/1.1", [b"Host: a"])),
    ("request, curl's 3 headers", http1.repeat_request, head(b"GET /a HTTP/1.1", CURL_LINES)),
    ("request, 10 headers", http1.repeat_request, head(b"GET /catalogue/42?colour=blue HTTP/1.1", BROWSER_LINES)),
    ("request, 30 headers", http1.repeat_request, head(b"GET /catalogue/42?colour=blue HTTP/1.1", BROWSER_LINES + TRACING_LINES)),
    ("response, 5 headers", http1.repeat_response, head(b"HTTP/1.1 200 OK", ORIGIN_LINES)),
    ("chunked body, 1 x 16 bytes", http1.repeat_chunked, chunked(16, 1)),
    ("chunked body, 100 x 16 bytes", http1.repeat_chunked, chunked(16, 100)),
    ("chunked body, 16 x 4096 bytes", http1.repeat_chunked, chunked(4096, 16)),
]


def best_ns(work: Callable[[bytes, int], int], data: bytes, seconds: float) -> float:
    """Nanoseconds of CPU per call."""
    begin = time.process_time_ns()
    assert work(data, 1000) > 0, "the load is not what the codec reads"
    per_call_ns = max((time.process_time_ns() - begin) / 1000, 1.0)
    times = max(int(seconds / RUNS * 1e9 / per_call_ns), 1000)
    best = float("inf")
    for _ in range(RUNS):
        begin = time.process_time_ns()
        work(data, times)
        best = min(best, (time.process_time_ns() - begin) / times)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Nanoseconds of CPU per head and body.")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row")
    options = parser.parse_args()
    print(f"{'what':<32}{'bytes':>8}{'ns':>10}{'GB/s':>8}")
    for name, work, data in LOADS:
        ns = best_ns(work, data, options.seconds)
        print(f"{name:<32}{len(data):>8}{ns:>10.1f}{len(data) / ns:>8.2f}")


if __name__ == "__main__":
    main()
