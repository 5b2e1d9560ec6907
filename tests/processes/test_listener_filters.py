"""What listener filters find in a connection's first bytes, and that they leave the bytes to whoever serves it.

On Envoy too: MESHPROXY_TESTS_ON=envoy.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import hellos, proxy_headers
from tests.oracles import detect
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.processes.conftest import ON_ENVOY
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, get

Json = dict[str, Any]
FILTERS = f"{bootstrap.TYPES}.extensions.filters"
HELLO = hellos.records(hellos.message(hellos.browser_like(b"a.test")), 60)
NEVER = "600s"


def tls_inspector() -> Json:
    return {"name": "tls", "typed_config": {"@type": f"{FILTERS}.listener.tls_inspector.v3.TlsInspector"}}


def http_inspector() -> Json:
    return {"name": "http", "typed_config": {"@type": f"{FILTERS}.listener.http_inspector.v3.HttpInspector"}}


def proxy_protocol(**settings: Any) -> Json:
    return {"name": "proxy", "typed_config": {"@type": f"{FILTERS}.listener.proxy_protocol.v3.ProxyProtocol", **settings}}


def saying(text: str, **match: Any) -> Json:
    """A chain that says `text` and closes."""
    config = {"@type": f"{FILTERS}.network.direct_response.v3.Config", "response": {"inline_string": text}}
    return {"filter_chain_match": match, "filters": [{"name": "answer", "typed_config": config}]}


def echo(**match: Any) -> Json:
    """A chain that sends back what comes."""
    return {"filter_chain_match": match, "filters": [{"name": "echo", "typed_config": {"@type": f"{FILTERS}.network.echo.v3.Echo"}}]}


def listener(filters: list[Json], chains: list[Json], **settings: Any) -> Json:
    return {"listener_filters": filters, "filter_chains": chains, **settings}


class Proxy:
    """A running proxy with named listeners."""

    def __init__(self, peer: Peer, ports: dict[str, int], admin_port: int) -> None:
        self.peer = peer
        self.ports = ports
        self.admin_port = admin_port

    def connect(self, name: str) -> Client:
        return Client(self.ports[name])

    def said(self, name: str, data: bytes) -> bytes:
        """What one connection is answered, sent byte by byte where it is short."""
        with self.connect(name) as client:
            # It may answer and close before it has seen all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send_split(data, *range(1, len(data) if len(data) < 200 else 1))
            return client.rest()

    def counter(self, name: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/stats?format=json&filter={name}", timeout=20) as answer:
            found = {row["name"]: row["value"] for row in json.load(answer)["stats"] if "value" in row}
        return sum(value for key, value in found.items() if key.endswith(name))

    def wait_counter(self, name: str, value: int) -> None:
        assert wait_until(lambda: self.counter(name) == value, 20, self.peer.pid), f"{name} is {self.counter(name)}, not {value}"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Proxy]]:
    started: list[Peer] = []

    def begin(listeners: dict[str, Json], clusters: list[Json] | None = None) -> Proxy:
        directory = tmp_path_factory.mktemp("filters")
        *ports, admin_port = free_ports(len(listeners) + 1)
        named = dict(zip(listeners, ports, strict=True))
        whole = [{"name": name, "address": bootstrap.address(named[name]), **row} for name, row in listeners.items()]
        config = bootstrap.bootstrap(whole, clusters or [], admin_port)
        try:
            peer = Envoy(directory, config, [*ports, admin_port]) if ON_ENVOY else Node(directory, config)
        except PeerMissingError as error:
            pytest.skip(str(error))
        started.append(peer.start())
        return Proxy(peer, named, admin_port)

    yield begin
    for peer in started:
        peer.stop()
        assert not isinstance(peer, Node) or not peer.wreckage(), peer.output()[-3000:]


@pytest.fixture(scope="module")
def proxy(start: Callable[..., Proxy]) -> Proxy:
    names = [
        saying("exact", server_names=["a.test"]), saying("suffix", server_names=["*.test"]), saying("h2", application_protocols=["h2"]),
        saying("plain", transport_protocol="raw_buffer"), saying("other tls"),
    ]  # fmt: skip
    tls = [saying("tls", transport_protocol="tls"), echo(transport_protocol="raw_buffer")]
    http = [
        saying("1.1", application_protocols=["http/1.1"]), saying("1.0", application_protocols=["http/1.0"]),
        saying("h2c", application_protocols=["h2c"]), echo(),
    ]  # fmt: skip
    sources = [saying("from 192.0.2", source_prefix_ranges=[{"address_prefix": "192.0.2.0", "prefix_len": 24}]), echo()]
    soon = {"listener_filters_timeout": "0.1s"}
    return start({
        "names": listener([tls_inspector()], names),
        "tls": listener([tls_inspector()], tls),
        "http": listener([tls_inspector(), http_inspector()], http, listener_filters_timeout=NEVER),
        "proxied": listener([proxy_protocol()], sources),
        "perhaps": listener([proxy_protocol(allow_requests_without_proxy_protocol=True, disallowed_versions=["V2"])], [echo()]),
        "only v1": listener([proxy_protocol(disallowed_versions=["V2"], stat_prefix="strict")], [echo()]),
        "both": listener([proxy_protocol(), tls_inspector()], [saying("tls", transport_protocol="tls"), echo()]),
        "patient": listener([tls_inspector()], [saying("welcome")], **soon, continue_on_listener_filters_timeout=True),
        "strict": listener([tls_inspector()], [saying("welcome")], **soon),
        "eager": listener([], [saying("welcome")]),
    })  # fmt: skip


def test_a_chain_is_chosen_by_the_name_in_the_hello(proxy: Proxy) -> None:
    def hello(*extensions: tuple[int, bytes]) -> bytes:
        return hellos.records(hellos.message([*extensions]))

    assert proxy.said("names", hello(hellos.server_name(b"A.Test"))) == b"exact"
    assert proxy.said("names", hello(hellos.server_name(b"x.y.test"))) == b"suffix"
    assert proxy.said("names", hello(hellos.server_name(b"other"), hellos.alpn(b"x", b"h2"))) == b"h2"
    assert proxy.said("names", hello(hellos.server_name(b"other"))) == b"other tls"
    assert proxy.said("names", HELLO) == b"exact"
    assert proxy.said("names", b"plain") == b"plain"


@pytest.mark.skipif(ON_ENVOY, reason="Envoy waits for five bytes")
def test_what_is_no_tls_is_known_by_its_first_byte_and_stays_whole(proxy: Proxy) -> None:
    with proxy.connect("tls") as client:
        for piece in (b"H", b"ELLO", b"\x16\x03\x01"):
            client.send(piece)
            assert client.exactly(len(piece)) == piece


def test_bytes_that_only_begin_like_tls_stay_whole(proxy: Proxy) -> None:
    with proxy.connect("tls") as client:
        for piece in (b"\x16", b"\x03", b"\x01\x00"):
            client.send(piece)
        client.send(b"\x05\x02 no hello")

        assert client.exactly(15) == b"\x16\x03\x01\x00\x05\x02 no hello"


@pytest.mark.skipif(ON_ENVOY, reason="Envoy closes")
def test_who_has_said_all_is_not_waited_for(proxy: Proxy) -> None:
    """A half-closed client sends no more: what it sent is all that the filters will see."""
    with proxy.connect("tls") as client:
        client.send(b"\x16\x03")
        client.sock.shutdown(socket.SHUT_WR)

        assert client.rest() == b"\x16\x03"


def test_which_http(proxy: Proxy) -> None:
    assert proxy.said("http", b"GET / HTTP/1.1\r\n") == b"1.1"
    assert proxy.said("http", b"GET / HTTP/1.0\r\n") == b"1.0"
    assert proxy.said("http", detect.PREFACE) == b"h2c"
    assert proxy.said("http", hellos.records(hellos.message([hellos.alpn(b"http/1.1")]))) == b"1.1"


@pytest.mark.skipif(ON_ENVOY, reason="Envoy waits for five bytes, and of some of these for the end of the line")
def test_what_is_no_http_is_known_as_soon_as_it_differs(proxy: Proxy) -> None:
    """The time limit is minutes: a line that is no HTTP does not wait for its end."""
    for data in (b"\x00\x01", b"*1\r\n$4\r\nPING\r\n", b"GET\t", b"SSH-2.0-x\r\n"):
        with proxy.connect("http") as client:
            client.send(data)
            assert client.exactly(len(data)) == data


def test_the_client_that_a_header_names(proxy: Proxy) -> None:
    for name in ("TCP4", "v2, IPv4", "v2, TLVs"):
        assert proxy.said("proxied", proxy_headers.GOOD[name]) == b"from 192.0.2", name


@pytest.mark.parametrize("name", ["TCP6", "UNKNOWN", "v2, IPv6", "v2, LOCAL", "v2, LOCAL with things to ignore", "v2, checksum"])
def test_of_a_header_no_byte_is_left_and_none_behind_it_is_taken(proxy: Proxy, name: str) -> None:
    with proxy.connect("proxied") as client:
        header = proxy_headers.GOOD[name]
        client.send_split(header + b"one", *range(1, len(header)))
        assert client.exactly(3) == b"one"
        client.send(b"two")
        assert client.exactly(3) == b"two"


@pytest.mark.skipif(ON_ENVOY, reason="Envoy refuses what names no IP addresses")
@pytest.mark.parametrize("name", ["v2, UNSPEC", "v2, UNIX", "v2, UNSPEC transport", "v2, as long as may be"])
def test_headers_that_name_no_client_leave_the_sockets_own(proxy: Proxy, name: str) -> None:
    with proxy.connect("proxied") as client:
        client.send(proxy_headers.GOOD[name] + b"one")
        if name == "v2, as long as may be":
            assert client.rest() == b"from 192.0.2"
        else:
            assert client.exactly(3) == b"one"


@pytest.mark.parametrize("name", ["two spaces", "no CR", "IPv6 as TCP4", "multicast", "v2, command 2", "v2, TLV beyond the end"])
def test_a_wrong_header_ends_the_connection(proxy: Proxy, name: str) -> None:
    if ON_ENVOY and name == "two spaces":
        pytest.skip("Envoy takes several spaces")
    with proxy.connect("proxied") as client:
        client.send(proxy_headers.BAD[name] + b"GET / HTTP/1.1\r\n\r\n")
        assert client.rest() == b""


def test_without_a_header(proxy: Proxy) -> None:
    with proxy.connect("proxied") as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.rest() == b""
    with proxy.connect("perhaps") as client:
        client.send_split(b"PROXIMA", 3)
        assert client.exactly(7) == b"PROXIMA"


def test_a_version_that_is_not_wanted(proxy: Proxy) -> None:
    """Refused where a header must come; where none has to, it is no header."""
    with proxy.connect("only v1") as client:
        client.send(proxy_headers.PLAIN + b"x")
        assert client.rest() == b""
    with proxy.connect("perhaps") as client:
        client.send(proxy_headers.PLAIN)
        assert client.exactly(len(proxy_headers.PLAIN)) == proxy_headers.PLAIN
    with proxy.connect("only v1") as client:
        client.send(proxy_headers.GOOD["TCP4"] + b"x")
        assert client.exactly(1) == b"x"


def test_tls_behind_a_header(proxy: Proxy) -> None:
    assert proxy.said("both", proxy_headers.GOOD["TCP4"] + HELLO) == b"tls"
    with proxy.connect("both") as client:
        client.send(proxy_headers.GOOD["v2, IPv4"])
        client.send(b"plain")
        assert client.exactly(5) == b"plain"


def test_a_server_that_speaks_first_is_not_held_up(proxy: Proxy) -> None:
    """Without filters at once; with them after their time limit."""
    for name in ("eager", "patient"):
        with proxy.connect(name) as client:
            assert client.rest() == b"welcome"


def test_who_says_nothing_in_time_is_closed_where_that_is_so_configured(proxy: Proxy) -> None:
    with proxy.connect("strict") as client:
        assert client.rest() == b""
    with proxy.connect("strict") as client:
        client.send(b"\x16\x03\x01")
        assert client.rest() == b""


def test_what_happened_is_counted(start: Callable[..., Proxy]) -> None:
    chains = [saying("tls", transport_protocol="tls"), saying("plain")]
    proxy = start({
        "mixed": listener([tls_inspector(), http_inspector()], chains, listener_filters_timeout=NEVER),
        "proxied": listener([proxy_protocol()], [saying("ok")], listener_filters_timeout="0.1s"),
        "named": listener([proxy_protocol(stat_prefix="outer", allow_requests_without_proxy_protocol=True)], [saying("ok")]),
    })  # fmt: skip
    proxy.said("mixed", HELLO)
    proxy.said("mixed", hellos.GOOD["no extensions"])
    for line in (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", detect.PREFACE, bytes(6)):
        proxy.said("mixed", line)
    proxy.said("proxied", proxy_headers.GOOD["TCP4"])
    proxy.said("proxied", proxy_headers.GOOD["v2, IPv4"])
    proxy.said("proxied", proxy_headers.BAD["no address"])
    proxy.said("proxied", proxy_headers.BAD["v2, command 2"])
    proxy.said("proxied", b"PROXY TCP4")
    proxy.said("named", b"none")
    proxy.connect("mixed").close()

    for name, value in {
        "tls_inspector.tls_found": 2, "tls_inspector.tls_not_found": 4, "tls_inspector.sni_found": 1, "tls_inspector.sni_not_found": 1,
        "tls_inspector.alpn_found": 1, "tls_inspector.alpn_not_found": 1,
        "http_inspector.http11_found": 1, "http_inspector.http10_found": 1, "http_inspector.http2_found": 1,
        "http_inspector.http_not_found": 1,
        "proxy_proto.versions.v1.found": 1, "proxy_proto.versions.v2.found": 1,
        "proxy_proto.versions.v1.error": 1, "proxy_proto.versions.v2.error": 1, "proxy_proto.outer.not_found_allowed": 1,
        f"{proxy.ports['proxied']}.downstream_pre_cx_timeout": 1,
        f"{proxy.ports['mixed']}.downstream_pre_cx_active": 0,
    }.items():  # fmt: skip
        proxy.wait_counter(name, value)
    assert proxy.counter(f"{proxy.ports['mixed']}.downstream_listener_filter_remote_close") >= 1


LOG_LINE = (
    "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %REQUESTED_SERVER_NAME%\n"
)


def test_http_behind_a_header_knows_the_client(start: Callable[..., Proxy], tmp_path: Path) -> None:
    """Forwarded-for, and the addresses in the access log."""
    log = tmp_path / "log"
    with Origin() as origin:
        routes = [bootstrap.virtual_host([bootstrap.route("/", "origin")])]
        manager = bootstrap.http_listener("x", 0, routes, use_remote_address=True, access_log=[bootstrap.file_log(str(log), LOG_LINE)])
        http = listener([proxy_protocol(), http_inspector()], manager["filter_chains"])
        proxy = start({"http": http}, clusters=[bootstrap.cluster("origin", origin.port)])
        for header in (proxy_headers.GOOD["TCP4"], proxy_headers.GOOD["v2, IPv6"], proxy_headers.GOOD["v2, LOCAL"]):
            with proxy.connect("http") as client:
                assert client.ask(header + get("/", "a.test", "Connection: close")).status == 200
        seen = [origin.next_request().header("x-forwarded-for") for _ in range(3)]
        assert wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 3, 20, proxy.peer.pid)

    assert seen[:2] == ["192.0.2.1", "2001:db8::1"]
    told = [line.split(" ") for line in log.read_text().splitlines()]
    assert told[0] == ["192.0.2.1:56324", "198.51.100.7:443", "127.0.0.1", "-"]
    assert told[1] == ["[2001:db8::1]:1", "[2001:db8::2]:65535", "127.0.0.1", "-"]
    assert told[2][0].startswith("127.0.0.1:")
    assert told[2][1] == f"127.0.0.1:{proxy.ports['http']}"


LIMITED = """
admin: 127.0.0.1:0
overload: {max_worker_connections: 3}
listeners:
- {name: only, address: "127.0.0.1:0", echo: true, listener_filters: [tls_inspector], listener_filters_timeout: 10m}
"""


@pytest.mark.skipif(ON_ENVOY, reason="Envoy has no such limit")
def test_clients_that_say_nothing_take_no_place_of_those_that_do(node_of: Callable[..., Node]) -> None:
    """At the worker's limit the one that has been silent longest goes."""
    node = node_of(LIMITED, workers=1)
    port = node.port_of("only")
    proxy = Proxy(node, {"only": port}, int(node.status()["admin"].rpartition(":")[2]))
    silent = [proxy.connect("only") for _ in range(3)]
    proxy.wait_counter("downstream_pre_cx_active", 3)
    with proxy.connect("only") as client:
        client.send(b"hello")
        assert client.exactly(5) == b"hello"
        assert silent[0].rest() == b""
        silent[2].send(b"late")
        assert silent[2].exactly(4) == b"late"
    proxy.wait_counter("downstream_pre_cx_overflow", 1)
    for client in silent:
        client.close()


