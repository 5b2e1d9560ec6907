"""Users' filters in a running node: they change, answer, wait and fail, and none of it harms another request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.origin import Origin
from tests.support.processes import Node
from tests.support.wire import Client, ask, get, post

FILTERS = '''
from gevent import Timeout, sleep
from gevent.event import Event

GATE = Event()


class Filter:
    def __init__(self, mark="none"):
        self.mark = mark

    def on_request(self, request):
        request.set_header("x-filter", self.mark)
        if request.path == "/remove":
            request.remove_header("X-Secret")
        elif request.path == "/deny":
            request.respond(403, "not for " + request.header("x-who", "you"), "text/x-reason")
        elif request.path == "/fail":
            raise KeyError("a filter of a user has a bug")
        elif request.path == "/hold":
            GATE.clear()
            GATE.wait()
        elif request.path == "/open":
            GATE.set()
        elif request.path == "/timeout":
            with Timeout(0):
                GATE.clear()
                GATE.wait()
        elif request.path == "/nap":
            sleep(0)
        elif request.path == "/evil":
            try:
                request.set_header("x-evil", "a\\r\\nx-other: b")
            except ValueError:
                request.set_header("x-evil", "refused")
            try:
                request.remove_header("content-length")
            except ValueError:
                request.set_header("x-framing", "refused")


class Last:
    """Comes after Filter: runs only if that one let the request go on."""

    def on_request(self, request):
        request.add_header("x-last", "yes")
        request.add_header("x-seen", ",".join(name for name, value in request.headers()))
'''

CONFIG = """
listeners:
  - name: ingress
    address: 127.0.0.1:0
    filters:
      - python: userfilters:Filter
        settings: {{mark: blue}}
      - python: userfilters:Last
    routes:
      - prefix: /
        to: origin
clusters:
  origin: [127.0.0.1:{port}]
"""


@pytest.fixture
def filtered(node_of: Callable[..., Node], tmp_path: Path) -> Iterator[tuple[Node, int, Origin]]:
    """A node whose one listener has both filters, its port, and its origin."""
    (tmp_path / "userfilters.py").write_text(FILTERS)
    with Origin() as origin:
        node = node_of(CONFIG.format(port=origin.port), environment={"PYTHONPATH": str(tmp_path)})
        yield node, node.port_of("ingress"), origin


def test_filters_change_what_goes_upstream(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, origin = filtered

    assert ask(port, get("/remove", "mesh.test", "X-Secret: 1", "X-Filter: forged")).status == 200
    seen = origin.next_request()
    assert seen.header("x-filter") == "blue"
    assert seen.header("x-last") == "yes"
    assert seen.header("x-secret") is None
    assert seen.header("x-seen") == "Host"


def test_a_filter_answers_and_the_next_one_is_not_asked(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, origin = filtered

    with Client(port) as client:
        said = client.ask(get("/deny", "mesh.test", "X-Who: me"))
        after = client.ask(get("/after"))

    assert (said.status, said.body, said.header("content-type")) == (403, b"not for me", "text/x-reason")
    assert after.status == 200
    assert origin.next_request().target == "/after"


def test_an_exception_is_500_for_its_request_alone(filtered: tuple[Node, int, Origin]) -> None:
    node, port, _origin = filtered

    assert ask(port, get("/fail")).status == 500
    assert ask(port, get("/")).status == 200
    assert node.wait_output("a filter of a user has a bug")
    node.output = lambda: ""  # type: ignore[method-assign]  # its traceback is wanted here, and no wreckage


def test_a_timeout_that_a_filter_lets_escape_is_500_too(filtered: tuple[Node, int, Origin]) -> None:
    """gevent.Timeout is no Exception; the greenlet that it ends must not leave its request waiting."""
    node, port, _origin = filtered

    assert ask(port, get("/timeout")).status == 500
    assert ask(port, get("/")).status == 200
    node.output = lambda: ""  # type: ignore[method-assign]  # its traceback is wanted here, and no wreckage


def test_a_waiting_filter_holds_its_request_and_no_other(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, origin = filtered
    with Client(port) as held:
        held.send(post(b"x" * 300_000, "/hold"))

        assert ask(port, get("/other")).status == 200
        assert origin.next_request().target == "/other"
        assert ask(port, get("/open")).status == 200
        assert held.answer("POST").status == 200

    requests = [origin.next_request(), origin.next_request()]
    assert {request.target: len(request.body) for request in requests} == {"/open": 0, "/hold": 300_000}


def test_a_client_may_leave_while_a_filter_waits(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, origin = filtered
    with Client(port) as held:
        held.send(get("/hold"))
        assert ask(port, get("/")).status == 200

    assert ask(port, get("/open")).status == 200
    assert ask(port, get("/last")).status == 200
    assert {origin.next_request().target for _ in range(3)} == {"/", "/open", "/last"}


def test_many_requests_wait_at_once(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, _origin = filtered
    statuses: list[int] = []

    def nap() -> None:
        with Client(port) as client:
            statuses.extend(client.ask(get("/nap")).status for _ in range(20))

    threads = [threading.Thread(target=nap) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert statuses == [200] * 320


def test_pipelined_requests_keep_their_order_through_filters_that_wait(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, origin = filtered
    with Client(port) as client:
        client.send(get("/nap") + get("/deny") + post(b"body", "/nap") + get("/x"))
        statuses = [client.answer().status for _ in range(4)]

    assert statuses == [200, 403, 200, 200]
    assert [origin.next_request().target for _ in range(3)] == ["/nap", "/nap", "/x"]


def test_a_filter_cannot_break_the_framing(filtered: tuple[Node, int, Origin]) -> None:
    _node, port, origin = filtered

    assert ask(port, post(b"four", "/evil")).status == 200
    seen = origin.next_request()
    assert (seen.header("x-evil"), seen.header("x-framing"), seen.body) == ("refused", "refused", b"four")


def test_a_filter_that_cannot_be_made_refuses_the_reload(filtered: tuple[Node, int, Origin]) -> None:
    node, port, origin = filtered
    node.configure(CONFIG.format(port=origin.port).replace("userfilters:Last", "userfilters:Nowhere"))
    said = node.reload()

    assert said.returncode == 1
    assert "userfilters:Nowhere" in said.stderr
    assert ask(port, get("/")).status == 200
