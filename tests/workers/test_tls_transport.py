"""TLS on the data path, in conversations with Python's OpenSSL: what the protocol sees is plaintext, in order and whole."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import ssl
from collections.abc import Iterator

import pytest

from meshproxy.model import DownstreamTls, TlsParameters, UpstreamTls
from meshproxy.scoreboard.catalogue import BlockKind, offsets
from meshproxy.workers.tls_context import TlsContext
from tests.support.metrics import LISTENER_SSL
from tests.workers.tls import Both, Conversation, Worker

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
LOCAL, REMOTE, CONNECT_FAILED = 0, 1, 2
APPLICATION_DATA = 23
SERVER_EXCEPTIONS = next(at for at, row in offsets(BlockKind.SERVER) if row.name == "exceptions")


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


@pytest.fixture
def context(worker: Worker) -> TlsContext:
    return worker.context()


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def talk(request: pytest.FixtureRequest, worker: Worker, context: TlsContext) -> Iterator[Conversation]:
    """Connected, in either version; the end does not echo."""
    with Conversation(worker, context, worker.client(minimum=request.param, maximum=request.param)) as talk:
        talk.peer.shake()
        talk.until(lambda: bool(talk.events("connected")))
        yield talk


def records(data: bytes) -> list[tuple[int, int]]:
    """(type, length) of each TLS record (RFC 8446 5.1)."""
    found = []
    while data:
        length = int.from_bytes(data[3:5], "big")
        found.append((data[0], length))
        data = data[5 + length :]
    return found


def counted(context: TlsContext) -> dict[str, int]:
    """SSL counters that were counted, by name."""
    return {LISTENER_SSL[at]: count for at, count in context.counted().items()}


# ---- data ----


def test_a_request_and_its_answer(talk: Conversation) -> None:
    talk.peer.send(b"hello")
    talk.until(lambda: talk.end.data == b"hello")
    talk.end.write(b"good ", b"day")

    assert talk.peer.read(8) == b"good day"
    assert [event[0] for event in talk.end.events] == ["connected", "data"]
    assert talk.end.facts["version"].decode() == talk.peer.tls.version()
    assert talk.end.facts["cipher"].decode() == talk.peer.tls.cipher()[0]


def test_a_megabyte_each_way_is_whole(talk: Conversation) -> None:
    """More than the socket takes: the rest waits as ciphertext, and leaves as the peer reads."""
    data = random.Random(1).randbytes(1 << 20)

    talk.end.write(data)
    assert talk.end.queued > 0
    assert talk.peer.read(len(data)) == data
    assert talk.end.queued == 0

    for at in range(0, len(data), 50_000):
        talk.peer.send(data[at : at + 50_000])
    talk.until(lambda: len(talk.end.data) == len(data))
    assert talk.end.data == data


def test_what_is_queued_above_the_watermark_is_told_when_it_falls(talk: Conversation) -> None:
    talk.end.write(bytes(3 << 20))
    assert talk.events("drained") == []

    talk.peer.read(3 << 20)

    assert talk.events("drained") == [("drained",)]


def test_pieces_of_one_event_share_records(talk: Conversation) -> None:
    talk.sock.setblocking(False)
    talk.end.write(*[b"%04d" % at * 25 for at in range(50)])         # a head and its pieces
    raw = talk.sock.recv(1 << 20)
    assert [kind for kind, _ in records(raw)] == [APPLICATION_DATA]

    talk.end.write(b"h" * 200, b"b" * 40_000, b"t" * 5)
    more = talk.sock.recv(1 << 20)
    assert len(records(more)) == 3

    talk.peer.incoming.write(raw + more)
    assert talk.peer.read(5000) == b"".join(b"%04d" % at * 25 for at in range(50))
    assert talk.peer.read(40_205) == b"h" * 200 + b"b" * 40_000 + b"t" * 5


def test_any_split_of_the_bytes_is_the_same_conversation(worker: Worker) -> None:
    """A byte at a time, each with a turn of its own: hello, finished and data."""
    for version in VERSIONS:
        with Conversation(worker, worker.context(), worker.client(minimum=version, maximum=version), echoes=True) as talk:
            trickle(talk)
            talk.peer.shake()
            talk.peer.send(b"x" * 300)
            assert talk.peer.read(300) == b"x" * 300


def trickle(talk: Conversation) -> None:
    """The client's bytes go one by one."""
    send = talk.sock.sendall

    class OneByOne:
        def sendall(self, data: bytes) -> None:
            for at in range(len(data)):
                send(data[at : at + 1])
                talk.worker.turn()

        def __getattr__(self, name: str) -> object:
            return getattr(talk.sock, name)

    talk.peer.sock = OneByOne()


