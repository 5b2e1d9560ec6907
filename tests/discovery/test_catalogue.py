"""The catalogue's services as clusters and one route table."""

from __future__ import annotations

import pytest

from meshproxy.discovery.catalogue import cluster_for, of_services, protocol_of, selected, table_for
from meshproxy.model import Cluster, ConsulCatalog, ConsulServer, ConsulService, RetryPolicy, RouteTable, VirtualHost

CATALOG = ConsulCatalog(domains=("{service}.service.consul",))


def test_services_are_chosen_by_name_and_tags() -> None:
    services = {"web": ["v1", "eu"], "web-admin": ["v1"], "db": [], "consul": []}

    assert selected(services, CATALOG) == ["db", "web", "web-admin"]
    assert selected(services, ConsulCatalog(domains=(), tags=("v1",))) == ["web", "web-admin"]
    assert selected(services, ConsulCatalog(domains=(), only=("web*",), exclude=("*-admin",))) == ["web"]
    with pytest.raises(ValueError, match="web"):
        selected({"web": None}, CATALOG)


@pytest.mark.parametrize(
    ("said", "protocol"),
    [
        (["http"], "http1"), (["grpc"], "http2"), (["HTTP2"], "http2"), (["tcp"], "tcp"), (["smtp"], ""), ([None], ""), ([], ""),
        (["http", "grpc", "grpc"], "http2"), (["http", "grpc"], "http1"), ([7], ""),
    ],
)  # fmt: skip
def test_most_instances_say_what_is_spoken(said: list, protocol: str) -> None:
    assert protocol_of([{"Service": {"Meta": {"protocol": word}}} for word in said]) == protocol
    assert protocol_of([None, {}, {"Service": None}, {"Service": {"Meta": None}}]) == ""


def test_a_service_is_a_cluster_like_another() -> None:
    server = ConsulServer(token="t")
    catalog = ConsulCatalog(domains=(), tags=("v1",), datacenter="dc2", checks="any", keep_last_s=5.0, server=server)
    source = ConsulService(service="web", tags=("v1",), datacenter="dc2", checks="any", server=server)

    assert cluster_for("web", catalog, None, "") == Cluster(name="web", discovery="found", sources=(source,), keep_last_s=5.0)
    like = Cluster(name="base", connect_timeout_s=1.0, alt_stat_name="base", protocol="http2")
    made = cluster_for("web", catalog, like, "http1")
    assert (made.name, made.stat_name, made.connect_timeout_s, made.protocol) == ("web", "web", 1.0, "http1")
    assert cluster_for("web", catalog, like, "").protocol == cluster_for("web", catalog, like, "tcp").protocol == "http2"


def test_a_table_has_what_the_file_says_and_the_services_behind_it() -> None:
    retry = RetryPolicy(on=("5xx",))
    own = VirtualHost(name="own", domains=("DB.service.consul", "*"))
    catalog = ConsulCatalog(domains=("{service}.service.consul", "{service}.x"), timeout_s=3.0, retry=retry)
    table = RouteTable(name="t", virtual_hosts=(own,), catalog=catalog)
    made = table_for(table, {"web": "http1", "db": "", "smtp": "tcp", "Web": ""})

    assert made.virtual_hosts[0] == own
    assert [(host.name, host.domains) for host in made.virtual_hosts[1:]] == [
        ("consul/Web", ("web.service.consul", "web.x")), ("consul/db", ("db.x",)),
    ]  # fmt: skip
    route = made.virtual_hosts[1].routes[0]
    assert (route.action.clusters[0].name, route.action.timeout_s, made.virtual_hosts[1].retry) == ("Web", 3.0, retry)
    assert of_services(made) == {"Web", "db"}
    assert table_for(made, {"web": ""}) == table_for(table, {"web": ""}), "what is there already makes no difference"
    assert table_for(made, {}) == table
