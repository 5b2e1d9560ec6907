"""DNS clusters kept up to date: names are asked for, changes are told, failures keep what was."""

from __future__ import annotations

import gevent
from gevent.event import Event
from gevent.queue import Queue

from meshproxy.agent.resolving import Resolving, threaded_lookup
from meshproxy.discovery.dns import V4
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, Endpoint, EndpointSet, SocketAddress


def dns_cluster(host: str, name: str = "web", **settings: object) -> Cluster:
    endpoint = Endpoint(address=SocketAddress(host=host, port=80))
    return Cluster(name=name, discovery="strict_dns", endpoints=(endpoint,), dns_lookup_family="v4_only", **settings)


class Resolver:
    """Answers as scripted; `asked` gets each name."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers: dict[str, list[str] | OSError] = dict(answers)
        self.asked: Queue = Queue()

    def __call__(self, host: str, family: int) -> list[str]:
        self.asked.put(host)
        answer = self.answers.get(host, [])
        if isinstance(answer, OSError):
            raise answer
        return answer


def addresses(found: EndpointSet) -> list[str]:
    return [str(endpoint.address) for endpoint in found.endpoints]


def test_a_cluster_is_resolved_and_changes_are_told() -> None:
    resolver, told = Resolver(a=["10.0.0.1"]), Queue()
    resolving = Resolving(resolver, told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("a", dns_refresh_s=0.01, alt_stat_name="shop"), None)])

    assert addresses(told.get(timeout=20)) == ["10.0.0.1:80"]
    resolver.answers["a"] = ["10.0.0.2"]
    assert addresses(told.get(timeout=20)) == ["10.0.0.2:80"]
    assert resolving.counters()["cluster.shop.update_success"] >= 2
    running.kill()


def test_a_failure_keeps_what_was_and_is_counted() -> None:
    resolver, told = Resolver(a=["10.0.0.1"]), Queue()
    resolving = Resolving(resolver, told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("a", dns_refresh_s=0.01), None)])
    told.get(timeout=20)
    resolver.answers["a"] = OSError("the server does not answer")
    for _ in range(resolver.asked.qsize() + 2):
        resolver.asked.get(timeout=20)
    resolver.answers["a"] = ["10.0.0.3"]

    assert addresses(told.get(timeout=20)) == ["10.0.0.3:80"], "nothing was told in between"
    assert resolving.counters()["cluster.web.update_failure"] >= 1
    running.kill()


def test_a_name_that_hangs_holds_up_nobody_else() -> None:
    hanging, told = Event(), Queue()

    def lookup(host: str, family: int) -> list[str]:
        if host == "slow":
            hanging.wait()
        return ["10.0.0.1"]

    resolving = Resolving(lookup, told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("slow", name="one"), None), (dns_cluster("fast", name="two"), None)])

    assert told.get(timeout=20).cluster == "two"
    hanging.set()
    assert told.get(timeout=20).cluster == "one"
    running.kill()


def test_a_cluster_that_is_gone_or_static_is_not_asked_for() -> None:
    resolver, told = Resolver(a=["10.0.0.1"], b=["10.0.0.2"]), Queue()
    resolving = Resolving(resolver, told.put, Journal("error"))
    resolving.watch([(dns_cluster("a"), None), (dns_cluster("b", name="other"), None)])
    resolving.watch([(Cluster(name="web"), None)])
    resolving.forget(["other"])
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("c", name="last"), None)])

    assert told.get(timeout=20).cluster == "last"
    assert resolver.asked.qsize() == 1
    running.kill()


def test_the_machines_resolver_runs_in_a_thread() -> None:
    assert threaded_lookup()("localhost", V4) == ["127.0.0.1"]