def test_openssl_is_not_asked_before_the_first_record_is_whole(worker: Worker, context: TlsContext) -> None:
    """A client that stops within its hello costs what it sent."""
    with Conversation(worker, context) as talk:
        for part in (b"\x16", b"\x03", b"\x01\x02", b"\x00", b"x" * 511):
            talk.sock.sendall(part)
            worker.turn()
            assert not talk.end.listens
        talk.sock.sendall(b"x")
        assert talk.until_closed()[2].startswith(b"TLS_error")
        assert talk.end.listens


@pytest.mark.parametrize("start", [b"\x15", b"\x16\x02", b"\x16\x03\x01\xff\xff", b"\x80"])
def test_what_is_no_hello_is_refused_at_once(worker: Worker, context: TlsContext, start: bytes) -> None:
    with Conversation(worker, context) as talk:
        talk.sock.sendall(start + b"x" * 11)
        assert talk.until_closed()[2].startswith(b"TLS_error")


def test_data_that_comes_with_the_end_of_the_handshake_is_not_lost(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context, worker.client()) as talk:
        peer = talk.peer
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        peer.move()
        peer.tls.do_handshake()
        peer.tls.write(b"with my Finished")
        peer.move()

        assert talk.end.events == [("connected",), ("data", b"with my Finished")]


def test_who_writes_at_the_end_of_the_handshake_loses_nothing_of_what_came_with_it(worker: Worker, context: TlsContext) -> None:
    """Encrypting borrows what decrypting reads from."""
    with Conversation(worker, context, worker.client()) as talk:
        talk.end.greeting = b"220 ready"
        peer = talk.peer
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        peer.move()
        peer.tls.do_handshake()
        peer.tls.write(b"with my Finished")
        peer.move()

        assert talk.end.events == [("connected",), ("data", b"with my Finished")]
        assert peer.read(9) == b"220 ready"


def test_who_is_paused_when_the_handshake_ends_gets_the_data_later(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context, worker.client()) as talk:
        talk.end.pauses = True
        peer = talk.peer
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        peer.move()
        peer.tls.do_handshake()
        peer.tls.write(b"early")
        peer.move()
        peer.send(b" and late")
        assert talk.end.events == [("connected",)]

        talk.end.resume()
        talk.until(lambda: len(talk.end.data) == 14)
        assert talk.end.data == b"early and late"


def test_who_speaks_first_does(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context, worker.client()) as talk:
        talk.end.greeting = b"220 ready"
        talk.peer.shake()
        assert talk.peer.read(9) == b"220 ready"


# ---- the end ----


