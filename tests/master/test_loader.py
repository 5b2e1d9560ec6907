"""Reading a configuration in a child."""

import os

import msgspec
import pytest

from meshproxy.master.loader import LIMIT_S, Loaded, Loader, Refused, load_now
from meshproxy.model import Node, ResourceKind
from tests.master.node import listener, snapshot

ENTRY = "tests.master.stubs:load"


def test_resources_and_settings_come_back(tmp_path) -> None:
    path = tmp_path / "c.json"
    odd = msgspec.structs.replace(snapshot(listener("a"), clusters=("c",), workers=3), node=Node(id="odd"))
    path.write_bytes(msgspec.json.encode(odd))

    loaded = load_now(ENTRY, str(path), {})

    assert isinstance(loaded, Loaded)
    assert [(each.kind, each.name) for each in loaded.resources] == [
        (ResourceKind.CLUSTER, "c"), (ResourceKind.ROUTE_TABLE, "routes"), (ResourceKind.LISTENER, "a"),
    ]
    assert loaded.process.workers == 3
    assert [str(problem) for problem in loaded.warnings] == [f"{path}: an odd name"]


def test_all_problems_come_back(tmp_path) -> None:
    path = tmp_path / "c.json"
    path.write_text("[]")

    refused = load_now(ENTRY, str(path), {})

    assert isinstance(refused, Refused)
    assert [problem.line for problem in refused.problems] == [1, 2]


def test_a_configuration_longer_than_a_pipe_comes_whole(tmp_path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(msgspec.json.encode(snapshot(listener("a"), clusters=tuple(f"cluster-{n}" for n in range(20_000)))))

    loaded = load_now(ENTRY, str(path), {})

    assert isinstance(loaded, Loaded)
    assert len(loaded.resources) == 20_002


def test_a_loader_that_dies_or_takes_too_long_is_a_refusal() -> None:
    died = load_now("tests.master.stubs:load_and_die", "c.yaml", {})
    assert isinstance(died, Refused)
    assert str(died.problems[0]).startswith("c.yaml: the loader died")

    read_end, write_end = os.pipe()
    loader = Loader("tests.master.stubs:load", f"/proc/self/fd/{read_end}", {}, 0.0)
    late = loader.give_up()
    os.waitpid(loader.pid, 0)
    os.close(read_end)
    os.close(write_end)
    assert str(late.problems[0]) == f"/proc/self/fd/{read_end}: not read within {LIMIT_S:g} s. Is its file system there?"


@pytest.mark.parametrize(("idle", "policy"), [(True, os.SCHED_IDLE), (False, os.SCHED_OTHER)])
def test_an_idle_loader_has_only_the_time_that_nobody_wants(idle: bool, policy: int) -> None:
    loader = Loader("tests.master.stubs:load_and_tell_policy", "c.yaml", {}, 0.0, idle=idle)
    while (result := loader.read()) is None:
        pass
    os.waitpid(loader.pid, 0)

    assert isinstance(result, Loaded)
    assert result.settings.node.id == str(policy)
