"""SRV records: groups, weights, targets whose lookup fails, and a real name server with its search list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshproxy.discovery.dns import Found
from meshproxy.discovery.srv import Lookups, SrvSource, Target, Targets, first_group, spread
from meshproxy.model import DnsSrv, Endpoint, SocketAddress
from tests.discovery.stages import SrvStage, watched
from tests.peers.process import PeerMissingError

ONE, TWO, LATER = Target(1, 5, 80, "a"), Target(1, 0, 81, "b"), Target(2, 5, 82, "c")


def test_the_lowest_priority_is_the_group() -> None:
    assert first_group([LATER, TWO, ONE]) == [TWO, ONE]
    assert first_group([Target(0, 0, 0, ""), LATER]) == [LATER], "RFC 2782: a target of . is none"
    assert first_group([]) == []


def test_targets_are_spread_over_their_addresses() -> None:
    known = {"a": Found(["10.0.0.1", "10.0.0.2"]), "b": Found(["10.0.0.1"])}

    assert spread([ONE, TWO, LATER], known) == (
        Endpoint(address=SocketAddress("10.0.0.1", 80), weight=5, hostname="a"),
        Endpoint(address=SocketAddress("10.0.0.1", 81), weight=1, hostname="b"),
        Endpoint(address=SocketAddress("10.0.0.2", 80), weight=5, hostname="a"),
    )


def test_a_target_whose_lookup_fails_has_the_addresses_that_it_had() -> None:
    answers: dict[str, Found | OSError] = {"a": Found(["10.0.0.1"], 7), "b": Found(["10.0.0.2"], 9)}
    asked: list[str] = []

    def address(host: str, family: int) -> Found:
        asked.append(host)
        answer = answers[host]
        if isinstance(answer, OSError):
            raise answer
        return answer

    lookups = Lookups(lambda name: Targets([ONE, TWO], 0), address)
    with watched(SrvSource(DnsSrv(name="x", lookup_family="v4_only"), lambda: lookups)) as (heard, clock):
        assert heard.next_set() == ["10.0.0.1:80", "10.0.0.2:81"]
        answers["a"] = OSError("no")
        answers["b"] = Found(["10.0.0.3"], 9)
        assert heard.next_set() == ["10.0.0.1:80", "10.0.0.3:81"]
        answers["b"] = OSError("no")
        for _ in range(3):
            heard.same.get(timeout=30)

        assert heard.errors.empty()
        assert clock.slept[0] == 7, "the shortest TTL of all that was asked"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[SrvStage]:
    made = SrvStage(tmp_path)
    yield made
    made.close()


def test_a_real_server_and_the_search_list(stage: SrvStage) -> None:
    try:
        stage.set_records(*(f"_web._tcp.sub.test,a.test,{end}" for end in ("8001,1,30", "8002,1,10", "8003,2,10")))
    except PeerMissingError as error:
        pytest.skip(str(error))
    with watched(stage.source) as (heard, _):
        assert heard.next_set() == ["127.0.0.1:8001", "127.0.0.1:8002"]
        assert [(each.weight, each.hostname) for each in heard.last] == [(30, "a.test"), (10, "a.test")]
        stage.set_records("_web._tcp.sub.test,a.test,8003,2,10")
        while heard.next_set() != ["127.0.0.1:8003"]:
            pass
