"""The smuggling corpus against a live node: each case is refused with a status and a close, or the origin sees one clean request.

Behind every case hides a second request. Whatever the case does to framing, no origin may ever take it for one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.corpus.http1 import smuggling
from tests.corpus.http1.case import Case
from tests.peers import bootstrap
from tests.support.origin import Origin, Request
from tests.support.processes import Node
from tests.support.wire import Client, ask, get

HIDDEN = get("/hidden", "a")
NEVER = ("/hidden", "/admin", "/smuggled")
OTHER_LIMITS = {"target-too-long", "target-too-long-unfinished", "trailer-too-long"}
"""The codec's tests give it short limits for target and trailers; a node's are those of the whole head, and conversations test them."""
NOT_HTTP_1 = {"http2-preface"}
"""For the codec of HTTP/1 that is wrong; a node goes on in HTTP/2."""
REFUSED = [case for case in smuggling.REQUESTS if case.status and case.name not in OTHER_LIMITS | NOT_HTTP_1]
READ = [case for case in smuggling.REQUESTS if not case.status]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, int, Origin]]:
    with Origin() as origin:
        listener = bootstrap.http_listener("ingress", 0, [bootstrap.virtual_host([bootstrap.route("/", "origin")])])
        config = bootstrap.bootstrap([listener], [bootstrap.cluster("origin", origin.port)])
        with Node(tmp_path_factory.mktemp("smuggling"), config) as node:
            yield node, node.port_of("ingress"), origin
            assert node.wreckage() == []


def requests_of(port: int, origin: Origin) -> list[Request]:
    """What the origin took for requests since the last call. A last one of our own passes after them."""
    assert ask(port, get("/sentinel", "a")).status == 200
    seen = []
    while not origin.seen.empty():
        seen.append(origin.seen.get_nowait())
    return [request for request in seen if request.target != "/sentinel"]


@pytest.mark.parametrize("case", REFUSED, ids=[case.name for case in REFUSED])
def test_refused(standing: tuple[Node, int, Origin], case: Case) -> None:
    _, port, origin = standing
    requests_of(port, origin)  # what an earlier case let through is that case's failure
    with Client(port) as client:
        # What is refused before its head is whole would be completed by more bytes.
        client.send(case.data + (HIDDEN if b"\r\n\r\n" in case.data else b""))
        said = client.answer()

        assert said.status in (case.status, 400), case.source
        assert said.header("connection") == "close"
        assert client.is_closed(), "what follows on the connection is not looked at"
    assert requests_of(port, origin) == []


@pytest.mark.parametrize("case", READ, ids=[case.name for case in READ])
def test_normalised(standing: tuple[Node, int, Origin], case: Case) -> None:
    _, port, origin = standing
    with Client(port) as client:
        client.send(case.data)
        said = client.answer(case.data.split(b" ", 1)[0].decode())

        assert said.status < 500, case.source
    seen = requests_of(port, origin)

    assert len(seen) <= 1
    for request in seen:
        assert request.target not in NEVER
        # The proxy frames the message anew, with a Transfer-Encoding of its own where there is no length.
        gone = set(case.gone) - {b"transfer-encoding"}
        assert [name for name, _ in request.headers if name.lower().encode() in gone] == []
        assert (request.header("content-length") is None) or (request.header("transfer-encoding") is None)
        assert request.header("transfer-encoding") in (None, "chunked")
        assert case.body is None or request.body == case.body


def test_the_corpus_is_whole() -> None:
    assert len(smuggling.REQUESTS) >= 150


def test_the_node_still_serves(standing: tuple[Node, int, Origin]) -> None:
    node, port, _ = standing

    assert ask(port, get("/")).status == 200
    assert [row["restarts"] for row in node.status()["workers"]] == [0]
