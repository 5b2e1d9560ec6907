"""Every page over real HTTP: shapes that Envoy's tools read, nothing secret, orders that reach the master."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from meshproxy.admin.pages import PAGES, help_text
from meshproxy.ipc.messages import Answer
from meshproxy.scoreboard.catalogue import BlockKind
from tests.admin.node import SECRET, AdminSite, admin_site, at, view_of_a_mesh
from tests.cli.node import node_state


@pytest.fixture
def site() -> Iterator[AdminSite]:
    with admin_site() as running:
        yield running


@pytest.mark.parametrize("path", PAGES)
def test_every_path_of_help_answers(site: AdminSite, path: str) -> None:
    page = PAGES[path]

    assert site.ask(path, "POST" if page.mutates else "GET").status_code == 200
    assert f"  {path}{' (POST)' if page.mutates else ''}: " in site.ask("/help").text


@pytest.mark.parametrize("path", [path for path, page in PAGES.items() if page.mutates])
def test_what_changes_the_node_needs_post(site: AdminSite, path: str) -> None:
    refused = site.ask(path)

    assert refused.status_code == 405
    assert "POST" in refused.text
    assert refused.headers["allow"] == "POST"
    assert site.orders == []
    assert not site.view.region.healthcheck_failed


def test_an_unknown_path_lists_what_there_is(site: AdminSite) -> None:
    missing = site.ask("/nope")

    assert missing.status_code == 404
    assert help_text() in missing.text


def test_head_is_get_without_a_body(site: AdminSite) -> None:
    answer = site.ask("/ready", "HEAD")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [({}, 200, "LIVE"), ({"live": False}, 503, "PRE_INITIALIZING"), ({"draining": True}, 503, "DRAINING")],
)
def test_ready(site: AdminSite, state: dict, status: int, word: str) -> None:
    site.view.told(node_state(**state))
    answer = site.ask("/ready")

    assert (answer.status_code, answer.text) == (status, f"{word}\n")


def test_healthcheck_fail_and_ok(site: AdminSite) -> None:
    assert site.ask("/healthcheck/fail", "POST").text == "OK\n"
    assert site.view.region.healthcheck_failed
    assert site.ask("/ready").status_code == 503
    site.ask("/healthcheck/ok", "POST")
    assert site.ask("/ready").status_code == 200


def test_server_info(site: AdminSite) -> None:
    info = site.ask("/server_info").json()

    assert info["state"] == "LIVE"
    assert info["node"]["id"] == "vm-7"
    assert info["command_line_options"]["concurrency"] == 2
    assert info["uptime_all_epochs"].endswith("s")


def test_listeners(site: AdminSite) -> None:
    assert site.ask("/listeners").text == "ingress::0.0.0.0:8080\ningress::[::]:8080\n"
    assert site.ask("/listeners?format=json").json() == {
        "listener_statuses": [
            {
                "name": "ingress",
                "local_address": {"socket_address": {"address": "0.0.0.0", "port_value": 8080}},
                "additional_local_addresses": [{"socket_address": {"address": "::", "port_value": 8080}}],
            }
        ]
    }


def test_clusters_text_is_envoys(site: AdminSite) -> None:
    first = site.view.cell("HOST", "web/127.0.0.1:9001")
    site.view.region.add_cell(0, first + at(BlockKind.HOST, "cx_active"), 2)
    site.view.region.add_cell(1, first + at(BlockKind.HOST, "cx_active"), 3)
    lines = site.ask("/clusters").text.splitlines()

    assert "web::observability_name::web" in lines
    assert "web::default_priority::max_connections::50" in lines
    assert "web::high_priority::max_connections::1024" in lines
    assert "web::added_via_api::false" in lines
    assert "web::127.0.0.1:9001::cx_active::5" in lines, "both workers' together"
    assert "web::[::1]:9002::weight::3" in lines
    assert "dns::10.0.0.1:80::hostname::a.example" in lines
    assert "dns::10.0.0.1:80::health_flags::healthy" in lines


def test_clusters_json_is_envoys(site: AdminSite) -> None:
    first = site.view.cell("HOST", "web/127.0.0.1:9001")
    site.view.region.add_cell(0, first + at(BlockKind.HOST, "rq_total"), 7)
    statuses = {status["name"]: status for status in site.ask("/clusters?format=json").json()["cluster_statuses"]}
    host = statuses["web"]["host_statuses"][0]

    assert host["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 9001}}
    assert {"name": "rq_total", "value": "7"} in host["stats"]
    assert {"name": "cx_active", "value": "0", "type": "GAUGE"} in host["stats"]
    assert host["health_status"] == {"eds_health_status": "HEALTHY"}
    assert statuses["web"]["circuit_breakers"]["thresholds"][0]["max_connections"] == 50
    assert statuses["dns"]["host_statuses"][0]["hostname"] == "a.example"


def test_clusters_filter(site: AdminSite) -> None:
    assert {line.split("::")[0] for line in site.ask("/clusters?filter=^d").text.splitlines()} == {"dns"}


@pytest.mark.parametrize("path", ["/clusters?filter=(", "/config_dump?name_regex=(", "/stats?filter=("])
def test_a_bad_pattern_is_told(site: AdminSite, path: str) -> None:
    refused = site.ask(path)

    assert refused.status_code == 400
    assert "'('" in refused.text


def test_config_dump_has_all_sections_and_no_secret(site: AdminSite) -> None:
    answer = site.ask("/config_dump")
    configs = {config["@type"].rpartition(".")[2]: config for config in answer.json()["configs"]}

    assert set(configs) == {
        "BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump", "SecretsConfigDump",
    }
    assert [each["cluster"]["name"] for each in configs["ClustersConfigDump"]["static_clusters"]] == ["dns", "web"]
    manager = configs["ListenersConfigDump"]["static_listeners"][0]["listener"]["chains"][0]["terminal"]
    assert manager["filters"][0]["settings"] == {"password": "[redacted]", "mode": "strict"}
    assert configs["BootstrapConfigDump"]["bootstrap"]["node"]["metadata"]["zone"] == "a"
    assert "hello" in answer.text, "a direct response's body is text"
    assert SECRET not in answer.text


def test_config_dump_of_one_section(site: AdminSite) -> None:
    configs = site.ask("/config_dump?resource=static_clusters&name_regex=^web$").json()["configs"]

    assert [config["cluster"]["name"] for config in configs] == ["web"]
    assert configs[0]["@type"].endswith("ClustersConfigDump.StaticCluster")


def test_config_dump_with_endpoints(site: AdminSite) -> None:
    dumps = site.ask("/config_dump?include_eds").json()["configs"]

    assert dumps[-1]["static_endpoint_configs"][0]["endpoint_config"]["cluster"] == "dns"


@pytest.mark.parametrize(("query", "status", "said"), [("resource=nope", 404, "static_clusters"), ("mask=x", 400, "mask")])
def test_config_dump_refuses_by_name(site: AdminSite, query: str, status: int, said: str) -> None:
    refused = site.ask(f"/config_dump?{query}")

    assert refused.status_code == status
    assert said in refused.text


@pytest.mark.parametrize("path", PAGES)
def test_no_page_shows_a_secret(site: AdminSite, path: str) -> None:
    assert SECRET not in site.ask(path, "POST" if PAGES[path].mutates else "GET").text


@pytest.mark.parametrize(
    ("path", "verb", "settings"),
    [
        ("/drain_listeners?graceful&inboundonly&skip_exit", "drain_listeners", {"graceful": True}),
        ("/drain_listeners", "drain_listeners", {"graceful": False}),
        ("/quitquitquit", "quit", {}),
        ("/reopen_logs", "reopen_logs", {}),
        ("/logging?level=debug", "loglevel", {"argument": "debug"}),
        ("/logging?level=trace", "loglevel", {"argument": "debug"}),
    ],
)
def test_orders_reach_the_master(site: AdminSite, path: str, verb: str, settings: dict) -> None:
    assert site.ask(path, "POST").status_code == 200
    [order] = site.orders
    assert order.verb == verb
    assert {name: getattr(order, name) for name in settings} == settings


def test_the_level_is_set_here_too_once_the_master_took_it(site: AdminSite) -> None:
    site.ask("/logging?level=warning", "POST")
    assert site.levels == ["warning"]


def test_logging_without_a_level_tells_the_present_one(site: AdminSite) -> None:
    assert site.ask("/logging", "POST").text == "active level: info\n"
    assert site.orders == []


@pytest.mark.parametrize("query", ["level=loud", "paths=a:debug"])
def test_a_level_that_is_none(site: AdminSite, query: str) -> None:
    assert site.ask(f"/logging?{query}", "POST").status_code == 400
    assert site.orders == []


def test_what_the_master_refuses_is_told() -> None:
    with admin_site(answering=lambda order: Answer(id=order.id, ok=False, errors=["a reload is under way"])) as site:
        refused = site.ask("/drain_listeners", "POST")

        assert refused.status_code == 503
        assert "a reload is under way" in refused.text
        site.ask("/logging?level=debug", "POST")
        assert site.levels == []


def test_the_home_page_stands_alone(site: AdminSite) -> None:
    page = site.ask("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "src=" not in page.text.replace("default-src", "")
    assert "http://<span" in page.text
    assert "https://" not in page.text


def test_home_data(site: AdminSite) -> None:
    http = site.view.cell("HTTP", "ingress")
    site.view.region.add_cell(0, http + at(BlockKind.HTTP, "downstream_rq_total"), 3725)
    site.view.region.record_histogram(0, http + at(BlockKind.HTTP, "downstream_rq_time"), 2000)
    data = site.ask("/home.json").json()

    assert [row["title"] for row in data["processes"]] == ["master", "worker 0", "worker 1", "agent"]
    assert data["processes"][2]["last_death"] == "ended by SIGKILL"
    assert data["total"]["requests_per_s"] == pytest.approx(1.0, rel=0.01), "over the uptime of 3725 s"
    assert 1.7 < data["total"]["p50_ms"] <= 2.3
    assert [row["name"] for row in data["clusters"]] == ["dns", "web"]
    assert data["clusters"][1]["endpoints"] == 2
    assert json.dumps(data).isascii()


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "evil.example:9901"}])
def test_a_rebound_name_gets_nothing(site: AdminSite, headers: dict) -> None:
    assert site.ask("/config_dump", headers=headers).status_code == 403


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}])
def test_another_sites_post_changes_nothing(site: AdminSite, headers: dict) -> None:
    assert site.ask("/quitquitquit", "POST", headers=headers).status_code == 403
    assert site.orders == []


def test_the_node_s_own_name_is_let_in(site: AdminSite) -> None:
    assert site.ask("/ready", headers={"Host": "vm-7:9901"}).status_code == 200


def test_one_view_for_all_workers() -> None:
    view = view_of_a_mesh(slots=8)
    first = view.cell("HTTP", "ingress")
    for slot in range(8):
        view.region.add_cell(slot, first + at(BlockKind.HTTP, "downstream_rq_total"), 1)
    with admin_site(view) as site:
        assert site.ask("/home.json").json()["total"]["requests_total"] == 8
