"""DNS clusters kept up to date: names are asked for, changes are told, failures keep what was."""

from __future__ import annotations

from pathlib import Path

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from meshproxy.agent.resolving import Resolving, threaded_lookup
from meshproxy.discovery.dns import V4, Found
from meshproxy.discovery.name_servers import NameServers
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, Endpoint, EndpointSet, SocketAddress
from tests.peers.dnsmasq import Dnsmasq
from tests.peers.process import PeerMissingError, free_ports


def dns_cluster(host: str, name: str = "web", **settings: object) -> Cluster:
    endpoint = Endpoint(address=SocketAddress(host=host, port=80))
    return Cluster(name=name, discovery="strict_dns", endpoints=(endpoint,), dns_lookup_family="v4_only", **settings)


class Resolver:
    """Answers as scripted; `asked` gets each name."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers: dict[str, list[str] | OSError] = dict(answers)
        self.asked: Queue = Queue()

    def __call__(self, host: str, family: int) -> Found:
        self.asked.put(host)
        answer = self.answers.get(host, [])
        if isinstance(answer, OSError):
            raise answer
        return Found(answer)


def nobody(host: str, family: int) -> Found:
    raise AssertionError(f"{host} is asked for by a resolver that this test does not want")


def addresses(found: EndpointSet) -> list[str]:
    return [str(endpoint.address) for endpoint in found.endpoints]


def test_a_cluster_is_resolved_and_changes_are_told() -> None:
    resolver, told = Resolver(a=["10.0.0.1"]), Queue()
    resolving = Resolving(resolver, nobody, told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("a", dns_refresh_s=0.01, alt_stat_name="shop"), None)])

    assert addresses(told.get(timeout=20)) == ["10.0.0.1:80"]
    resolver.answers["a"] = ["10.0.0.2"]
    assert addresses(told.get(timeout=20)) == ["10.0.0.2:80"]
    assert resolving.counters()["cluster.shop.update_success"] >= 2
    running.kill()


def test_a_failure_keeps_what_was_and_is_counted() -> None:
    resolver, told = Resolver(a=["10.0.0.1"]), Queue()
    resolving = Resolving(resolver, nobody, told.put, Journal("error"))
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

    def lookup(host: str, family: int) -> Found:
        if host == "slow":
            hanging.wait()
        return Found(["10.0.0.1"])

    resolving = Resolving(lookup, nobody, told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("slow", name="one"), None), (dns_cluster("fast", name="two"), None)])

    assert told.get(timeout=20).cluster == "two"
    hanging.set()
    assert told.get(timeout=20).cluster == "one"
    running.kill()


def test_a_cluster_that_is_gone_or_static_is_not_asked_for() -> None:
    resolver, told = Resolver(a=["10.0.0.1"], b=["10.0.0.2"]), Queue()
    resolving = Resolving(resolver, nobody, told.put, Journal("error"))
    resolving.watch([(dns_cluster("a"), None), (dns_cluster("b", name="other"), None)])
    resolving.watch([(Cluster(name="web"), None)])
    resolving.forget(["other"])
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("c", name="last"), None)])

    assert told.get(timeout=20).cluster == "last"
    assert resolver.asked.qsize() == 1
    running.kill()


def test_the_machines_resolver_runs_in_a_thread() -> None:
    assert threaded_lookup()("localhost", V4) == Found(["127.0.0.1"])


def test_a_cluster_that_goes_by_ttls_is_asked_for_by_the_name_servers() -> None:
    servers, told = Resolver(a=["10.0.0.1"]), Queue()
    resolving = Resolving(nobody, servers, told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    resolving.watch([(dns_cluster("a", respect_dns_ttl=True), None)])

    assert addresses(told.get(timeout=20)) == ["10.0.0.1:80"]
    running.kill()


def test_a_ttl_that_is_over_brings_the_new_address(tmp_path: Path) -> None:
    """A real server with a TTL of a second, asked in gevent's threads, while `dns_refresh_s` is an hour."""
    [port] = free_ports(1)
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    servers = NameServers(str(resolv_conf), str(tmp_path / "hosts"), port)
    try:
        server = Dnsmasq(tmp_path, port, {"web.test": "10.0.0.1"}, ttl_s=1).start()
    except PeerMissingError as error:
        pytest.skip(str(error))
    told: Queue = Queue()
    resolving = Resolving(nobody, lambda *asked: gevent.get_hub().threadpool.apply(servers, asked), told.put, Journal("error"))
    running = gevent.spawn(resolving.run)
    try:
        resolving.watch([(dns_cluster("web.test", respect_dns_ttl=True, dns_refresh_s=3600.0), None)])
        assert addresses(told.get(timeout=20)) == ["10.0.0.1:80"]
        server.change({"web.test": "10.0.0.2"})
        assert addresses(told.get(timeout=20)) == ["10.0.0.2:80"]
    finally:
        running.kill()
        server.stop()