@pytest.mark.skipif(ON_ENVOY, reason="of our own drain")
def test_who_has_begun_to_speak_is_served_to_the_end_of_a_node(node_of: Callable[..., Node]) -> None:
    """A drain closes who has said nothing, and waits for the others."""
    node = node_of(LIMITED, workers=1)
    port = node.port_of("only")
    with Client(port) as silent, Client(port) as begun:
        begun.send(b"\x16\x03")
        proxy = Proxy(node, {}, int(node.status()["admin"].rpartition(":")[2]))
        proxy.wait_counter("downstream_pre_cx_active", 2)
        node.signal(signal.SIGTERM)
        assert silent.rest() == b""
        begun.send(b"no hello")
        assert begun.exactly(10) == b"\x16\x03no hello"
    node.expected_end = True


@pytest.mark.skipif(ON_ENVOY, reason="of our own reload")
def test_who_waits_through_a_reload_is_served_by_the_new_configuration(node_of: Callable[..., Node]) -> None:
    """The filters are those that it met, the chains those that hold when they are done."""
    before = listener([proxy_protocol(stat_prefix="before")], [saying("before")], listener_filters_timeout=NEVER)
    after = listener([http_inspector()], [saying("after")], listener_filters_timeout=NEVER)
    (port,) = free_ports(1)
    config = [bootstrap.bootstrap([{"name": "only", "address": bootstrap.address(port), **row}], [], 0) for row in (before, after)]
    node = node_of(config[0], workers=1)
    proxy = Proxy(node, {"only": port}, int(node.status()["admin"].rpartition(":")[2]))
    with proxy.connect("only") as waiting:
        proxy.wait_counter("downstream_pre_cx_active", 1)
        node.configure(config[1])
        assert node.reload().returncode == 0
        assert proxy.said("only", b"GET / HTTP/1.1\r\n") == b"after"
        waiting.send(proxy_headers.GOOD["TCP4"])
        assert waiting.rest() == b"after"
    proxy.wait_counter("http_inspector.http11_found", 1)
