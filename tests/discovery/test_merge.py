"""Several sources of one cluster by a fake clock."""

from __future__ import annotations

from meshproxy.discovery.merge import Merge
from meshproxy.model import Cluster, DnsSrv, Endpoint, EndpointFiles, EndpointSet, SocketAddress

A, B = DnsSrv(name="a"), EndpointFiles(globs=("/b",))


def cluster(*sources: object, **settings: object) -> Cluster:
    return Cluster(name="web", discovery="found", sources=sources or (A,), **{"keep_last_s": 60.0, "debounce_s": 0.0, **settings})


def at(*ports: int, weight: int = 1) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address=SocketAddress("10.0.0.1", port), weight=weight) for port in ports)


def told(change: EndpointSet | None) -> list[int] | None:
    return None if change is None else [endpoint.address.port for endpoint in change.endpoints]


def test_only_differences_are_told() -> None:
    merge = Merge(cluster(), 0.0)

    assert merge.change(0.0) is None
    merge.found(A, at(1), 0.0)
    assert told(merge.change(0.0)) == [1]
    merge.found(A, at(1), 1.0)
    assert merge.change(1.0) is None
    assert merge.due_s() is None


def test_an_empty_first_answer_is_told_and_a_first_failure_is_not() -> None:
    empty, failing = Merge(cluster(), 0.0), Merge(cluster(), 0.0)
    empty.found(A, (), 0.0)
    failing.failed(A, "no", 0.0)

    assert told(empty.change(0.0)) == []
    assert failing.change(0.0) is None


def test_sources_are_joined_and_the_first_decides_about_an_address() -> None:
    merge = Merge(cluster(A, B), 0.0)
    merge.found(B, at(1, 2, weight=5), 0.0)
    merge.found(A, at(1), 0.0)
    change = merge.change(0.0)

    assert told(change) == [1, 2]
    assert change.endpoints[0].weight == 1


def test_a_source_that_goes_empty_or_fails_counts_for_a_while() -> None:
    for trouble in ("empty", "failure"):
        merge = Merge(cluster(A, B), 0.0)
        merge.found(A, at(1), 0.0)
        merge.found(B, at(2), 0.0)
        merge.change(0.0)
        if trouble == "empty":
            assert merge.found(A, (), 10.0)
        else:
            assert merge.failed(A, "no", 10.0)
            assert not merge.failed(A, "no", 30.0), "it is told of once"

        assert merge.change(69.0) is None
        assert merge.due_s() == 70.0
        assert told(merge.change(70.0)) == [2], trouble
        assert merge.due_s() is None
        merge.found(A, at(1), 80.0)
        assert told(merge.change(80.0)) == [1, 2]


def test_an_answer_in_time_ends_the_wait() -> None:
    merge = Merge(cluster(), 0.0)
    merge.found(A, at(1), 0.0)
    merge.change(0.0)
    merge.failed(A, "no", 10.0)
    merge.found(A, at(1), 20.0)

    assert merge.change(100.0) is None
    assert merge.due_s() is None


def test_churn_is_told_so_often_and_the_first_change_at_once() -> None:
    merge = Merge(cluster(debounce_s=1.0), 0.0)
    merge.found(A, at(1), 0.0)
    assert told(merge.change(0.0)) == [1]
    merge.found(A, at(2), 0.1)
    merge.found(A, at(3), 0.2)

    assert merge.change(0.2) is None
    assert merge.due_s() == 1.0
    assert told(merge.change(1.0)) == [3]
    merge.found(A, at(4), 5.0)
    assert told(merge.change(5.0)) == [4]


def test_what_the_node_has_already_counts_until_a_source_was_asked() -> None:
    merge = Merge(cluster(), 0.0, EndpointSet(cluster="web", endpoints=at(1, 2)))
    assert merge.change(0.0) is None
    merge.failed(A, "no", 0.0)
    assert merge.change(59.0) is None, "a registry that is away when the agent starts takes nothing away"
    merge.found(A, at(2), 59.0)

    assert told(merge.change(59.0)) == [2]


def test_sources_in_both_forms_of_a_cluster_stand_as_they_stood() -> None:
    old = Merge(cluster(A), 0.0)
    old.found(A, at(1), 0.0)
    old.change(0.0)
    new = Merge(cluster(A, B, wait_for_warm=True), 5.0, old=old)

    assert not new.is_warm()
    assert new.change(5.0) is None
    new.found(B, (), 6.0)
    assert new.is_warm()
    assert new.change(6.0) is None
    assert new.age_s(7.0) == 7.0


def test_warm_is_when_each_was_asked_and_all_is_told() -> None:
    merge = Merge(cluster(A, B, debounce_s=1.0), 0.0)
    merge.found(A, at(1), 0.0)
    merge.change(0.0)
    assert not merge.is_warm()
    merge.found(B, at(2), 0.5)
    assert not merge.is_warm(), "workers do not have it yet"
    merge.change(1.0)

    assert merge.is_warm()
    assert Merge(cluster(wait_for_warm=False), 0.0).is_warm()