def test_a_close_notify_is_the_end_and_the_way_back_stays_open(talk: Conversation) -> None:
    talk.peer.send(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        talk.peer.tls.unwrap()
    talk.peer.move()
    talk.until(lambda: bool(talk.events("end")))
    assert talk.end.data == b"last words"

    talk.end.write(b"still here")
    talk.end.close_flushed()

    assert talk.until_closed() == (LOCAL, 0, None)
    assert b"still here" not in talk.end.data


def test_we_say_the_end_behind_what_was_written(talk: Conversation) -> None:
    talk.end.write(b"all of it")
    talk.end.half_close()
    assert talk.peer.read(9) == b"all of it"
    assert talk.peer.run(lambda: talk.peer.tls.read(10)) == b""      # an end that was said, not a cut
    talk.peer.send(b"and you?")
    talk.until(lambda: talk.end.data == b"and you?")


def test_a_close_says_the_end_too(talk: Conversation) -> None:
    talk.end.close()
    assert talk.peer.run(lambda: talk.peer.tls.read(10)) == b""


def test_a_close_that_cuts_something_off_says_no_end(talk: Conversation) -> None:
    talk.end.write(bytes(1 << 20))
    assert talk.end.queued
    talk.end.close()
    with pytest.raises(ssl.SSLEOFError):
        talk.peer.read(1 << 20)


def test_a_peer_that_goes_without_a_word_is_an_end(talk: Conversation) -> None:
    talk.sock.shutdown(socket.SHUT_WR)
    talk.until(lambda: bool(talk.events("end")))
    assert talk.events("closed") == []


# ---- what goes wrong ----


def test_http_on_a_tls_port_gets_a_readable_answer(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context) as talk:
        talk.sock.sendall(b"GET / HTTP/1.1\r\nhost: mesh.test\r\n\r\n")
        worker.turn()
        answer = talk.sock.recv(4096)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"content-length: %d" % len(body) in head
        assert b"TLS" in body
        assert talk.sock.recv(4096) == b""

        talk.sock.close()
        assert talk.until_closed()[0] == LOCAL
        assert counted(context) == {"connection_error": 1, "error_http_request": 1}


def test_garbage_instead_of_a_hello(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context) as talk:
        talk.sock.sendall(b"\x00\x01garbage that is no record at all")
        why, error, failure = talk.until_closed()
        assert (why, error) == (LOCAL, errno.EPROTO)
        assert failure.startswith(b"TLS_error: ")
        assert counted(context) == {"connection_error": 1, "error_malformed": 1}


def test_a_peer_that_leaves_within_the_handshake(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context) as talk:
        talk.sock.sendall(b"\x16\x03\x01")
        worker.turn()
        talk.sock.close()
        assert talk.until_closed()[:2] == (REMOTE, errno.ECONNRESET)
        assert counted(context) == {"error_closed": 1}


def test_no_common_version(worker: Worker) -> None:
    context = worker.context(DownstreamTls(certificates=("server",), params=TlsParameters(min_version="1.3")))
    with Conversation(worker, context, worker.client(maximum=ssl.TLSVersion.TLSv1_2)) as talk:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            talk.peer.shake()
        assert talk.until_closed()[1] == errno.EPROTO
        assert counted(context) == {"connection_error": 1, "error_version": 1}


def test_no_common_cipher(worker: Worker) -> None:
    params = TlsParameters(max_version="1.2", ciphers=("ECDHE-RSA-AES128-GCM-SHA256",))
    context = worker.context(DownstreamTls(certificates=("server",), params=params))
    with Conversation(worker, context, worker.client()) as talk:
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            talk.peer.shake()
        assert talk.until_closed()[1] == errno.EPROTO
        assert counted(context) == {"connection_error": 1, "error_no_shared_parameters": 1}


def test_a_client_that_does_not_trust_us_is_counted_as_an_alert(worker: Worker, context: TlsContext) -> None:
    with Conversation(worker, context, ssl.create_default_context()) as talk:
        with pytest.raises(ssl.SSLCertVerificationError):
            talk.peer.shake()
        talk.peer.move()
        assert talk.until_closed()[1] == errno.EPROTO
        assert counted(context)["error_alert"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_anywhere_in_the_hello_ends_one_connection(worker: Worker, seed: int) -> None:
    """Or it changes nothing that matters: never a crash, never a connection that hangs on to us."""
    chance = random.Random(seed)
    context = worker.context()
    for _ in range(150):
        with Conversation(worker, context, worker.client()) as talk:
            with pytest.raises(ssl.SSLWantReadError):
                talk.peer.tls.do_handshake()
            hello = bytearray(talk.peer.outgoing.read())
            talk.peer = None
            hello[chance.randrange(len(hello))] ^= 1 << chance.randrange(8)
            cut = chance.randrange(len(hello))
            for part in (hello[:cut], hello[cut:]):
                with contextlib.suppress(BrokenPipeError):           # refused by its first part
                    talk.sock.sendall(part)
                worker.turn()
            talk.sock.close()
            assert talk.until_closed()[0] in (LOCAL, REMOTE)
    assert worker.region.read_cells(SERVER_EXCEPTIONS, 1)[0] == 0


def test_garbage_after_the_handshake_ends_the_connection(talk: Conversation, context: TlsContext) -> None:
    talk.peer.send(b"good")
    talk.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert talk.until_closed()[:2] == (LOCAL, errno.EPROTO)
    assert talk.end.data == b"good"
    assert counted(context)["error_malformed"] == 1


def test_a_record_that_is_too_long_ends_the_connection(talk: Conversation) -> None:
    talk.sock.sendall(b"\x17\x03\x03\xff\xff" + bytes(65535))
    assert talk.until_closed()[:2] == (LOCAL, errno.EPROTO)


# ---- the other side, and floods: both ends are ours ----


def test_key_updates_are_taken(worker: Worker, context: TlsContext) -> None:
    both = Both(worker, context, worker.upstream(UpstreamTls(params=TlsParameters(max_version="1.3")))).shake()
    for at in range(100):                                            # each with data behind it: nobody is flooded
        both.client.update_key()
        both.client.write(b"%d" % at)
        both.turns(lambda at=at: both.server.data.endswith(b"%d" % at))
        both.server.write(b"%d" % at)
        both.turns(lambda at=at: both.client.data.endswith(b"%d" % at))
    both.client.close()


def test_a_flood_of_key_updates_ends_the_connection(worker: Worker, context: TlsContext) -> None:
    both = Both(worker, context, worker.upstream(UpstreamTls(params=TlsParameters(max_version="1.3")))).shake()
    for _ in range(40):
        both.client.update_key()
    both.turns(lambda: both.server.events[-1][0] == "closed")
    assert both.server.events[-1][1:3] == (LOCAL, errno.EPROTO)
    assert b"key updates" in both.server.events[-1][3]
    assert counted(context)["error_flood"] == 1
    both.client.close()


def test_renegotiation_is_refused(worker: Worker, context: TlsContext) -> None:
    """By a warning; a client of OpenSSL's ends the connection then."""
    both = Both(worker, context, worker.upstream(UpstreamTls())).shake()
    both.client.renegotiate()
    both.turns(lambda: both.client.events[-1][0] == "closed")
    assert b"no renegotiation" in both.client.events[-1][3]
    both.turns(lambda: both.server.events[-1][0] == "closed")
    assert counted(context)["handshake"] == 1
    assert both.server.afterthoughts == 1                            # as a key update counts: 33 without data are a flood


def test_our_client_sends_sni_and_gets_a_protocol(worker: Worker) -> None:
    asked = []
    python = worker.server(alpn=("h2",))
    python.sni_callback = lambda _ssl, name, _context: asked.append(name)
    context = worker.upstream(UpstreamTls(alpn=("h2", "http/1.1")))
    with Conversation(worker, context, python, server=True, sni=b"mesh.test") as talk:
        talk.peer.shake()
        talk.until(lambda: bool(talk.events("connected")))
        talk.end.write(b"hello")
        assert talk.peer.read(5) == b"hello"
        assert (asked, talk.end.alpn) == (["mesh.test"], b"h2")


def test_a_server_that_leaves_within_the_handshake_is_a_failed_connect(worker: Worker) -> None:
    context = worker.upstream(UpstreamTls())
    with Conversation(worker, context, None, server=True) as talk:
        worker.turn()
        talk.sock.close()
        why, error, failure = talk.until_closed()
        assert (why, error) == (CONNECT_FAILED, errno.ECONNRESET)
        assert b"closed" in failure


def test_a_server_that_does_not_speak_tls_is_a_failed_connect(worker: Worker) -> None:
    context = worker.upstream(UpstreamTls())
    with Conversation(worker, context, None, server=True) as talk:
        worker.turn()
        talk.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        why, error, failure = talk.until_closed()
        assert (why, error) == (CONNECT_FAILED, errno.EPROTO)
        assert failure == b"TLS_error: wrong version number"
