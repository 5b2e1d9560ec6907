"""The places of metrics in the scoreboard: given again only when every worker has let go, so that churn does not fill the table."""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.admin.client import ControlClient
from tests.processes import meshes
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import Client, get


def a_mesh(origin_port: int, cluster: str) -> dict:
    config = meshes.plain(origin_port)
    text = config["static_resources"]
    text["clusters"][0]["name"] = cluster
    text["clusters"][0]["load_assignment"]["cluster_name"] = cluster
    manager = text["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = cluster
    return config


def cell_of(node: Node, cluster: str) -> int:
    directory = ControlClient(str(node.control)).directory()
    return {(kind, name): cell for kind, name, cell in directory.rows}["CLUSTER", cluster]


def reload_to(node: Node, origin: Origin, cluster: str) -> int:
    node.configure(a_mesh(origin.port, cluster))
    assert node.reload().returncode == 0
    return cell_of(node, cluster)


def test_a_removed_clusters_place_is_used_again(node_of: Callable[..., Node]) -> None:
    with Origin() as origin:
        node = node_of(a_mesh(origin.port, "first"), workers=2)
        first = cell_of(node, "first")
        names = (f"next-{number}" for number in range(200))

        assert wait_until(lambda: reload_to(node, origin, next(names)) == first, 60)


def test_a_request_under_way_keeps_its_clusters_place(node_of: Callable[..., Node]) -> None:
    held: list = []
    with Origin(lambda connection, request: held.append(connection)) as origin:
        node = node_of(a_mesh(origin.port, "first"))
        first = cell_of(node, "first")
        with Client(node.port_of("ingress")) as client:
            client.send(get("/"))
            origin.next_request()

            used = [reload_to(node, origin, f"next-{number}") for number in range(6)]
            assert first not in used
            assert len(set(used)) == 6
            held[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert client.answer().status == 200
        names = (f"after-{number}" for number in range(200))
        assert wait_until(lambda: reload_to(node, origin, next(names)) in {first, *used}, 60)
