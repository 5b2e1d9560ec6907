"""A fake collector: an HTTP server that keeps what is posted to it, and can refuse or hang. What real collectors make of spans is seen with
Zipkin (`peers.zipkin`)."""

from __future__ import annotations

import json
import os
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Collector:
    """`mode`: "take" (202), "forget" (202, and nothing is kept), "refuse" (503) or "hang" (no answer until it ends). `tls`: what is spoken
    over."""

    def __init__(self, mode: str = "take", cpus: set[int] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.mode = mode
        self._cpus = cpus
        self.bodies: list[bytes] = []
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.came = threading.Event()
        self._ended = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self._chunks() if "content-length" not in self.headers else self.rfile.read(int(self.headers["content-length"]))
                collector.came.set()
                if collector.mode == "hang":
                    collector._ended.wait()
                    return
                if collector.mode == "take":
                    collector.heads.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                    collector.bodies.append(body)
                self.send_response(503 if collector.mode == "refuse" else 202)
                self.send_header("content-length", "0")
                self.end_headers()

            def _chunks(self) -> bytes:
                """Envoy sends its reports so."""
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            # Shaken hands by the thread that serves the connection: who does not must not hold up the others.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        if self._cpus is not None:
            os.sched_setaffinity(0, self._cpus)  # of this thread, and of those that it starts
        self._server.serve_forever()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def zipkin_spans(self) -> list[dict[str, Any]]:
        """All spans of Zipkin's JSON."""
        return [span for body in list(self.bodies) for span in json.loads(body)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
