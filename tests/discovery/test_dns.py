"""STRICT_DNS by a fake clock and a scripted resolver, and once by the resolver of the machine."""

from __future__ import annotations

import socket

import pytest

from meshproxy.discovery.dns import V4, V6, Found, StrictDns, is_literal, names_of, resolve, system_lookup
from meshproxy.model import Cluster, Endpoint, EndpointSet, PipeAddress, SocketAddress


def cluster(*hosts: str, **settings: object) -> Cluster:
    endpoints = tuple(Endpoint(address=SocketAddress(host=host, port=80)) for host in hosts)
    return Cluster(name="web", discovery="strict_dns", endpoints=endpoints, **settings)


def addresses(told: EndpointSet | None) -> list[str]:
    assert told is not None
    return [str(endpoint.address) for endpoint in told.endpoints]


def lookup_of(answers: dict[tuple[str, int], list[str] | OSError]):
    """A resolver that knows these answers and writes down what it was asked."""
    asked: list[int] = []

    def lookup(host: str, family: int) -> Found:
        asked.append(family)
        answer = answers.get((host, family), [])
        if isinstance(answer, OSError):
            raise answer
        return Found(answer)

    return lookup, asked


BOTH = {("web", V4): ["10.0.0.2", "10.0.0.1"], ("web", V6): ["fd00::1"]}
ONLY_V4 = {("web", V4): ["10.0.0.1"]}
ONLY_V6 = {("web", V6): ["fd00::1"]}


@pytest.mark.parametrize(
    ("family", "answers", "found", "asked"),
    [
        ("auto", BOTH, ["fd00::1"], [V6]),
        ("auto", ONLY_V4, ["10.0.0.1"], [V6, V4]),
        ("v4_preferred", BOTH, ["10.0.0.1", "10.0.0.2"], [V4]),
        ("v4_preferred", ONLY_V6, ["fd00::1"], [V4, V6]),
        ("v4_only", BOTH, ["10.0.0.1", "10.0.0.2"], [V4]),
        ("v4_only", ONLY_V6, [], [V4]),
        ("v6_only", BOTH, ["fd00::1"], [V6]),
        ("v6_only", ONLY_V4, [], [V6]),
        ("all", BOTH, ["10.0.0.1", "10.0.0.2", "fd00::1"], [V6, V4]),
        ("all", {}, [], [V6, V4]),
    ],
)
def test_lookup_family_means_what_envoy_means(family: str, answers: dict, found: list[str], asked: list[int]) -> None:
    lookup, wrote = lookup_of(answers)

    assert resolve(lookup, "web", family) == Found(found)
    assert wrote == asked


def test_one_family_that_fails_does_not_hide_the_other() -> None:
    broken = {("web", V6): OSError("timed out"), ("web", V4): ["10.0.0.1"]}

    assert resolve(lookup_of(broken)[0], "web", "auto").addresses == ["10.0.0.1"]
    assert resolve(lookup_of(broken)[0], "web", "all").addresses == ["10.0.0.1"]


def test_a_failure_is_not_an_empty_answer() -> None:
    broken = {("web", V6): OSError("timed out")}

    with pytest.raises(OSError, match="timed out"):
        resolve(lookup_of(broken)[0], "web", "auto")


def test_an_answer_is_cut_at_a_bound() -> None:
    many = {("web", V4): [f"10.0.{n // 250}.{n % 250}" for n in range(1500)]}

    assert len(resolve(lookup_of(many)[0], "web", "v4_only").addresses) == 1000


@pytest.mark.parametrize(
    ("code", "found"), [(socket.EAI_NONAME, []), (socket.EAI_NODATA, []), (socket.EAI_AGAIN, OSError), (socket.EAI_FAIL, OSError)]
)
def test_getaddrinfo_says_none_or_cannot_tell(code: int, found: object) -> None:
    def getaddrinfo(*_: object) -> list:
        raise socket.gaierror(code, "as scripted")

    lookup = system_lookup(getaddrinfo)
    if found is OSError:
        with pytest.raises(OSError):
            lookup("web", V4)
    else:
        assert lookup("web", V4) == Found([])


