"""Found clusters kept up to date by scripted sources."""

from __future__ import annotations

import gevent
import pytest
from gevent.queue import Queue

from meshproxy.agent import finding as module
from meshproxy.agent.finding import Finding
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, DnsSrv, Endpoint, EndpointSet, SocketAddress

A, B = DnsSrv(name="a"), DnsSrv(name="b")


def cluster(*sources: DnsSrv, name: str = "web", **settings: object) -> Cluster:
    return Cluster(name=name, discovery="found", sources=sources, **{"debounce_s": 0.0, **settings})


def at(*ports: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address=SocketAddress("10.0.0.1", port)) for port in ports)


class Scripts:
    """Sources that say what they are given: () -> a set, str -> a failure, an exception -> it breaks."""

    def __init__(self) -> None:
        self.lines: dict[str, Queue] = {}
        self.begun: Queue = Queue()
        self.ended: Queue = Queue()

    def say(self, source: DnsSrv, line: object) -> None:
        self.lines.setdefault(source.name, Queue()).put(line)

    def __call__(self, wanted: DnsSrv) -> object:
        scripts = self

        class Scripted:
            def watch(self, sink, clock) -> None:
                scripts.begun.put(wanted.name)
                try:
                    while True:
                        line = scripts.lines.setdefault(wanted.name, Queue()).get()
                        if isinstance(line, Exception):
                            raise line
                        sink.failed(line) if isinstance(line, str) else sink.found(line)
                finally:
                    scripts.ended.put(wanted.name)

        return Scripted()


@pytest.fixture
def played():
    scripts, told = Scripts(), Queue()
    finding = Finding(told.put, Journal("error"), lambda: None, scripts)
    running = gevent.spawn(finding.run)
    yield finding, scripts, told
    running.kill()
    finding.forget(["web", "other"])


def ports(told: Queue) -> list[int]:
    found: EndpointSet = told.get(timeout=20)
    return [endpoint.address.port for endpoint in found.endpoints]


def test_what_sources_say_is_published_and_counted(played) -> None:
    finding, scripts, told = played
    finding.watch([(cluster(A, B, alt_stat_name="shop"), None)])
    assert not finding.is_warm()
    scripts.say(A, at(1))
    assert ports(told) == [1]
    scripts.say(B, "away")
    scripts.say(B, at(2))
    assert ports(told) == [1, 2]

    assert finding.is_warm()
    assert finding.counters() == {
        "cluster.shop.update_attempt": 3, "cluster.shop.update_success": 2,
        "cluster.shop.update_failure": 1, "cluster.shop.update_empty": 0,
    }
    assert finding.gauges() == {"cluster.shop.update_age": 0}
    assert [(state.name, state.endpoints, state.error) for state in finding.states("web")] == [("dns_srv a", 1, ""), ("dns_srv b", 1, "")]
    assert finding.states("nobody") == []


def test_time_alone_tells_what_was_held_back(played) -> None:
    finding, scripts, told = played
    finding.watch([(cluster(A, keep_last_s=0.02, debounce_s=0.02), None)])
    scripts.say(A, at(1))
    scripts.say(A, at(2))
    scripts.say(A, at(3))
    assert ports(told) == [1]
    assert ports(told) == [3]
    scripts.say(A, ())

    assert ports(told) == []


def test_a_source_in_both_forms_of_a_cluster_is_watched_on(played) -> None:
    finding, scripts, told = played
    finding.watch([(cluster(A, B), None)])
    assert {scripts.begun.get(timeout=20), scripts.begun.get(timeout=20)} == {"a", "b"}
    scripts.say(A, at(1))
    assert ports(told) == [1]
    finding.watch([(cluster(A, balance="random"), None)])
    assert scripts.ended.get(timeout=20) == "b"
    scripts.say(A, at(2))

    assert ports(told) == [2]
    assert scripts.begun.empty()
    assert scripts.ended.empty()


def test_a_cluster_that_is_gone_or_static_is_not_watched(played) -> None:
    finding, scripts, _ = played
    finding.watch([(cluster(A), None), (cluster(B, name="other"), None)])
    scripts.begun.get(timeout=20), scripts.begun.get(timeout=20)
    finding.watch([(Cluster(name="web"), None)])
    finding.forget(["other"])

    assert {scripts.ended.get(timeout=20), scripts.ended.get(timeout=20)} == {"a", "b"}
    assert finding.counters() == {}
    assert finding.is_warm()


def test_a_source_that_breaks_is_watched_anew(played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.001)
    finding, scripts, told = played
    finding.watch([(cluster(A), None)])
    scripts.say(A, KeyError("a mistake"))
    scripts.say(A, at(1))

    assert ports(told) == [1]
    assert finding.counters()["cluster.web.update_failure"] == 1


def test_an_heir_goes_on_with_what_the_node_has(played) -> None:
    finding, scripts, told = played
    finding.watch([(cluster(A), EndpointSet(cluster="web", endpoints=at(1, 2)))])
    scripts.say(A, "away")
    scripts.say(A, at(1, 2))
    scripts.say(A, at(2))

    assert ports(told) == [2]
