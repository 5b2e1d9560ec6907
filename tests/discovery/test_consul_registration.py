"""What Consul is told of an instance, and how it is compared with what Consul has."""

from __future__ import annotations

import pytest

from meshproxy.discovery.consul_registration import Instance, differs, instance_of
from meshproxy.model import ConsulRegistration, SocketAddress

BOUND = SocketAddress("10.0.0.5", 8080)
ADMIN = SocketAddress("127.0.0.1", 9901)


def made(bound: SocketAddress | None = BOUND, admin: SocketAddress | None = ADMIN, **settings: object) -> Instance:
    found = instance_of(ConsulRegistration(**{"service": "web", "listener": "in", **settings}), bound, admin, "vm-7")
    assert found is not None
    return found


def test_an_instance_is_where_its_listener_is() -> None:
    assert made().body == {
        "ID": "web-vm-7", "Name": "web", "Address": "10.0.0.5", "Port": 8080, "Tags": [], "Meta": {},
        "Weights": {"Passing": 1, "Warning": 1},
        "Checks": [{"CheckID": "web-vm-7:ttl", "Name": "meshproxy serves", "TTL": "30000ms",
                    "DeregisterCriticalServiceAfter": "3600000ms"}],
    }  # fmt: skip
    assert made(address="web.example", port=80).address == "web.example:80"
    assert made(id="x").ttl_check == "x:ttl"
    assert made(None, listener="", port=9901).address == ":9901"
    assert instance_of(ConsulRegistration(service="web", listener="gone"), None, ADMIN, "vm-7") is None


@pytest.mark.parametrize(("host", "check"), [("0.0.0.0", "127.0.0.1:8080"), ("::", "[::1]:8080"), ("10.0.0.5", "10.0.0.5:8080")])
def test_of_a_wildcard_no_address_is_told(host: str, check: str) -> None:
    instance = made(SocketAddress(host, 8080), checks=("tcp",))

    assert instance.body["Address"] == (host if host == "10.0.0.5" else "")
    assert instance.body["Checks"][0]["TCP"] == check


@pytest.mark.parametrize(("admin", "asked"), [("127.0.0.1", "127.0.0.1:9901"), ("0.0.0.0", "127.0.0.1:9901"), ("::", "[::1]:9901")])
def test_the_admin_api_is_asked_where_it_listens(admin: str, asked: str) -> None:
    check = made(admin=SocketAddress(admin, 9901), checks=("ready",), interval_s=2.0, deregister_after_s=0.0).body["Checks"][0]

    assert (check["HTTP"], check["Interval"], check["Timeout"]) == (f"http://{asked}/ready", "2000ms", "2000ms")
    assert "DeregisterCriticalServiceAfter" not in check


def test_what_consul_has_is_compared() -> None:
    wanted = made(tags=("a",)).body
    had = {
        "ID": "web-vm-7", "Service": "web", "Address": "10.0.0.5", "Port": 8080, "Tags": ["a"], "Meta": None, "Datacenter": "dc1",
        "Weights": {"Passing": 1, "Warning": 1}, "ContentHash": "x",
    }  # fmt: skip
    assert differs(had, wanted) == ""
    others = {"Service": "x", "Address": "", "Port": 1, "Tags": [], "Meta": {"a": "b"}, "Weights": {"Passing": 2, "Warning": 1}}
    for field, value in others.items():
        assert differs({**had, field: value}, wanted) == field


def test_checks_of_a_former_registration_are_stale_and_others_are_not() -> None:
    instance = made(checks=("ttl", "tcp"))

    assert instance.stale({"web-vm-7:ttl", "web-vm-7:ready", "web-vm-7:mine", "_service_maintenance:web-vm-7"}) == {"web-vm-7:ready"}
    assert {check["Status"] for check in instance.with_status("critical")["Checks"]} == {"critical"}
