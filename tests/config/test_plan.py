"""What a reload would do."""

from __future__ import annotations

import json

import msgspec

from meshproxy.config.load import load_text
from meshproxy.config.native.node import TOP
from meshproxy.config.plan import NEEDS_RESTART, plan, text_of
from meshproxy.model import (
    Cluster,
    ConfigSource,
    Dynamic,
    EdsSource,
    FilterChain,
    GrpcService,
    HttpConnectionManager,
    Listener,
    ResourceKind,
    Secret,
    Snapshot,
    SocketAddress,
)
from meshproxy.model.tls import without_keys
from tests.support.certificates import Authority, Issued

OLD = """
admin: 127.0.0.1:9901
listeners:
- {name: a, address: "127.0.0.1:1", to: web}
- {name: b, address: "127.0.0.1:2", to: web}
- {name: gone, address: "127.0.0.1:3", to: old}
clusters:
  web: [10.0.0.1:80, 10.0.0.2:80]
  old: [10.0.0.1:80]
"""
NEW = """
admin: 127.0.0.1:9902
workers: 4
drain_timeout: 30s
listeners:
- {name: a, address: "127.0.0.1:9", to: web}
- {name: b, address: "127.0.0.1:2", to: api, http: {idle_timeout: 5s}}
- {name: new, address: "127.0.0.1:4", to: api}
clusters:
  web: {endpoints: [10.0.0.1:80, 10.0.0.3:80], connect_timeout: 1s}
  api: [10.0.0.9:80]
"""


def snapshot(text: str) -> Snapshot:
    return load_text(text, {}).snapshot


def called(token: str) -> Snapshot:
    """A node whose control plane is asked with a token, for everything that can be asked for."""
    source = ConfigSource(kind="grpc", services=(GrpcService(cluster="xds", initial_metadata=(("x-token", token),)),))
    manager = HttpConnectionManager(stat_prefix="a", route_table="r", rds=source)
    return Snapshot(
        listeners=(Listener(name="a", addresses=(SocketAddress("127.0.0.1", 1),), chains=(FilterChain(terminal=manager),)),),
        clusters=(Cluster(name="web", discovery="found", sources=(EdsSource(source=source),)),),
        secrets=(Secret(name="s", source=source, sds_name="s"),),
        dynamic=Dynamic(ads=source, cds=ConfigSource(), lds=source),
    )


def test_a_control_plane_is_a_setting_and_its_token_is_not_shown() -> None:
    old, new = called("sesame"), called("other")

    assert "setting dynamic" in text_of(plan(Snapshot(), new))
    # What is shown is the same, and the node's own word for it too.
    assert plan(old, new) == []
    assert "sesame" not in text_of(plan(old, Snapshot())) + text_of(plan(Snapshot(), old))


def test_a_secret_that_changed_is_named_and_not_shown() -> None:
    """Beside the node's own word for it, which has no keys either."""
    authority = Authority()
    one, other = authority.issue("a.example"), authority.issue("a.example")

    def configured(issued: Issued, ticket_key: str) -> Snapshot:
        pair = {"cert": {"inline": issued.pem.decode()}, "key": {"inline": issued.key_pem().decode()}}
        return snapshot(json.dumps({"secrets": {"server": pair, "tickets": {"ticket_keys": {"inline": ticket_key}}}}))

    old = configured(one, "j" * 80)
    told = msgspec.structs.replace(old, secrets=tuple(map(without_keys, old.secrets)))
    text = text_of(plan(told, configured(other, "k" * 80)))

    assert text == (
        'change secret "server": value.chain_pem is another; value.key_pem is another\n'
        'change secret "tickets": value.keys +1 -1'
    )
    assert plan(told, configured(one, "j" * 80)) == []
    assert [str(step) for step in plan(Snapshot(), old)] == ['add secret "server"', 'add secret "tickets"']


def test_the_steps_in_their_order() -> None:
    assert text_of(plan(snapshot(OLD), snapshot(NEW))).split("\n") == [
        "change setting admin: address 127.0.0.1:9901 -> 127.0.0.1:9902",
        "setting workers needs a restart to take effect: 0 -> 4",
        "change setting drain_timeout_s: 600.0 -> 30.0",
        'change cluster "web": endpoints +10.0.0.3:80; endpoints -10.0.0.2:80; connect_timeout_s 5.0 -> 1.0',
        'add cluster "api"',
        'change route table "b": virtual_hosts[*].routes[0].action.clusters +api; virtual_hosts[*].routes[0].action.clusters -web',
        'add route table "new"',
        'move listener "a": addresses[0] 127.0.0.1:1 -> 127.0.0.1:9',
        'change listener "b": chains[0].terminal.idle_timeout_s 3600.0 -> 5.0',
        'add listener "new": 127.0.0.1:4',
        'remove listener "gone": 127.0.0.1:3',
        'remove route table "gone"',
        'remove cluster "old"',
    ]


def test_steps_can_be_read_by_the_master() -> None:
    steps = {(step.kind, step.name): step for step in plan(snapshot(OLD), snapshot(NEW))}

    assert steps[ResourceKind.LISTENER, "a"].rebinds
    assert not steps[ResourceKind.LISTENER, "b"].rebinds
    assert steps[None, "workers"].action == "restart"
    assert steps[ResourceKind.CLUSTER, "old"].action == "remove"


def test_nothing_changes() -> None:
    assert plan(snapshot(NEW), snapshot(NEW)) == []
    assert text_of([]) == "nothing changes"


def test_from_nothing_everything_is_new() -> None:
    steps = plan(Snapshot(), snapshot(OLD))

    assert {step.action for step in steps} == {"add"}
    assert [step.kind for step in steps if step.kind] == sorted(step.kind for step in steps if step.kind)


def test_to_nothing_everything_goes_the_other_way() -> None:
    kinds = [step.kind for step in plan(snapshot(OLD), Snapshot()) if step.kind]

    assert kinds == sorted(kinds, reverse=True)


def test_order_of_routes_is_a_change() -> None:
    one = "listeners: [{address: '127.0.0.1:1', routes: [{path: /a, respond: 200}, {path: /b, respond: 200}]}]"
    other = "listeners: [{address: '127.0.0.1:1', routes: [{path: /b, respond: 200}, {path: /a, respond: 200}]}]"

    assert [step.kind for step in plan(snapshot(one), snapshot(other))] == [ResourceKind.ROUTE_TABLE]


def test_many_differences_are_cut() -> None:
    clusters = {f"c{n}": n for n in range(50)}
    lines = "\n".join(f"  {name}: [10.0.0.{n + 1}:80]" for name, n in clusters.items())
    targets = ", ".join(f"{name}: 1" for name in clusters)
    table = "listeners: [{{address: '127.0.0.1:1', to: {{{}}}}}]\nclusters:\n{}\n"

    steps = plan(snapshot(table.format("c0: 1", lines)), snapshot(table.format(targets, lines)))

    assert len(steps) == 1
    assert steps[0].reasons[-1].endswith("differences more")


def test_the_reference_page_and_the_plan_agree_on_what_needs_a_restart() -> None:
    assert tuple(row.field for row in TOP.rows if not row.reloadable) == NEEDS_RESTART
