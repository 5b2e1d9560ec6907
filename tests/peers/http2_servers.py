"""Servers that speak HTTP/2 in plaintext by prior knowledge, each by another implementation.

All answer `/` with "hello", `/large` with many bytes of "x", and echo a POST where they can (`echoes`).
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.peers.process import Peer, free_ports, program

LARGE_BYTES = 3_000_000

NODE = """
const server = require('http2').createServer();
server.on('stream', (stream, headers) => {
  if (headers[':method'] === 'POST') {
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-end': 'reached' }));
    stream.pipe(stream);
  } else if (headers[':path'] === '/large') {
    stream.respond({ ':status': 200, 'content-length': %d });
    stream.end(Buffer.alloc(%d, 120));
  } else {
    stream.additionalHeaders({ ':status': 103, link: '</a>' });
    stream.respond({ ':status': 200 });
    stream.end('hello');
  }
});
server.listen(%d, '127.0.0.1');
"""


class _Server(Peer):
    echoes = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_ports(1)[0]
        self.write()

    def write(self) -> None:
        """The configuration."""

    def ports(self) -> list[int]:
        return [self.port]


class NodeHttp2(_Server):
    """Node.js (nghttp2)."""

    name = "node"
    echoes = True

    def write(self) -> None:
        (self.directory / "server.js").write_text(NODE % (LARGE_BYTES, LARGE_BYTES, self.port))

    def command(self) -> list[str]:
        return [program("node", "nodejs"), "server.js"]


class NginxHttp2(_Server):
    name = "nginx-http2"

    def write(self) -> None:
        (self.directory / "large").write_bytes(b"x" * LARGE_BYTES)
        temp = "".join(f"{kind}_temp_path {kind}_temp; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.directory / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""} daemon off; pid nginx.pid; events {{ worker_connections 512; }}
http {{ {temp} access_log off;
  server {{ listen 127.0.0.1:{self.port} http2; root {self.directory};
    location = / {{ return 200 hello; }} location = /large {{ }} }} }}
""")

    def command(self) -> list[str]:
        return [program("nginx", "nginx-light"), "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]


class HaproxyHttp2(_Server):
    name = "haproxy-http2"

    def write(self) -> None:
        (self.directory / "large").write_bytes(b"x" * 12_000)
        (self.directory / "haproxy.cfg").write_text(f"""
defaults
  mode http
  timeout client 1m
frontend all
  bind 127.0.0.1:{self.port} proto h2
  http-request return status 200 content-type text/plain file {self.directory}/large if {{ path /large }}
  http-request return status 200 content-type text/plain string hello
""")

    def command(self) -> list[str]:
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]