def test_names_become_endpoints_and_are_asked_again_after_the_refresh() -> None:
    dns = StrictDns()
    assert dns.put(cluster("a.example"), now_s=100.0) is None

    [question] = dns.due(100.0)
    assert (question.cluster, question.host, question.family) == ("web", "a.example", "auto")
    assert dns.due(100.0) == [], "it is being asked"
    told = dns.answered(question, Found(["10.0.0.1", "10.0.0.2"]), now_s=101.0)

    assert addresses(told) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert {endpoint.hostname for endpoint in told.endpoints} == {"a.example"}
    assert dns.next_due_s() == 106.0
    assert dns.due(105.9) == []
    assert len(dns.due(106.0)) == 1


@pytest.mark.parametrize(
    ("respects", "ttl_s", "wait_s"), [(True, 30, 30.0), (True, 1, 1.0), (True, 0, 5.0), (False, 30, 5.0)],
    ids=["longer", "shorter", "none told", "not wanted"],
)
def test_the_next_question_comes_when_the_ttl_is_over(respects: bool, ttl_s: int, wait_s: float) -> None:
    dns = StrictDns()
    dns.put(cluster("a.example", respect_dns_ttl=respects), now_s=0.0)
    [question] = dns.due(0.0)
    dns.answered(question, Found(["10.0.0.1"], ttl_s), now_s=2.0)

    assert question.by_ttl is respects
    assert dns.next_due_s() == 2.0 + wait_s


def test_of_two_families_the_shorter_ttl_counts() -> None:
    answers = {V6: Found(["fd00::1"], 60), V4: Found(["10.0.0.1"], 20)}

    assert resolve(lambda host, family: answers[family], "web", "all") == Found(["10.0.0.1", "fd00::1"], 20)
    assert resolve(lambda host, family: answers[family], "web", "auto") == Found(["fd00::1"], 60)
    answers[V6] = Found([])
    assert resolve(lambda host, family: answers[family], "web", "auto") == Found(["10.0.0.1"], 20)


def test_the_same_answer_is_no_news() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example"), now_s=0.0)
    dns.answered(dns.due(0.0)[0], Found(["10.0.0.1"]), now_s=0.0)

    assert dns.answered(dns.due(5.0)[0], Found(["10.0.0.1"]), now_s=5.0) is None
    assert addresses(dns.answered(dns.due(10.0)[0], Found(["10.0.0.9"]), now_s=10.0)) == ["10.0.0.9:80"]


def test_no_such_name_takes_the_endpoints_away() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example"), now_s=0.0)
    dns.answered(dns.due(0.0)[0], Found(["10.0.0.1"]), now_s=0.0)

    assert addresses(dns.answered(dns.due(5.0)[0], Found([]), now_s=5.0)) == []


def test_failures_keep_the_endpoints_and_wait_longer_each_time() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example", dns_refresh_s=2.0), now_s=0.0)
    dns.answered(dns.due(0.0)[0], Found(["10.0.0.1"]), now_s=0.0)
    now_s, waits = 2.0, []
    for _ in range(6):
        dns.failed(dns.due(now_s)[0], now_s, random=0.0)
        waits.append(dns.next_due_s() - now_s)
        now_s = dns.next_due_s()

    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0], "half of 2, 4, 8, 16, 20, 20: the lower end of the jitter"
    assert dns.answered(dns.due(now_s)[0], Found(["10.0.0.1"]), now_s) is None, "nothing was taken away meanwhile"
    assert dns.next_due_s() - now_s == 2.0


def test_jitter_spreads_over_the_upper_half() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example", dns_refresh_s=2.0), now_s=0.0)
    dns.failed(dns.due(0.0)[0], 0.0, random=0.999)

    assert 1.99 < dns.next_due_s() < 2.0


def test_literal_addresses_and_pipes_need_no_lookup() -> None:
    dns = StrictDns()
    mixed = Cluster(
        name="web",
        discovery="strict_dns",
        endpoints=(
            Endpoint(address=SocketAddress(host="10.0.0.1", port=80), weight=3),
            Endpoint(address=SocketAddress(host="fd00::1", port=80)),
            Endpoint(address=PipeAddress(path="/run/web.sock")),
        ),
    )

    assert addresses(dns.put(mixed, now_s=0.0)) == ["10.0.0.1:80", "[fd00::1]:80", "/run/web.sock"]
    assert dns.due(0.0) == []
    assert dns.next_due_s() is None
    assert dns.put(mixed, now_s=1.0) is None


