"""TLS on both sides of a real proxy: who is served, what endpoints learn of clients, what the log says, and that nothing is lost meanwhile.

On Envoy too: MESHPROXY_TESTS_ON=envoy.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.processes.conftest import ON_ENVOY
from tests.support.certificates import Authority
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Answer, Client, ClosedError, Stream, get

Json = dict[str, Any]
TLS = f"{bootstrap.TYPES}.extensions.transport_sockets.tls.v3"
OURS_ONLY = pytest.mark.skipif(ON_ENVOY, reason="not what Envoy does")


class Certificates:
    """Everybody's certificates, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.server = self.authority.issue("mesh.test", "spiffe://mesh/ns/server")
        self.clients = {
            "good": self.authority.issue("client.test", "spiffe://mesh/ns/a", subject="a client"),
            "other name": self.authority.issue("elsewhere.test", "spiffe://else/ns/a"),
            "foreign": Authority("somebody's").issue("client.test", "spiffe://mesh/ns/a"),
            "expired": self.authority.issue("client.test", valid_from_days=-9, valid_days=-1),
            "revoked": self.authority.issue("client.test"),
        }
        (folder / "ca.pem").write_bytes(self.authority.pem)
        (folder / "crl.pem").write_bytes(self.authority.crl(self.clients["revoked"]))
        self.server.write(folder, "server")
        for name, issued in self.clients.items():
            issued.write(folder, name)

    def file(self, name: str) -> Json:
        return {"filename": str(self.folder / name)}

    def pair(self, name: str) -> Json:
        """An Envoy TlsCertificate."""
        return {"certificate_chain": self.file(f"{name}.pem"), "private_key": self.file(f"{name}.key")}

    def client(self, name: str | None = None, **settings: Any) -> ssl.SSLContext:
        """Python's client with that certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if name is not None:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        for setting, value in settings.items():
            setattr(context, setting, value)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def downstream(common: Json, **settings: Any) -> Json:
    return {"name": "tls", "typed_config": {"@type": f"{TLS}.DownstreamTlsContext", "common_tls_context": common, **settings}}


def upstream(common: Json, **settings: Any) -> Json:
    return {"name": "tls", "typed_config": {"@type": f"{TLS}.UpstreamTlsContext", "common_tls_context": common, **settings}}


class Proxy:
    """A running proxy with named listeners."""

    def __init__(self, peer: Peer, ports: dict[str, int]) -> None:
        self.peer = peer
        self.ports = ports

    def connect(self, listener: str, client: ssl.SSLContext | None, session: ssl.SSLSession | None = None) -> Stream:
        """A TLS connection whose handshake is done; without `client` plaintext."""
        sock = socket.create_connection(("127.0.0.1", self.ports[listener]), 20)
        if client is None:
            return Over(sock)
        try:
            return Over(client.wrap_socket(sock, server_hostname="mesh.test", session=session))
        except BaseException:
            sock.close()
            raise

    def ask(self, listener: str, client: ssl.SSLContext | None, request: bytes = get()) -> Answer:
        """One request on a connection of its own. Raises what a refused client sees."""
        with self.connect(listener, client) as connection:
            return connection.ask(request)

    def serves(self, listener: str, client: ssl.SSLContext | None) -> bool:
        """A client of TLS 1.3 learns with its first read that its certificate was refused."""
        try:
            return self.ask(listener, client).status == 200
        except (ssl.SSLError, ConnectionError, ClosedError):
            return False


class Over(Client):
    """A client's conversation over a socket that is there."""

    def __init__(self, sock: socket.socket) -> None:
        Stream.__init__(self, sock)


Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start(listeners, clusters)`: of each listener its transport socket and its connection manager's fields; of each cluster, named by
    the listener that it leads to, its transport socket.
    """
    started: list[Peer] = []

    def begin(listeners: dict[str, tuple], clusters: dict[str, Json] | None = None, origin_port: int = 0, **node: Any) -> Proxy:
        *ports, admin_port = free_ports(len(listeners) + 1)
        named = dict(zip(listeners, ports, strict=True))
        whole = []
        for name, (transport_socket, manager) in listeners.items():
            virtual_hosts = manager.pop("virtual_hosts", [bootstrap.virtual_host([HELLO])])
            listener = bootstrap.http_listener(name, named[name], virtual_hosts, **manager)
            if transport_socket is not None:
                listener["filter_chains"][0]["transport_socket"] = transport_socket
            whole.append(listener)
        to_self = [
            bootstrap.cluster(name, named[name.split(" ")[0]], transport_socket=context) for name, context in (clusters or {}).items()
        ]
        to_origin = [bootstrap.cluster("origin", origin_port)] if origin_port else []
        config = bootstrap.bootstrap(whole, to_self + to_origin, admin_port)
        directory = tmp_path_factory.mktemp("proxy")
        try:
            peer = Envoy(directory, config, [*ports, admin_port]) if ON_ENVOY else Node(directory, config, **node)
        except PeerMissingError as error:
            pytest.skip(str(error))
        started.append(peer.start())
        return Proxy(peer, named)

    yield begin
    for peer in started:
        peer.stop()
        assert not isinstance(peer, Node) or not peer.wreckage(), peer.output()[-3000:]


def through(cluster: str) -> list[Json]:
    """Virtual hosts that lead everything to a cluster."""
    return [bootstrap.virtual_host([bootstrap.route("/", cluster)])]


HELLO = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "hello"}}}


# ---- who is served ----


def test_who_is_served(start: Start, certificates: Certificates) -> None:
    """The matrix of what is demanded and who comes."""
    ca = {"trusted_ca": certificates.file("ca.pem")}
    digest = certificates.clients["good"].certificate.public_bytes(serialization.Encoding.DER)
    uri = [{"san_type": "URI", "matcher": {"prefix": "spiffe://mesh/"}}]
    demands = {
        "nothing": ({}, False), "a certificate": ({}, True), "ca": (ca, True), "ca, perhaps": (ca, False),
        "crl": (ca | {"crl": certificates.file("crl.pem")}, True), "uri": (ca | {"match_typed_subject_alt_names": uri}, True),
        "hash": ({"verify_certificate_hash": [hashlib.sha256(digest).hexdigest()]}, True),
        "expired may": (ca | {"allow_expired_certificate": True}, True),
        "untrusted may": (ca | {"trust_chain_verification": "ACCEPT_UNTRUSTED"}, True),
    }
    proxy = start({
        name: (downstream(common(certificates, context), require_client_certificate=require), {})
        for name, (context, require) in demands.items()
    })  # fmt: skip
    everybody = [None, "good", "other name", "foreign", "expired", "revoked"]
    served = {name: [who for who in everybody if proxy.serves(name, certificates.client(who))] for name in demands}

    assert served == {
        # Envoy asks for no certificate where none is validated, whatever else is demanded.
        "nothing": everybody, "a certificate": everybody if ON_ENVOY else everybody[1:], "ca": ["good", "other name", "revoked"],
        "ca, perhaps": [None, "good", "other name", "revoked"], "crl": ["good", "other name"], "uri": ["good"], "hash": ["good"],
        "expired may": ["good", "other name", "expired", "revoked"], "untrusted may": everybody[1:],
    }


def common(certificates: Certificates, validation: Json | None = None, name: str = "server", **settings: Any) -> Json:
    context = {"tls_certificates": [certificates.pair(name)], **settings}
    return context | ({"validation_context": validation} if validation else {})


@OURS_ONLY
def test_plain_http_on_a_tls_port_is_answered(start: Start, certificates: Certificates) -> None:
    proxy = start({"tls": (downstream(common(certificates)), {})})
    answer = proxy.ask("tls", None)

    assert answer.status == 400
    assert answer.body == b"This port speaks TLS, and the request was plain HTTP.\n"


# ---- what endpoints learn of a client ----


def test_the_forwarded_client_certificate(start: Start, certificates: Certificates) -> None:
    told = {"subject": True, "uri": True, "dns": True}
    ca = {"trusted_ca": certificates.file("ca.pem")}
    modes = {
        "default": {}, "sanitize": {"forward_client_cert_details": "SANITIZE"},
        "forward": {"forward_client_cert_details": "FORWARD_ONLY"},
        "append": {"forward_client_cert_details": "APPEND_FORWARD", "set_current_client_cert_details": told},
        "set": {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": told},
        "bare": {"forward_client_cert_details": "SANITIZE_SET"},
        "cert": {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"cert": True, "chain": True}},
        "always": {"forward_client_cert_details": "ALWAYS_FORWARD_ONLY"},
    }
    good = certificates.clients["good"].certificate
    element = f"By=spiffe://mesh/ns/server;Hash={hashlib.sha256(good.public_bytes(serialization.Encoding.DER)).hexdigest()}"
    whole = f'{element};Subject="CN=a client";URI=spiffe://mesh/ns/a;DNS=client.test'
    with Origin() as origin:
        proxy = start(
            {
                name: (downstream(common(certificates, ca)), {"virtual_hosts": through("origin"), **mode}) for name, mode in modes.items()
            } | {
                "plain": (None, {"virtual_hosts": through("origin"), **modes["set"]}),
                "plain always": (None, {"virtual_hosts": through("origin"), **modes["always"]}),
            },
            origin_port=origin.port,
        )  # fmt: skip

        def arrives(listener: str, client: ssl.SSLContext | None, *lines: str) -> str | None:
            assert proxy.ask(listener, client, get("/", "mesh.test", *lines)).status == 200
            return origin.seen.get(timeout=20).header("x-forwarded-client-cert")

        mine, nobodys = certificates.client("good"), certificates.client()
        sent = ("x-forwarded-client-cert: By=x", "X-Forwarded-Client-Cert: By=y")
        both = ("By=x, By=y", "By=x,By=y")                           # two fields, or one

        for name in ("default", "sanitize"):
            assert arrives(name, mine, *sent) is None
        assert arrives("forward", mine, *sent) in both
        assert arrives("append", mine, *sent[:1]) == f"By=x,{whole}"
        assert arrives("append", mine) == whole
        assert arrives("set", mine, *sent) == whole
        assert arrives("bare", mine) == element
        assert arrives("always", mine, *sent) in both
        for name in ("forward", "append", "set"):
            assert arrives(name, nobodys, *sent) is None
        assert arrives("always", nobodys, *sent) in both
        assert arrives("plain", None, *sent) is None
        assert arrives("plain always", None, *sent) in both
        quoted = arrives("cert", mine) or ""
        pem = r"-----BEGIN%20CERTIFICATE-----%0A[A-Za-z0-9%]+-----END%20CERTIFICATE-----%0A"
        assert re.fullmatch(re.escape(element) + f';Cert="({pem})";Chain="({pem})+"', quoted)


@OURS_ONLY
def test_what_would_not_be_read_back_is_quoted(start: Start, certificates: Certificates) -> None:
    """So the header's description in Envoy has it; Envoy 1.40 leaves it out, and a name may then look like another element."""
    odd = certificates.authority.issue("odd.test", "spiffe://mesh/a,By=x;y", 'spiffe://mesh/"b"', subject="a client")
    odd.write(certificates.folder, "odd")
    told = {"set_current_client_cert_details": {"uri": True, "dns": True}, "forward_client_cert_details": "SANITIZE_SET"}
    ca = {"trusted_ca": certificates.file("ca.pem")}
    with Origin() as origin:
        tls = downstream(common(certificates, ca))
        proxy = start({"set": (tls, {"virtual_hosts": through("origin"), **told})}, origin_port=origin.port)
        context = certificates.client()
        context.load_cert_chain(certificates.folder / "odd.pem", certificates.folder / "odd.key")

        assert proxy.ask("set", context).status == 200
        said = origin.seen.get(timeout=20).header("x-forwarded-client-cert") or ""
        assert said.partition(";URI=")[2] == r'"spiffe://mesh/a,By=x;y";URI="spiffe://mesh/\"b\"";DNS=odd.test'


# ---- the access log ----


def test_what_the_log_tells(start: Start, certificates: Certificates, tmp_path: Path) -> None:
    """Of the client's connection and of the one to the endpoint, which is a listener of the same proxy."""
    told = {
        "DOWNSTREAM_TLS_VERSION": "TLSv1.3", "REQUESTED_SERVER_NAME": "mesh.test", "DOWNSTREAM_PEER_SUBJECT": "CN=a client",
        "DOWNSTREAM_PEER_ISSUER": "CN=test CA", "DOWNSTREAM_PEER_URI_SAN": "spiffe://mesh/ns/a", "DOWNSTREAM_PEER_DNS_SAN": "client.test",
        "DOWNSTREAM_PEER_IP_SAN": "-", "DOWNSTREAM_LOCAL_SUBJECT": "CN=mesh.test", "DOWNSTREAM_LOCAL_URI_SAN": "spiffe://mesh/ns/server",
        "DOWNSTREAM_LOCAL_DNS_SAN": "mesh.test", "DOWNSTREAM_TRANSPORT_FAILURE_REASON": "-",
        "UPSTREAM_TLS_VERSION": "TLSv1.2", "UPSTREAM_PEER_SUBJECT": "CN=mesh.test", "UPSTREAM_PEER_URI_SAN": "spiffe://mesh/ns/server",
        "UPSTREAM_LOCAL_DNS_SAN": "client.test",
    }
    good = certificates.clients["good"].certificate
    serial = good.serial_number
    if ON_ENVOY:
        told["REQUESTED_SERVER_NAME"] = "-"                          # only its TLS inspector tells
    told |= {
        "DOWNSTREAM_PEER_SERIAL": serial.to_bytes((serial.bit_length() + 7) // 8, "big").hex(),
        "DOWNSTREAM_PEER_FINGERPRINT_256": hashlib.sha256(good.public_bytes(serialization.Encoding.DER)).hexdigest(),
        "DOWNSTREAM_PEER_FINGERPRINT_1": hashlib.sha1(good.public_bytes(serialization.Encoding.DER)).hexdigest(),
        "DOWNSTREAM_PEER_CERT_V_START": good.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "DOWNSTREAM_PEER_CERT_V_END(%s)": str(int(good.not_valid_after_utc.timestamp())),
    }
    log = bootstrap.file_log(str(tmp_path / "log"), "".join(f"{name.partition('(')[0]} %{name}%\n" for name in told) + "\n")
    ca = {"trusted_ca": certificates.file("ca.pem")}
    proxy = start(
        {
            "tls": (downstream(common(certificates, ca)), {"virtual_hosts": through("inner"), "access_log": [log]}),
            "inner": (downstream(common(certificates, ca), require_client_certificate=True), {}),
        },
        {"inner": upstream(common(certificates, ca, "good"), sni="mesh.test")},
    )  # fmt: skip

    assert proxy.ask("tls", certificates.client("good")).status == 200
    assert wait_until(lambda: b"\n\n" in read(tmp_path / "log"), 20, proxy.peer.pid)
    lines = dict(line.split(" ", 1) for line in read(tmp_path / "log").decode().strip().splitlines())
    assert lines == {name.partition("(")[0]: value for name, value in told.items()}


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


# ---- endpoints ----


def test_which_endpoints_are_trusted(start: Start, certificates: Certificates) -> None:
    """One TLS listener, asked through clusters that demand this and that of it."""
    ca = {"trusted_ca": certificates.file("ca.pem")}
    (certificates.folder / "foreign-ca.pem").write_bytes(Authority("another").pem)

    def demanding(**sans: Json) -> Json:
        return ca | {"match_typed_subject_alt_names": [{"san_type": kind, "matcher": matcher} for kind, matcher in sans.items()]}

    clusters = {
        "anybody": upstream({}), "ca": upstream({"validation_context": ca}),
        "foreign ca": upstream({"validation_context": {"trusted_ca": certificates.file("foreign-ca.pem")}}),
        "name": upstream({"validation_context": demanding(DNS={"exact": "mesh.test"})}),
        "other name": upstream({"validation_context": demanding(DNS={"exact": "else.test"})}),
        "uri": upstream({"validation_context": demanding(URI={"exact": "spiffe://mesh/ns/server"})}),
        "auto": upstream({"validation_context": ca}, sni="mesh.test", auto_sni_san_validation=True),
        "auto, other": upstream({"validation_context": ca}, sni="else.test", auto_sni_san_validation=True),
    }
    paths = {name: f"/{place}/" for place, name in enumerate(clusters)}
    routes = [bootstrap.route(path, f"inner {name}") for name, path in paths.items()]
    proxy = start(
        {"plain": (None, {"virtual_hosts": [bootstrap.virtual_host(routes)]}), "inner": (downstream(common(certificates)), {})},
        {f"inner {name}": context for name, context in clusters.items()},
    )  # fmt: skip
    answers = {name: proxy.ask("plain", None, get(path)) for name, path in paths.items()}

    assert {name: answer.status for name, answer in answers.items()} == {
        "anybody": 200, "ca": 200, "foreign ca": 503, "name": 200, "other name": 503, "uri": 200, "auto": 200, "auto, other": 503,
    }


def test_a_client_certificate_is_shown_to_endpoints(start: Start, certificates: Certificates) -> None:
    ca = {"trusted_ca": certificates.file("ca.pem")}
    routes = [bootstrap.route(f"/{who}", f"inner {who}") for who in ("good", "nobody")]
    proxy = start(
        {
            "plain": (None, {"virtual_hosts": [bootstrap.virtual_host(routes)]}),
            "inner": (downstream(common(certificates, ca), require_client_certificate=True), {}),
        },
        {"inner good": upstream(common(certificates, ca, "good")), "inner nobody": upstream({"validation_context": ca})},
    )  # fmt: skip

    assert proxy.ask("plain", None, get("/good")).status == 200
    assert proxy.ask("plain", None, get("/nobody")).status == 503


# ---- sessions and rotation ----


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_any_worker_resumes_what_another_began(start: Start, certificates: Certificates, newest: ssl.TLSVersion) -> None:
    proxy = start({"tls": (downstream(common(certificates)), {})}, workers=2)
    client = certificates.client(maximum_version=newest)
    with proxy.connect("tls", client) as first:
        first.ask(get())
        session = first.sock.session
    resumed = []
    for _ in range(20):                                              # both workers get some: the kernel spreads them
        with proxy.connect("tls", client, session) as connection:
            assert connection.ask(get()).status == 200
            resumed.append(connection.sock.session_reused)
    assert all(resumed)


@OURS_ONLY
def test_certificates_rotate_under_load(start: Start, certificates: Certificates, tmp_path: Path, long_run: bool) -> None:
    """Each 100 ms another certificate, taken when the file changes; every request of four clients is answered, on old and new
    connections.
    """
    first = certificates.authority.issue("mesh.test")
    first.write(tmp_path, "rotating")
    pair = {"certificate_chain": {"filename": f"{tmp_path}/rotating.pem"}, "private_key": {"filename": f"{tmp_path}/rotating.key"}}
    proxy = start({"tls": (downstream({"tls_certificates": [pair]}), {})}, workers=2)
    stop = threading.Event()
    failed: list[object] = []
    seen: set[bytes] = set()
    answered = [0] * 4

    def ask_again(place: int) -> None:
        client = certificates.client()
        while not stop.is_set():
            try:
                with proxy.connect("tls", client) as connection:
                    seen.add(connection.sock.getpeercert(True))
                    for _ in range(3):
                        status = connection.ask(get()).status
                        answered[place] += 1
                        if status != 200:
                            failed.append(status)
            except Exception as error:
                failed.append(error)

    clients = [threading.Thread(target=ask_again, args=(place,)) for place in range(4)]
    for thread in clients:
        thread.start()
    for _ in range(100 if long_run else 20):
        issued = certificates.authority.issue("mesh.test")
        for suffix, data in ((".pem", issued.pem), (".key", issued.key_pem())):
            (tmp_path / "fresh").write_bytes(data)
            (tmp_path / "fresh").rename(tmp_path / f"rotating{suffix}")
        stop.wait(0.1)
    latest = issued.certificate.public_bytes(serialization.Encoding.DER)
    assert wait_until(lambda: latest in seen, 20, proxy.peer.pid)
    stop.set()
    for thread in clients:
        thread.join()
    assert failed == []
    assert min(answered) > 0
    assert len(seen) > 2
