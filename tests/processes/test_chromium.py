"""Chromium over HTTPS: a page with many images on one HTTP/2 connection, an upload, a WebSocket. The long form only: `--long`."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.processes.test_tls import Certificates, common, downstream
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import Node, wait_until

LIMIT_S = 20.0
IMAGES = 50
UPLOAD_BYTES = 3_000_000
LOG = "%PROTOCOL% %REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %CONNECTION_ID%\n"
PAGE = b"<!doctype html><title>mesh</title>" + b"".join(b'<img src="/image/%d.png">' % number for number in range(IMAGES))
PROTOCOLS = """() => performance.getEntriesByType('resource').filter(each => each.name.includes('/image/'))
  .map(each => each.nextHopProtocol)"""
LOADED = "() => [...document.images].map(each => each.complete ? each.naturalWidth : 0)"
UPLOAD = """async size => {
  const sent = new Uint8Array(size).map((_, place) => place % 251);
  const answer = await fetch('/echo', {method: 'POST', body: sent});
  const got = new Uint8Array(await answer.arrayBuffer());
  return [answer.status, got.length, got.every((byte, place) => byte === sent[place])];
}"""
CHAT = """() => new Promise((resolve, reject) => {
  const socket = new WebSocket(`wss://${location.host}/chat`), heard = [];
  socket.onerror = () => reject(new Error('the WebSocket failed'));
  socket.onopen = () => { socket.send('hello'); socket.send('x'.repeat(200000)); };
  socket.onmessage = event => { heard.push(event.data); if (heard.length === 2) socket.close(1000); };
  socket.onclose = event => resolve([event.code, heard[0], heard[1].length]);
})"""


def image(number: int) -> bytes:
    """A PNG that is one pixel high and `number` + 1 wide, so that no two are alike."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", number + 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(number + 2))) + chunk(b"IEND", b"")


def serve(connection: Connection, request: Request) -> None:
    kind, body = "text/html", PAGE
    if request.target.startswith("/image/"):
        kind, body = "image/png", image(int(request.target.removeprefix("/image/").removesuffix(".png")))
    elif request.method == "POST":
        kind, body = "application/octet-stream", request.body
    connection.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@dataclasses.dataclass
class Site:
    page: Any
    """Playwright's, on the site's first page."""
    log: Path

    def logged(self, path: str, count: int = 1) -> list[tuple[str, str, str]]:
        """Protocol, status and connection of `count` requests whose path begins so."""
        def found() -> list[tuple[str, str, str]]:
            lines = [line.split(" ") for line in self.log.read_text().splitlines()] if self.log.exists() else []
            rows = [(line[0], line[3], line[4]) for line in lines if len(line) == 5 and line[2].startswith(path)]
            return rows if len(rows) >= count else []

        return wait_until(found, LIMIT_S)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, long_run: bool) -> Iterator[Site]:
    if not long_run:
        pytest.skip("a browser takes its time: --long")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    log = tmp_path_factory.mktemp("log") / "log"
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(serve))
        chat = stack.enter_context(chatting())
        node = stack.enter_context(Node(tmp_path_factory.mktemp("node"), configuration(certificates, origin.port, chat, log)))
        port = node.port_of("site")
        running = stack.enter_context(playwright.sync_playwright())
        arguments = [f"--host-resolver-rules=MAP mesh.test 127.0.0.1:{port}", "--no-proxy-server"]
        chromium = running.chromium.launch(executable_path=browser, args=arguments, chromium_sandbox=False)
        stack.callback(chromium.close)
        page = chromium.new_page(ignore_https_errors=True)
        page.goto("https://mesh.test/", wait_until="load")
        yield Site(page, log)
        assert origin.failures == []


@contextlib.contextmanager
def chatting() -> Iterator[int]:
    """A WebSocket server that says each message again; its port."""
    from websockets.sync.server import serve as serve_websocket

    with serve_websocket(lambda socket: [socket.send(message) for message in socket], "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()


def configuration(certificates: Certificates, origin: int, chat: int, log: Path) -> bootstrap.Json:
    routes = [bootstrap.route("/chat", {"cluster": "chat", "timeout": "0s"}), bootstrap.route("/", "origin")]
    listener = bootstrap.http_listener(
        "site", 0, [bootstrap.virtual_host(routes)], access_log=[bootstrap.file_log(str(log), LOG)],
        upgrade_configs=[{"upgrade_type": "websocket"}], http2_protocol_options={"allow_connect": True},
    )  # fmt: skip
    listener["filter_chains"][0]["transport_socket"] = downstream(common(certificates, alpn_protocols=["h2", "http/1.1"]))
    return bootstrap.bootstrap([listener], [bootstrap.cluster("origin", origin), bootstrap.cluster("chat", chat)])


def test_fifty_images_come_over_one_connection(site: Site) -> None:
    assert site.page.title() == "mesh"
    assert site.page.evaluate(LOADED) == list(range(1, IMAGES + 1))
    assert site.page.evaluate(PROTOCOLS) == ["h2"] * IMAGES
    ((protocol, status, _),) = set(site.logged("/image/", IMAGES))
    assert (protocol, status) == ("HTTP/2", "200")


def test_an_upload_comes_back_whole(site: Site) -> None:
    assert site.page.evaluate(UPLOAD, UPLOAD_BYTES) == [200, UPLOAD_BYTES, True]


def test_a_websocket_over_http2(site: Site) -> None:
    assert site.page.evaluate(CHAT) == [1000, "hello", 200_000]
    ((protocol, status, connection),) = site.logged("/chat")
    assert (protocol, status) == ("HTTP/2", "101")       # what the endpoint said; to the browser it is 200 (RFC 8441 section 5)
    assert connection == site.logged("/image/")[0][2]
