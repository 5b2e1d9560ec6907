"""What a bootstrap says of control planes: what it becomes, that it is written as it was, and what Envoy refuses too."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from meshproxy.config import document
from meshproxy.config.envoy import bootstrap, write
from meshproxy.config.problems import Problems
from meshproxy.model import ConfigSource, Dynamic, EdsSource, GrpcService, Node, Snapshot
from meshproxy.model.xds import config_source_name, shown
from tests.config.envoy.bootstraps import CLUSTER, LISTENER, MANAGER, REMOVE, any_of, changed
from tests.peers import envoy
from tests.peers.process import PeerMissingError

NODE = {"node": {"id": "n", "cluster": "c"}}
BY_ADS = {"ads": {}, "resource_api_version": "V3"}
SERVICE = {"envoy_grpc": {"cluster_name": "web"}}
SOCKET = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def grpc(**more: Any) -> dict[str, Any]:
    return {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [SERVICE], **more}


def rest(**more: Any) -> dict[str, Any]:
    return {"api_type": "REST", "transport_api_version": "V3", "cluster_names": ["web"], "refresh_delay": "2s", **more}


def by(api: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"api_config_source": api, "resource_api_version": "V3", **more}


def of(cds: dict[str, Any]) -> dict[str, Any]:
    return {**NODE, "dynamic_resources": {"cds_config": cds}}


ALL_BY_ADS = {"dynamic_resources": {"ads_config": grpc(api_type="DELTA_GRPC"), "cds_config": BY_ADS, "lds_config": BY_ADS}, **NODE}
ASKED = ConfigSource(kind="grpc", services=(GrpcService(cluster="web"),))


def read(changes: dict[str, Any]) -> tuple[Snapshot, Problems]:
    """Without the rule that keeps control planes out of a node."""
    problems = Problems()
    return bootstrap.read(document.parse("boot.json", json.dumps(changed(changes))), {}, problems), problems


def accepted(changes: dict[str, Any]) -> Snapshot:
    snapshot, problems = read(changes)
    assert [str(problem) for problem in problems.errors()] == []
    return snapshot


def eds(config: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """The good bootstrap with another cluster, that is asked of a control plane."""
    added = {"name": "e", "type": "EDS", **({"eds_cluster_config": {"eds_config": config}} if config is not None else {}), **more}
    return {"static_resources.clusters.+": added, **NODE}


def rds(config: dict[str, Any], name: str = "r") -> dict[str, Any]:
    return {f"{MANAGER}.route_config": REMOVE, f"{MANAGER}.rds": {"config_source": config, "route_config_name": name}, **NODE}


def sds(config: dict[str, Any]) -> dict[str, Any]:
    tls = {"common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": config}]}}
    return {f"{LISTENER}.filter_chains.0.transport_socket": {"name": "tls", "typed_config": any_of(SOCKET, **tls)}, **NODE}


SOURCES: dict[str, tuple[dict[str, Any], ConfigSource]] = {
    "grpc": (by(grpc()), ASKED),
    "delta": (by(grpc(api_type="DELTA_GRPC")), ConfigSource(kind="delta_grpc", services=ASKED.services)),
    "for ever": (by(grpc(), initial_fetch_timeout="0s"), ConfigSource(kind="grpc", services=ASKED.services, initial_fetch_timeout_s=0.0)),
    "one node": (by(grpc(set_node_on_first_message_only=True)), ConfigSource(kind="grpc", services=ASKED.services, first_node_only=True)),
    "bounded": (
        by(grpc(rate_limit_settings={"max_tokens": 5, "fill_rate": 2.5})),
        ConfigSource(kind="grpc", services=ASKED.services, rate_limit_tokens=5, rate_limit_per_s=2.5),
    ),
    "bounded as Envoy does": (
        by(grpc(rate_limit_settings={})), ConfigSource(kind="grpc", services=ASKED.services, rate_limit_tokens=100, rate_limit_per_s=10.0)
    ),
    "tokens": (
        by(grpc(grpc_services=[{
            "envoy_grpc": {"cluster_name": "web", "authority": "a"}, "timeout": "3s", "initial_metadata": [{"key": "X-T", "value": "v"}],
        }])),
        ConfigSource(kind="grpc", services=(GrpcService(cluster="web", authority="a", timeout_s=3.0, initial_metadata=(("x-t", "v"),)),)),
    ),
    "a target": (
        by(grpc(grpc_services=[{"google_grpc": {"target_uri": "127.0.0.1:1", "stat_prefix": "x"}}])),
        ConfigSource(kind="grpc", services=(GrpcService(target_uri="127.0.0.1:1"),)),
    ),
    "rest": (by(rest()), ConfigSource(kind="rest", clusters=("web",), refresh_s=2.0)),
    "rest in time": (
        by(rest(request_timeout="0.5s")), ConfigSource(kind="rest", clusters=("web",), refresh_s=2.0, request_timeout_s=0.5)
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source(name: str) -> None:
    message, source = SOURCES[name]

    assert accepted(of(message)).dynamic == Dynamic(cds=source)


def test_a_file_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "cds.yaml").write_text("resources: []")
    config = {"path_config_source": {"path": str(tmp_path / "cds.yaml"), "watched_directory": {"path": str(tmp_path)}}}

    found = accepted(of(config)).dynamic.cds

    assert found == ConfigSource(kind="path", path=str(tmp_path / "cds.yaml"), watched_directory=str(tmp_path))
    (tmp_path / "cds.yaml").unlink()
    assert "is not there" in str(read(of(config))[1].errors()[0])


def test_all_by_one_stream() -> None:
    dynamic = accepted(ALL_BY_ADS).dynamic

    assert dynamic == Dynamic(
        ads=ConfigSource(kind="delta_grpc", services=ASKED.services), cds=ConfigSource(), lds=ConfigSource()
    )


def test_endpoints() -> None:
    found = accepted({**ALL_BY_ADS, **eds(BY_ADS)}).clusters[1]

    assert (found.discovery, found.sources, found.keep_last_s, found.debounce_s) == ("found", (EdsSource(),), 0.0, 0.0)
    named = eds(None, eds_cluster_config={"eds_config": by(grpc()), "service_name": "s"})
    assert accepted(named).clusters[1].sources == (EdsSource(service="s", source=ASKED),)


def test_routes() -> None:
    snapshot = accepted({**ALL_BY_ADS, **rds(BY_ADS, "9080")})
    manager = snapshot.listeners[0].chains[0].terminal

    assert (manager.route_table, manager.rds, snapshot.route_tables) == ("9080", ConfigSource(), ())


def test_routes_of_a_file_leave_the_name_to_those_that_are_asked_for() -> None:
    other = changed({f"{LISTENER}.name": "b", f"{LISTENER}.address.socket_address.port_value": 1})["static_resources"]["listeners"][0]
    snapshot = accepted({**ALL_BY_ADS, **rds(BY_ADS), "static_resources.listeners.+": other})

    assert [listener.chains[0].terminal.route_table for listener in snapshot.listeners] == ["r", "b/r"]


def test_secrets() -> None:
    snapshot = accepted({**ALL_BY_ADS, **sds(BY_ADS)})
    (secret,) = snapshot.secrets

    assert (secret.name, secret.value, secret.source, secret.sds_name) == ("default by ads", None, ConfigSource(), "default")
    assert snapshot.listeners[0].chains[0].tls.certificates == ("default by ads",)


def test_who_the_node_is() -> None:
    node = {
        "id": "n", "cluster": "c", "user_agent_name": "envoy", "client_features": ["a.b"],
        "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 22}},
    }
    made = accepted({"node": node}).node

    assert made == Node(id="n", cluster="c", user_agent_name="envoy", user_agent_build_version="1.22.0", client_features=("a.b",))


WRITTEN = {**{name: of(message) for name, (message, _) in SOURCES.items()}, "all by ads": ALL_BY_ADS}
WRITTEN |= {"eds": {**ALL_BY_ADS, **eds(BY_ADS)}, "rds": {**ALL_BY_ADS, **rds(BY_ADS)}, "sds": {**ALL_BY_ADS, **sds(BY_ADS)}}
WRITTEN |= {"an agent": {"node": {**NODE["node"], "user_agent_version": "x", "client_features": ["a"], "locality": {"zone": "z"}}}}
WRITTEN |= {"a build": {"node": {**NODE["node"], "user_agent_build_version": {"version": {"minor_number": 3}}}}}
WRITTEN |= {"eds of its own": eds(None, eds_cluster_config={"service_name": "s", "eds_config": by(grpc())})}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_reads_the_same(name: str) -> None:
    snapshot = accepted(WRITTEN[name])
    data, lost = write.to_data(snapshot)
    problems = Problems()

    assert lost == []
    assert bootstrap.read(document.parse("boot.json", json.dumps(data)), {}, problems) == snapshot
    assert problems.errors() == []


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (changes, path, words); Envoy refuses each of them too, except those in NOT_BY_ENVOY
    "no node": ({"dynamic_resources": {"ads_config": grpc()}}, "ads_config", 'node "id" and "cluster"'),
    "no service": (of(by(grpc(grpc_services=[]))), "grpc_services", "grpc_services is missing"),
    "two services": (of(by(grpc(grpc_services=[SERVICE, SERVICE]))), "grpc_services", "2 gRPC services"),
    "gRPC with a cluster": (of(by(grpc(cluster_names=["web"]))), "cluster_names", "grpc_services instead"),
    "unknown cluster": (of(by(grpc(grpc_services=[{"envoy_grpc": {"cluster_name": "nope"}}]))), "cluster_name", '"nope" is not defined'),
    "cluster that needs a control plane": (
        {**eds(by(grpc())), "dynamic_resources": {"cds_config": by(grpc(grpc_services=[{"envoy_grpc": {"cluster_name": "e"}}]))}},
        "cluster_name", '"e" is not defined',
    ),
    "ADS by REST": ({**NODE, "dynamic_resources": {"ads_config": rest()}}, "ads_config.api_type", "is by gRPC"),
    "aggregated": (of(by(grpc(api_type="AGGREGATED_GRPC"))), "api_type", "xdstp"),
    "no type": (of(by(grpc(api_type="DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE"))), "api_type", "Use GRPC"),
    "transport of v2": (of(by(grpc(transport_api_version="V2"))), "transport_api_version", "V3"),
    "self": (of({"self": {}}), "self", "no stream"),
    "nothing": (of({"resource_api_version": "V3"}), "cds_config", "is missing"),
    "ads without a stream": (of(BY_ADS), "ads", "ads_config"),
    "rest without a pause": (of(by({k: v for k, v in rest().items() if k != "refresh_delay"})), "api_config", "refresh_delay"),
    "rest of two": (of(by(rest(cluster_names=["web", "web"]))), "cluster_names", "Name one"),
    "rest of none": (of(by(rest(cluster_names=[]))), "cluster_names", "it is missing"),
    "rest by gRPC": (of(by(rest(grpc_services=[SERVICE]))), "grpc_services", "not by gRPC"),
    "rest of an unknown": (of(by(rest(cluster_names=["nope"]))), "cluster_names", '"nope" is not defined'),
    "no time for rest": (of(by(rest(request_timeout="0s"))), "request_timeout", "more than"),
    "path": (of({"path": "/nowhere.yaml"}), "path", "is not there"),
    "TLS of its own": (
        of(by(grpc(grpc_services=[{"google_grpc": {
            "target_uri": "x:1", "stat_prefix": "x", "channel_credentials": {"ssl_credentials": {}},
        }}]))),
        "channel_credentials", "not supported yet",
    ),
    "EDS without a config": (eds(None), "clusters[1]", '"eds_cluster_config"'),
    "EDS without a source": (eds(None, eds_cluster_config={}), "eds_cluster_config", '"eds_config" is missing'),
    "EDS of a static cluster": (
        {f"{CLUSTER}.eds_cluster_config": {"eds_config": by(grpc())}, **NODE}, "eds_cluster_config", "does not have type EDS"
    ),
    "RDS and routes": (
        {f"{MANAGER}.rds": {"config_source": by(grpc()), "route_config_name": "r"}, **NODE}, "rds", "both given"
    ),
    "RDS without a source": (
        {f"{MANAGER}.route_config": REMOVE, f"{MANAGER}.rds": {"route_config_name": "r"}, **NODE}, "rds", '"config_source" is missing'
    ),
    "RDS without a name": (rds(by(grpc()), ""), "rds", "route_config_name"),
    "local cluster": ({"cluster_manager": {"local_cluster_name": "nope"}}, "local_cluster_name", '"nope" is not defined'),
    "xdstp": ({**NODE, "dynamic_resources": {"cds_resources_locator": "xdstp://x/y/*"}}, "cds_resources_locator", "not supported yet"),
    "EDS by xdstp": (
        eds(None, eds_cluster_config={"eds_config": by(grpc()), "service_name": "xdstp://x/y"}), "service_name", "not supported yet"
    ),
}
NOT_BY_ENVOY = {"ads without a stream", "TLS of its own", "RDS without a name", "xdstp", "EDS by xdstp"}
"""Envoy's validation does not look (it tells or waits when it runs), or it has what we do not have."""


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    changes, path, words = REFUSED[name]
    told = [problem for problem in read(changes)[1].errors() if words in problem.message]

    assert told, [str(problem) for problem in read(changes)[1].errors()]
    assert path in told[0].path


def test_tokens_are_not_shown() -> None:
    snapshot = accepted(of(SOURCES["tokens"][0]))

    assert shown(snapshot.dynamic).cds.services[0].initial_metadata == (("x-t", "[redacted]"),)
    assert config_source_name(snapshot.dynamic.cds) == "grpc web"


@pytest.mark.slow
def test_envoys_verdict(tmp_path: Path) -> None:
    """What is accepted here Envoy accepts, and what is refused it refuses."""
    try:
        binary = envoy.binary()
    except PeerMissingError as missing:
        pytest.skip(str(missing))
    wanted = {**{name: (changes, True) for name, changes in WRITTEN.items()}}
    wanted |= {name: (changes, False) for name, (changes, _, _) in REFUSED.items() if name not in NOT_BY_ENVOY}
    others = {}
    for name, (changes, good) in wanted.items():
        file = tmp_path / "boot.json"
        file.write_text(json.dumps(changed(changes)))
        done = subprocess.run([binary, "--mode", "validate", "-l", "error", "-c", file], capture_output=True, text=True)
        if (done.returncode == 0) != good:
            others[name] = done.stderr

    assert others == {}
