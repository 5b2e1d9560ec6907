"""Rules of the protocol that no single conversation shows: whatever is asked, said and broken, in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf import any_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.discovery.xds.delta import DeltaStream
from meshproxy.discovery.xds.kinds import CDS, EDS, KINDS, LDS, name_in
from meshproxy.discovery.xds.sotw import SotwStream
from meshproxy.discovery.xds.stream import DETAIL_AT_MOST, detail
from meshproxy.discovery.xds.watch import Update, Watch
from tests.discovery.xds_conversations import message_of, response_of, token_of
from tests.peers.xds_server import line_of

NAMES = st.sets(st.sampled_from("abcd"), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("watch"), NAMES),
        st.tuples(st.just("rename"), st.tuples(st.integers(0, 3), NAMES)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
        st.tuples(st.just("say"), st.tuples(NAMES, st.booleans())),
        st.tuples(st.just("break"), st.none()),
        st.tuples(st.just("pause"), st.none()),
        st.tuples(st.just("resume"), st.none()),
    ),
    max_size=30,
)


class Server:
    """What a server makes of requests."""

    def __init__(self, delta: bool) -> None:
        self.delta = delta
        self.names: set[str] = set()
        self.nonces: list[str] = []
        self.version = ""
        self.requests = 0

    def took(self, requests: list[Any]) -> None:
        for request in requests:
            self.requests += 1
            if self.delta:
                self.names |= set(request.resource_names_subscribe)
                self.names -= set(request.resource_names_unsubscribe)
            else:
                assert request.resource_names or self.requests > 1, "no names in the first request are all names"
                self.names = set(request.resource_names)
                self.version = request.version_info
            if request.response_nonce:
                self.nonces.append(request.response_nonce)


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
@settings(deadline=None)
@given(steps=STEPS)
def test_the_server_always_knows_what_is_wanted(delta: bool, steps: list[tuple[str, Any]]) -> None:
    stream = (DeltaStream if delta else SotwStream)(Node(id="n"), False)
    server = Server(delta)
    watches: list[Watch] = []
    said: list[str] = []
    pauses, accepted, bad = 0, "", [False]

    def handler(update: Update) -> dict[str, str]:
        return {update.added[0].name: "it is bad"} if bad[0] and update.added else {}

    def wanted() -> set[str]:
        return set().union(*(watch.names for watch in watches)) if watches else set()

    stream.opened()
    for verb, what in steps:
        if verb == "watch":
            watch = Watch(what, handler)
            watches.append(watch)
            stream.watch(EDS.type_url, watch, 0.0)
        elif verb == "rename" and what[0] < len(watches):
            stream.set_names(EDS.type_url, watches[what[0]], what[1], 0.0)
        elif verb == "cancel" and what < len(watches):
            stream.cancel(EDS.type_url, watches.pop(what))
        elif verb == "say":
            names, bad[0] = what
            if server.requests:
                said.append(f"n{len(said)}")
                listed = " ".join(f"{name}@{len(said)}" for name in sorted(names))
                stream.received(response_of(f"EDS v={len(said)} n={said[-1]} {listed}", delta), 0.0, 0.0)
                if watches and not (bad[0] and names & wanted()):
                    accepted = str(len(said))
        elif verb == "break":
            server.took(stream.take())
            stream.closed("gone")
            server = Server(delta)
            said.clear()
            stream.opened()
        elif verb == "pause":
            pauses += 1
            stream.pause(EDS.type_url)
        elif verb == "resume" and pauses:
            pauses -= 1
            stream.resume(EDS.type_url)
        server.took(stream.take())
        if not pauses:
            assert server.names == wanted()
            if delta:
                assert server.nonces == said, "every response is answered once, in order"
            elif server.requests and watches:
                assert server.version == accepted
                assert not said or server.nonces[-1] == said[-1]
    for _ in range(pauses):
        stream.resume(EDS.type_url)
    server.took(stream.take())
    assert server.names == wanted()


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
@settings(deadline=None)
@given(values=st.lists(st.binary(max_size=40), max_size=5))
def test_bytes_of_any_kind_are_taken_or_refused(delta: bool, values: list[bytes]) -> None:
    stream = (DeltaStream if delta else SotwStream)(Node(), False)
    stream.opened()
    stream.watch(CDS.type_url, Watch(None, lambda update: {}), 0.0)
    response = response_of("CDS v=1 n=1", delta)
    for number, value in enumerate(values):
        packed = any_pb2.Any(type_url=CDS.type_url, value=value)
        if delta:
            response.resources.add(name=str(number), resource=packed)
        else:
            response.resources.append(packed)
    stream.received(response, 0.0, 0.0)

    assert stream.take()[-1].response_nonce == "1"


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_a_name_is_read_from_any_bytes_or_they_are_refused(packed: bytes) -> None:
    try:
        assert isinstance(name_in(packed), str)
    except ValueError:
        pass


@pytest.mark.parametrize(("kind", "name"), [("CDS", "c1"), ("EDS", "a"), ("LDS", "l1>r1"), ("RDS", "r1"), ("SDS", "x")])
def test_the_name_of_each_kind(kind: str, name: str) -> None:
    token = token_of(name)

    assert name_in(message_of(kind, token).SerializeToString()) == token.name


def client(kind: type, *watches: tuple[str, Watch]) -> Any:
    stream = kind(Node(), True)
    stream.opened()
    for type_url, watch in watches:
        stream.watch(type_url, watch, 0.0)
    return stream


def lines(stream: Any) -> list[str]:
    return [line_of(request) for request in stream.take()]


def test_everything_and_names_of_one_kind() -> None:
    for kind, first, both, one in ((SotwStream, "EDS []", "EDS [* a]", "EDS [*]"), (DeltaStream, "EDS", "EDS +[a]", "EDS -[a]")):
        stream = client(kind, (EDS.type_url, Watch(None, lambda update: {})))
        assert lines(stream) == [first + " node"]
        named = Watch({"a"}, lambda update: {})
        stream.watch(EDS.type_url, named, 0.0)
        assert lines(stream) == [both]
        stream.cancel(EDS.type_url, named)
        assert lines(stream) == [one]


def test_a_watch_of_names_hears_only_of_them() -> None:
    told: list[Update] = []
    for kind in (SotwStream, DeltaStream):
        told.clear()
        stream = client(kind, (EDS.type_url, Watch({"a"}, lambda update: told.append(update) or {})))
        stream.received(response_of("EDS v=1 n=1 a b c", kind is DeltaStream), 0.0, 0.0)
        stream.received(response_of("EDS v=2 n=2 b", kind is DeltaStream), 0.0, 0.0)

        assert [[item.name for item in update.added] for update in told] == [["a"]]


def test_a_handler_may_ask_for_more_of_its_own_kind() -> None:
    stream = client(SotwStream)
    more = Watch({"b"}, lambda update: {})

    def take(update: Update) -> dict[str, str]:
        stream.watch(EDS.type_url, more, 0.0)
        return {}

    stream.watch(EDS.type_url, Watch({"a"}, take), 0.0)
    stream.take()
    stream.received(response_of("EDS v=1 n=1 a", False), 0.0, 0.0)

    assert lines(stream) == ["EDS [a b] v=1 n=1"]


def test_the_time_to_wait_begins_with_each_name() -> None:
    missing: list[str] = []
    watch = Watch({"a"}, lambda update: {}, fetch_timeout_s=10.0)
    watch.on_missing = missing.append
    stream = client(SotwStream, (EDS.type_url, watch))
    stream.set_names(EDS.type_url, watch, {"a", "b"}, 4.0)
    assert stream.due_s() == 10.0
    stream.tick(10.0, 0.0)
    assert missing == ["a"]
    stream.tick(13.9, 0.0)
    stream.tick(14.0, 0.0)

    assert missing == ["a", "b"]
    assert stream.due_s() == float("inf")


def test_who_waits_hears_that_it_is_refused_or_not_there() -> None:
    missing: list[str] = []
    watch = Watch({"a", "b", "c"}, lambda update: {"a": "it is bad"} if update.added else {})
    watch.on_missing = missing.append
    stream = client(DeltaStream, (EDS.type_url, watch))
    stream.received(response_of("EDS n=1 a@1 -b", True), 0.0, 0.0)
    stream.received(response_of("EDS n=2 a@2 -b", True), 0.0, 0.0)
    assert missing == ["a", "b"], "once each"
    stream.received(response_of("EDS n=3 c@1 c@1", True), 0.0, 0.0)

    assert missing == ["a", "b", "c"], "a response that is refused as a whole is an answer to all"


def test_a_time_to_live_that_is_renewed() -> None:
    gone: list[str] = []
    for kind in (SotwStream, DeltaStream):
        gone.clear()
        delta = kind is DeltaStream
        stream = client(kind, (CDS.type_url, Watch(None, lambda update: gone.extend(update.removed) or {})))
        stream.received(response_of("CDS v=1 n=1 s1@1~10 s2@1", delta), 0.0, 0.0)
        stream.received(response_of("CDS v=1 n=2 s1@1~10^", delta), 5.0, 0.0)
        assert stream.due_s() == 15.0
        stream.tick(14.0, 0.0)
        assert gone == []
        stream.tick(15.0, 0.0)
        assert gone == ["s1"]
        stream.received(response_of("CDS v=1 n=3 s1@2~10", delta), 20.0, 0.0)
        stream.received(response_of("CDS v=1 n=4 s1@3 s2@1", delta), 21.0, 0.0)
        assert stream.due_s() == float("inf"), "a resource that comes without one lives on"


def test_what_is_wrong_names_the_resources_and_is_bounded() -> None:
    assert detail(CDS.type_url, {"a": "x", "b": "y"}) == "Error adding/updating cluster(s) a: x, b: y"
    assert detail(LDS.type_url, {"a": "x", "b": "y"}) == "Error adding/updating listener(s) a: x\nb: y\n"
    assert detail(EDS.type_url, {"a": 'endpoints of "a": x', "b": "y"}) == 'endpoints of "a": x; b: y'
    assert len(detail(CDS.type_url, {str(number): "x" * 100 for number in range(1000)})) == DETAIL_AT_MOST


def test_types_that_nobody_asked_for_are_noted_once() -> None:
    notes: list[str] = []
    stream = SotwStream(Node(), False, lambda event, **fields: notes.append(fields["type"]))
    stream.opened()
    for _ in range(3):
        stream.received(DiscoveryResponse(type_url="type.googleapis.com/what.is.This", nonce="1"), 0.0, 0.0)

    assert stream.take() == []
    assert notes == ["type.googleapis.com/what.is.This"]


def test_each_kind_has_its_calls() -> None:
    assert KINDS[CDS.type_url].stream == "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
    assert KINDS[EDS.type_url].delta == "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
