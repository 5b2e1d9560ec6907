"""Resources by polls and out of files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from google.protobuf import json_format

from meshproxy.model.xds import ConfigSource
from tests.agent.xds_scene import control_plane, scene, until
from tests.discovery.xds_conversations import response_of


def written(line: str) -> str:
    """A response as JSON."""
    return json_format.MessageToJson(response_of(line, False))


class Plane:
    """A control plane by HTTP: `answer` is (status, body); each request is kept."""

    def __init__(self) -> None:
        self.answer: tuple[str, str] = ("200 OK", written("CDS v=1 s1"))
        self.hang = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._server = WSGIServer(("127.0.0.1", 0), self._take, log=None, error_log=None)
        self._server.start()
        self.port = self._server.server_port

    def _take(self, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        self.asked.append((environ["PATH_INFO"], json.loads(environ["wsgi.input"].read())))
        if self.hang:
            Event().wait()
        status, body = self.answer
        start(status, [("Content-Length", str(len(body.encode())))])
        return [body.encode()]

    def close(self) -> None:
        self._server.stop(timeout=0)


@pytest.fixture
def plane() -> Iterator[Plane]:
    made = Plane()
    yield made
    made.close()


def polled(**settings: Any) -> ConfigSource:
    return ConfigSource(kind="rest", clusters=("control_plane",), refresh_s=0.02, **settings)


def test_polls_say_the_version_that_is_in_force(plane: Plane) -> None:
    with scene(control_plane(plane.port)) as node:
        clusters = node.ask("CDS", polled())
        assert clusters.names() == ["s1"]
        until(lambda: len(plane.asked) > 1)
        plane.answer = "200 OK", written("CDS v=2 s2")
        until(lambda: len(clusters.updates) > 1 and clusters.names() == ["s2"])

        assert clusters.updates[-1].removed == ["s1"]
        first, second = plane.asked[:2]
        assert first[0] == "/v3/discovery:clusters"
        assert first[1]["node"]["id"] == "vm-7"
        assert "version_info" not in first[1]
        assert second[1]["version_info"] == "1"


def test_names_are_asked_for(plane: Plane) -> None:
    plane.answer = "200 OK", written("EDS v=1 a")
    with scene(control_plane(plane.port)) as node:
        assert node.ask("EDS", polled(), {"a", "b"}).names() == ["a"]
        assert plane.asked[0][1]["resource_names"] == ["a", "b"]


@pytest.mark.parametrize("answer", [("304 Not Modified", ""), ("200 OK", "")])
def test_nothing_new_is_no_update(plane: Plane, answer: tuple[str, str]) -> None:
    with scene(control_plane(plane.port)) as node:
        clusters = node.ask("CDS", polled())
        clusters.names()
        plane.answer = answer
        asked = len(plane.asked)
        until(lambda: len(plane.asked) > asked + 3)
        told = len(clusters.updates)
        until(lambda: len(plane.asked) > asked + 6)

        assert len(clusters.updates) == told
        assert node.plane.connected


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (("500 Internal Server Error", "out of order"), "500 out of order"),
        (("200 OK", "{garbage"), "the answer of control_plane"),
        (("200 OK", '{"version_info": "1", "resources": 7}'), "resources"),
    ],
)
def test_what_is_no_answer_is_told_and_the_last_stays(plane: Plane, answer: tuple[str, str], told: str) -> None:
    good = plane.answer
    with scene(control_plane(plane.port)) as node:
        clusters = node.ask("CDS", polled())
        clusters.names()
        plane.answer = answer
        until(lambda: told in node.plane.error)
        assert clusters.failures
        plane.answer = good
        until(lambda: node.plane.connected)


def test_a_server_that_hangs_is_given_up(plane: Plane) -> None:
    plane.hang = True
    with scene(control_plane(plane.port)) as node:
        clusters = node.ask("CDS", polled(request_timeout_s=0.1, initial_fetch_timeout_s=0.05))
        until(lambda: "no answer within 0.1 s" in node.plane.error)
        assert clusters.missing == [""]
        plane.hang = False
        assert clusters.names() == ["s1"]


def test_a_resource_that_is_refused_by_polls(plane: Plane) -> None:
    with scene(control_plane(plane.port)) as node:
        clusters = node.ask("CDS", polled())
        clusters.errors = {"s1": "it is bad"}
        until(lambda: "s1: it is bad" in node.plane.refused)
        until(lambda: len(plane.asked) > 3)

        assert all("version_info" not in asked for _, asked in plane.asked)


# ---- files ----


def of_file(path: Path, **settings: Any) -> ConfigSource:
    return ConfigSource(kind="path", path=str(path), **settings)


def move(text: str | bytes, path: Path) -> None:
    """As administrators do: written beside, then moved."""
    beside = path.with_name("beside")
    beside.write_bytes(text if isinstance(text, bytes) else text.encode())
    beside.replace(path)


@pytest.mark.parametrize("name", ["cds.json", "cds.yaml", "cds.pb"])
def test_a_file_is_read_and_followed(tmp_path: Path, name: str) -> None:
    file = tmp_path / name

    def form(line: str) -> str | bytes:
        return response_of(line, False).SerializeToString() if name.endswith(".pb") else written(line)

    move(form("CDS v=1 s1"), file)
    with scene() as node:
        clusters = node.ask("CDS", of_file(file))
        assert clusters.names() == ["s1"]
        move(form("CDS v=2 s2 s3"), file)
        until(lambda: len(clusters.updates) > 1)

        assert clusters.names() == ["s2", "s3"]
        assert clusters.updates[-1].removed == ["s1"]


def test_a_directory_that_is_swapped(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "eds.json").write_text(written(f"EDS v={number} a@{number}"))
    link = tmp_path / "now"
    link.symlink_to("v1")
    with scene() as node:
        endpoints = node.ask("EDS", of_file(link / "eds.json", watched_directory=str(tmp_path)), {"a"})
        assert endpoints.names() == ["a"]
        other = tmp_path / "beside"
        other.symlink_to("v2")
        os.rename(other, link)
        until(lambda: len(endpoints.updates) > 1)

        assert endpoints.updates[-1].version == "2"


def test_a_bad_file_is_told_and_the_last_stays(tmp_path: Path) -> None:
    file = tmp_path / "cds.json"
    move(written("CDS v=1 s1"), file)
    with scene() as node:
        clusters = node.ask("CDS", of_file(file))
        clusters.names()
        move("{garbage", file)
        until(lambda: "cds.json" in node.plane.error)
        assert len(clusters.updates) == 1
        move(written("CDS v=2 s2"), file)
        until(lambda: len(clusters.updates) > 1)

        assert node.plane.connected


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    file = tmp_path / "cds.json"
    with scene() as node:
        clusters = node.ask("CDS", of_file(file))
        until(lambda: clusters.failures)
        move(written("CDS v=1 s1"), file)

        assert clusters.names() == ["s1"]


def test_names_that_are_added_are_looked_for_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "eds.json"
    move(written("EDS v=1 a b"), file)
    with scene() as node:
        endpoints = node.ask("EDS", of_file(file), {"a"})
        assert endpoints.names() == ["a"]
        endpoints.subscription.set_names({"a", "b"})
        until(lambda: len(endpoints.updates) > 1)
        gevent.sleep(0)

        assert endpoints.names() == ["a", "b"]
