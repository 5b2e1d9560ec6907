"""The whole agent in a process of its own, beside a fake master on the other end of its channel."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import requests

from meshproxy.agent.gauges import MEANING
from meshproxy.ipc.boot import AgentBoot
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import Answer, Applied, Configure, Directory, NodeSettings, Order, PutResource, Ready, ReopenLogs, Stop, Warm
from meshproxy.model import (
    AccessLog,
    Cluster,
    ConfigSource,
    ConsulCatalog,
    ConsulConfig,
    ConsulNode,
    ConsulRegistration,
    ConsulServer,
    Dynamic,
    Endpoint,
    EndpointFiles,
    FilterChain,
    GrpcService,
    HttpConnectionManager,
    Listener,
    Node,
    PipeAddress,
    ResourceKind,
    RouteTable,
    SocketAddress,
    Stats,
    StatsSink,
)
from meshproxy.model.snapshot import pack, unpack
from meshproxy.scoreboard.catalogue import CATALOGUE, BlockKind
from meshproxy.scoreboard.region import Region
from tests.cli.node import node_state
from tests.support.processes import wait_until

pytestmark = pytest.mark.process
PATIENCE_S = 30.0
NO_CONTROL_PLANES = Dynamic()


class AgentProcess:
    """A forked agent. The test is its master."""

    def __init__(self, resources: list, stats: Stats, consul: ConsulNode | None, dynamic: Dynamic) -> None:
        self.region = Region.create(1)
        self.region.set_state(0, 2)
        self.channel, theirs = Channel.pair()
        self.heard: list = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        boot = AgentBoot(
            channel_fd=theirs.detach(), region=self.region, version="1", resources=resources,
            settings=NodeSettings(node=Node(id="vm-7"), stats=stats, log_level="error", consul=consul, dynamic=dynamic),
            directory=Directory([("SERVER", "", 0)]), admin_fd=listener.detach(), state=node_state(),
        )
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_agent(boot)
        os.close(boot.channel_fd)
        os.close(boot.admin_fd)

    def _be_the_agent(self, boot: AgentBoot) -> None:
        code = 1
        try:
            os.close(self.channel.detach())
            if "gevent" in sys.modules:
                # Other tests ran on a hub in this process; a master never has one.
                sys.modules["gevent"].reinit()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            from meshproxy.agent.main import run

            before = set(sys.modules)                # other tests of this session may have loaded anything
            code = run(boot)
            loaded = [name for name in set(sys.modules) - before if name.split(".")[0] in ("grpc", "google")]
            code = 99 if loaded else code
        finally:
            os._exit(code)

    def expect(self, kind: type | tuple[type, ...], accept: Callable = lambda message: True):
        """The next message of a kind that is accepted; others before it are passed over."""
        while True:
            while self.heard:
                message = self.heard.pop(0)
                if isinstance(message, kind) and accept(message):
                    return message
            messages = self.channel.wait(PATIENCE_S)
            assert messages, f"no {kind} came"
            self.heard += [message for message, _ in messages]

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S)

    def exit_code(self) -> int:
        watch = os.pidfd_open(self.pid)
        assert select.select([watch], [], [], PATIENCE_S)[0], "the agent did not end"
        os.close(watch)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        self.channel.close()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@contextmanager
def agent(
    *resources: object, stats: Stats | None = None, consul: ConsulNode | None = None, dynamic: Dynamic = NO_CONTROL_PLANES
) -> Iterator[AgentProcess]:
    process = AgentProcess(list(resources), stats or Stats(), consul, dynamic)
    try:
        process.expect(Ready)
        yield process
    finally:
        process.close()


def logging_listener(path: Path, sink: int = 7) -> object:
    log = AccessLog(sink="file", path=str(path), text="x")
    chain = FilterChain(terminal=HttpConnectionManager(stat_prefix="in", route_table="r", access_logs=(log,)))
    made = pack(ResourceKind.LISTENER, "in", Listener(name="in", addresses=(SocketAddress(host="127.0.0.1", port=1),), chains=(chain,)))
    return msgspec.structs.replace(made, blocks={"log:0:0": sink})


def dns_cluster(name: str) -> object:
    endpoint = Endpoint(address=SocketAddress(host="localhost", port=80))
    return pack(ResourceKind.CLUSTER, name, Cluster(name=name, discovery="strict_dns", endpoints=(endpoint,), dns_lookup_family="v4_only"))


def test_it_serves_the_admin_api_and_ends_when_told() -> None:
    with agent() as process:
        assert process.get("/ready").text == "LIVE\n"
        assert "server.live: 1" in process.get("/stats").text
        assert re.search(r'^envoy_server_live\{\} 1$', process.get("/stats/prometheus").text, re.MULTILINE)
        process.channel.send(Stop())

        assert process.exit_code() == 0


def test_every_metric_that_the_agent_adds_is_explained() -> None:
    found = Cluster(name="other", discovery="found", sources=(EndpointFiles(globs=("/nowhere/*",)),))
    table = RouteTable(name="r", catalog=ConsulCatalog(domains=("{service}.x",), server=ConsulServer(address=PipeAddress("/nowhere/consul"))))
    consul = ConsulNode(services=(ConsulRegistration(service="web", port=1),), config=ConsulConfig(prefix="x"), server=ConsulServer(address=PipeAddress("/nowhere/consul")))
    ads = ConfigSource(kind="grpc", services=(GrpcService(target_uri="unix:/nowhere/xds"),))
    dynamic = Dynamic(ads=ads, cds=ConfigSource(), lds=ConfigSource())
    with agent(
        dns_cluster("web"), pack(ResourceKind.CLUSTER, "other", found), pack(ResourceKind.ROUTE_TABLE, "r", table), consul=consul, dynamic=dynamic,
    ) as process:
        process.expect(PutResource)
        assert wait_until(lambda: "listener_manager.lds." in process.get("/stats").text, 20.0), "listeners are asked for after clusters"
        lines = process.get("/stats").text.splitlines()
        names = {re.sub(r"\.(web|other)\.", ".<name>.", line.partition(":")[0]) for line in lines}

    cells = {f"server.{row.name}" for row in CATALOGUE[BlockKind.SERVER]}
    unexplained = {name for name in names - cells if "circuit_breakers" not in name and not name.startswith("server.worker_0.")}
    # Those of tracing are there where a listener has it.
    assert unexplained == {name for name in MEANING if not name.startswith("tracing.")}


def test_it_ends_when_the_master_is_gone() -> None:
    with agent() as process:
        process.channel.close()

        assert process.exit_code() == 0


def test_an_interrupt_from_the_terminal_is_not_for_it() -> None:
    with agent() as process:
        os.kill(process.pid, signal.SIGINT)

        assert process.get("/ready").status_code == 200


def test_names_are_resolved_and_sent_to_the_master() -> None:
    with agent(dns_cluster("web")) as process:
        found = unpack(process.expect(PutResource).resource)
        assert [str(endpoint.address) for endpoint in found.endpoints] == ["127.0.0.1:80"]
        process.channel.send(Configure(version="2", upserts=[dns_cluster("later")]))

        assert unpack(process.expect(PutResource).resource).cluster == "later"
        assert "later::observability_name::later" in process.get("/clusters").text


def test_the_master_hears_when_each_version_is_warm_after_what_was_found() -> None:
    with agent(dns_cluster("web")) as process:
        heard = [process.expect((PutResource, Warm)) for _ in range(2)]
        assert [type(each) for each in heard] == [PutResource, Warm]
        assert heard[1].version == "1"
        process.channel.send(Configure(version="2", upserts=[dns_cluster("later")]))
        heard = [process.expect((PutResource, Warm)) for _ in range(2)]
        assert [type(each) for each in heard] == [PutResource, Warm]
        assert heard[1].version == "2"
        process.channel.send(Configure(version="3", removes=[(ResourceKind.CLUSTER, "later")]))

        assert process.expect(Warm).version == "3", "nothing new is asked for"


def test_a_change_is_acknowledged_and_seen() -> None:
    with agent() as process:
        process.channel.send(Configure(version="2", upserts=[pack(ResourceKind.CLUSTER, "new", Cluster(name="new"))]))
        assert process.expect(Applied).version == "2"
        process.channel.send(node_state(live=False))
        process.channel.send(Configure(version="3", removes=[(ResourceKind.CLUSTER, "new")]))
        process.expect(Applied)

        assert process.get("/ready").status_code == 503
        assert process.get("/clusters").text == ""


def test_records_reach_their_file_and_none_is_lost_at_the_end(tmp_path: Path) -> None:
    with agent(logging_listener(tmp_path / "a.log")) as process:
        for number in range(1000):
            process.region.put_record(0, 7, b"%d\n" % number)
        process.channel.send(Stop())

        assert process.exit_code() == 0
    assert (tmp_path / "a.log").read_bytes() == b"".join(b"%d\n" % number for number in range(1000))


def test_logs_are_reopened(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with agent(logging_listener(path)) as process:
        path.rename(tmp_path / "a.log.1")
        process.channel.send(ReopenLogs())
        process.channel.send(Configure(version="2"))
        process.expect(Applied)
        process.region.put_record(0, 7, b"new\n")
        process.channel.send(Stop())
        process.exit_code()

    assert path.read_text() == "new\n"
    assert (tmp_path / "a.log.1").read_text() == ""


def test_the_last_figures_are_sent_before_it_ends() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.settimeout(PATIENCE_S)
    sink = StatsSink(address=SocketAddress(host="127.0.0.1", port=server.getsockname()[1]))
    with agent(stats=Stats(sinks=(sink,), flush_interval_s=3600.0)) as process:
        process.region.add_cell(0, 7, 3)
        process.channel.send(Stop())
        process.exit_code()

    assert b"meshproxy.server.records_dropped:3|c" in server.recv(65536)
    server.close()


def test_an_order_goes_to_the_master() -> None:
    with agent() as process:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = requests.post(f"http://127.0.0.1:{process.port}/drain_listeners", timeout=PATIENCE_S).status_code
            os.write(writer, b"%d" % code)
            os._exit(0)
        order = process.expect(Order)
        process.channel.send(Answer(id=order.id))

        assert order.verb == "drain_listeners"
        assert os.read(reader, 10) == b"200"
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
