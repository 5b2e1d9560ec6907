"""What every kind of source must do, on a real peer of its kind. A new kind needs a stage in `stages` and a line in STAGES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from meshproxy.discovery.sources import SOURCES
from meshproxy.model import ConsulService, DnsSrv, EndpointFiles
from tests.discovery.stages import ConsulStage, FilesStage, SrvStage, Stage, watched
from tests.peers.process import PeerMissingError

STAGES: dict[type, Callable[[Path, Callable[[str], object]], Stage]] = {
    ConsulService: lambda directory, peer: ConsulStage(peer("consul")),
    DnsSrv: lambda directory, peer: SrvStage(directory),
    EndpointFiles: lambda directory, peer: FilesStage(directory),
}


@pytest.fixture(params=list(SOURCES), ids=lambda kind: kind.__name__)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    made = STAGES[request.param](tmp_path, request.getfixturevalue)
    try:
        made.set(8001, 8002)
    except PeerMissingError as error:
        pytest.skip(str(error))
    yield made
    made.close()


FIRST = ["127.0.0.1:8001", "127.0.0.1:8002"]


def test_the_first_answer_is_told(stage: Stage) -> None:
    with watched(stage.source) as (heard, _):
        assert heard.next_set() == FIRST


def test_changes_are_told_as_whole_sets(stage: Stage) -> None:
    with watched(stage.source) as (heard, _):
        heard.next_set()
        stage.set(8002, 8003)
        while (found := heard.next_set()) != ["127.0.0.1:8002", "127.0.0.1:8003"]:
            assert set(found) <= {*FIRST, "127.0.0.1:8003"}


def test_what_did_not_change_is_not_told(stage: Stage) -> None:
    with watched(stage.source) as (heard, _):
        heard.next_set()
        while not heard.same.empty():
            heard.same.get()
        stage.touch()
        heard.same.get(timeout=30)

        assert heard.sets.empty()


def test_no_endpoints_are_an_answer(stage: Stage) -> None:
    with watched(stage.source) as (heard, _):
        heard.next_set()
        stage.set()
        while heard.next_set():
            pass

        assert heard.last == ()


@pytest.mark.parametrize("trouble", ["fail", "garble"])
def test_trouble_is_told_and_what_comes_after_it(stage: Stage, trouble: str) -> None:
    with watched(stage.source) as (heard, clock):
        heard.next_set()
        getattr(stage, trouble)()
        assert heard.next_error()
        assert heard.sets.empty()
        stage.mend()

        assert heard.next_set() == FIRST
        assert all(seconds > 0 for seconds in clock.slept), "nobody is asked without a pause"


@pytest.mark.parametrize("trouble", ["", "fail", "garble"])
def test_it_ends_when_it_is_told_to(stage: Stage, trouble: str) -> None:
    with watched(stage.source) as (heard, _):
        heard.next_set()
        if trouble:
            getattr(stage, trouble)()
            heard.next_error()

    if isinstance(stage, ConsulStage):
        with gevent.Timeout(30):
            while stage.relay.links:
                gevent.sleep(0)