def test_addresses_beside_a_name_do_not_wait_for_it() -> None:
    dns = StrictDns()

    assert addresses(dns.put(cluster("a.example", "10.0.0.1"), now_s=0.0)) == ["10.0.0.1:80"]
    assert addresses(dns.answered(dns.due(0.0)[0], Found(["10.0.0.2"]), now_s=0.0)) == ["10.0.0.2:80", "10.0.0.1:80"]


def test_names_are_host_names_of_clusters_that_are_not_static() -> None:
    several = cluster("a.example", "10.0.0.1", "b.example", "a.example", "fe80::1%eth0")

    assert names_of(several) == ["a.example", "b.example"]
    assert names_of(Cluster(name="web", endpoints=several.endpoints)) == []


def test_warm_is_who_has_had_an_answer_or_a_failure_to_each_name() -> None:
    dns = StrictDns()
    assert dns.is_warm()
    dns.put(cluster("a.example", "b.example"), now_s=0.0)
    first, second = dns.due(0.0)
    assert not dns.is_warm()
    dns.answered(first, Found([]), now_s=0.0)
    assert not dns.is_warm()
    dns.failed(second, 0.0, random=0.0)
    assert dns.is_warm()

    dns.put(cluster("a.example", "c.example"), now_s=1.0)
    assert not dns.is_warm(), "what is known of a stays, c is new"
    [third] = [question for question in dns.due(1.0) if question.host == "c.example"]
    dns.answered(third, Found(["10.0.0.1"]), now_s=1.0)
    assert dns.is_warm()


def test_nobody_is_waited_for_who_is_not_to_be() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example", wait_for_warm=False), now_s=0.0)

    assert dns.is_warm()


def test_weight_hostname_and_port_are_kept() -> None:
    dns = StrictDns()
    configured = Cluster(
        name="web",
        discovery="strict_dns",
        endpoints=(
            Endpoint(address=SocketAddress(host="a.example", port=80), weight=3, hostname="shop"),
            Endpoint(address=SocketAddress(host="a.example", port=81)),
        ),
    )
    dns.put(configured, now_s=0.0)
    asked = dns.due(0.0)
    told = dns.answered(asked[0], Found(["10.0.0.1"]), 0.0)

    assert len(asked) == 1, "one name, one question"
    assert [(str(e.address), e.weight, e.hostname) for e in told.endpoints] == [
        ("10.0.0.1:80", 3, "shop"),
        ("10.0.0.1:81", 1, "a.example"),
    ]


def test_an_address_of_two_names_is_one_endpoint() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example", "b.example"), now_s=0.0)
    first, second = dns.due(0.0)

    assert addresses(dns.answered(first, Found(["10.0.0.1"]), 0.0)) == ["10.0.0.1:80"]
    assert dns.answered(second, Found(["10.0.0.1"]), 0.0) is None


def test_a_changed_cluster_keeps_what_is_known_and_late_answers_are_nobodys() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example"), now_s=0.0)
    dns.answered(dns.due(0.0)[0], Found(["10.0.0.1"]), 0.0)
    [late] = dns.due(5.0)
    told = dns.put(cluster("a.example", "b.example"), now_s=6.0)

    assert told is None, "the same address is known of the new form"
    assert dns.answered(late, Found(["10.6.6.6"]), 7.0) is None
    assert [question.host for question in dns.due(7.0)] == ["a.example", "b.example"]


def test_a_removed_cluster_is_forgotten() -> None:
    dns = StrictDns()
    dns.put(cluster("a.example"), now_s=0.0)
    [late] = dns.due(0.0)
    dns.remove("web")

    assert dns.answered(late, Found(["10.0.0.1"]), 1.0) is None
    assert dns.next_due_s() is None


def test_what_the_node_has_already_is_not_sent_again() -> None:
    has = EndpointSet(cluster="web", endpoints=(Endpoint(address=SocketAddress(host="10.0.0.1", port=80), hostname="a.example"),))
    dns = StrictDns()
    dns.put(cluster("a.example"), now_s=0.0, told=has)

    assert dns.answered(dns.due(0.0)[0], Found(["10.0.0.1"]), 0.0) is None


@pytest.mark.parametrize(
    ("host", "literal"), [("10.0.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("localhost", False), ("1.2.3", False)]
)
def test_literals(host: str, literal: bool) -> None:
    assert is_literal(host) is literal


def test_a_real_name_by_the_systems_resolver() -> None:
    assert resolve(system_lookup(socket.getaddrinfo), "localhost", "v4_only") == Found(["127.0.0.1"])
