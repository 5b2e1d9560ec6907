"""The agent, composed in the order things run: what it knows, what it asks, what it writes, what it answers; then it waits for its end.

Everything is a greenlet on one hub. Nothing is monkey-patched: what waits does so on gevent's own sockets, and names are resolved in
gevent's threads.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.event import AsyncResult

from meshproxy import priority
from meshproxy.admin.access_log import AdminLogs
from meshproxy.admin.node import AdminNode, Brought
from meshproxy.admin.server import AdminServer
from meshproxy.agent.access_logs import AccessLogs
from meshproxy.agent.cataloguing import Cataloguing
from meshproxy.agent.export import StatsdExport
from meshproxy.agent.finding import Finding
from meshproxy.agent.following import Following
from meshproxy.agent.link import MasterLink
from meshproxy.agent.log_drain import LogDrain
from meshproxy.agent.metrics import AgentMetrics
from meshproxy.agent.registering import Registering
from meshproxy.agent.resolving import Resolving, ThreadedNameServers, threaded_lookup
from meshproxy.agent.secrets import SecretFiles
from meshproxy.agent.tracing import Collectors, RecordSinks
from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.assignments import AssignedSource, Assignments, asks_control_planes
from meshproxy.clock import monotonic_s
from meshproxy.discovery.consul import ConsulSource
from meshproxy.discovery.consul_config import Copies
from meshproxy.discovery.consul_seats import Seats
from meshproxy.discovery.sources import source_of
from meshproxy.ipc.boot import AgentBoot, ExitCode
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.messages import (
    AgentReport,
    Applied,
    AskReport,
    Configure,
    Leave,
    Left,
    NodeSettings,
    NodeState,
    PutAnswer,
    PutResource,
    Ready,
    ReopenLogs,
    Report,
    SourceRow,
    Stop,
    Warm,
)
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, ConsulService, EdsSource, EndpointSet, Listener, ResourceKind, Secret, Source
from meshproxy.model.snapshot import pack, unpack
from meshproxy.telemetry.logs import LogSinks

if TYPE_CHECKING:
    from meshproxy.agent.xds.apply import Join


LEAVE_LIMIT_S = 0.7
"""For telling registries at the end, when the master waits for nothing any more: it ends an agent after a second."""
SWEEP_S = 1.0
"""Between looks at access logs that nobody names any more or that wait for a slow reader."""


def run(boot: AgentBoot) -> int:
    """Be the agent until the master says stop or is gone; gives the exit code. An exception in any part ends it: an heir starts afresh."""
    return Agent(boot).run()


class Agent:
    """One object for the process. Its parts do the work; what is here is who hears what."""

    def __init__(self, boot: AgentBoot) -> None:
        self._idle = boot.idle
        self._state_directory = boot.state_directory
        self.view = NodeView.of(boot)
        self.journal = Journal(boot.settings.log_level)
        self.link = MasterLink(Channel.from_fd(boot.channel_fd), self.journal)
        lookup = threaded_lookup()
        self.resolving = Resolving(lookup, ThreadedNameServers(), self._publish, self.journal, self._look)
        self.cataloguing = Cataloguing(self.view, self.link.put, self.journal, self._look)
        self._seats = Seats()
        self.assignments = Assignments()
        self.finding = Finding(self._publish, self.journal, self._look, self._source_of)
        self.join: Join | None = None
        """From when a control plane is asked for anything."""
        hostname = socket.gethostname()
        self.registering = Registering(self.view, hostname, self.journal)
        self.following = Following(self.view, Copies(boot.state_directory), self.link.order, self.journal)
        self.sinks = LogSinks(hostname, lambda text: self.journal.warning("access log trouble", text=text), _udp_resolver())
        self.secrets = SecretFiles(self._publish_secret, self.journal)
        self.access_logs = AccessLogs(self.view, self.sinks)
        self.admin_logs = AdminLogs(self.sinks)
        self.collectors = Collectors(self.view, lookup, self.journal)
        records = RecordSinks(self.sinks, self.collectors)
        self.log_drain = LogDrain(self.view.region, records, lambda: self.access_logs.any_named or self.collectors.any_named)
        self.metrics = AgentMetrics(self.view, self._own_counters, self._own_gauges)
        self.export = StatsdExport(self.view, self.metrics.flush, lookup, self.journal, self.metrics.end_interval)
        self.admin = self._admin_server(boot.admin_fd, hostname) if boot.admin_fd >= 0 else None
        self.ended: AsyncResult = AsyncResult()
        self._looking = False
        self._leaving: list[gevent.Greenlet] = []
        self._warm = ""
        """The last version that the master was told to be warm."""

    def run(self) -> int:
        """Start all, say Ready, wait, end all."""
        self._take_clusters([each.name for each in self.view.resources(ResourceKind.CLUSTER)])
        self.cataloguing.configure()
        self.secrets.watch(self.view.secrets())
        self.access_logs.configure()
        self.collectors.configure()
        self._take_settings(self.view.settings)
        finders = (self.resolving.run, self.finding.run, self.secrets.run)
        registries = (self.registering.run, self.following.run, self.cataloguing.run)
        for part in (self._listen, *finders, self.log_drain.run, self.export.run, self._sweep, *registries):
            self._start(part)
        self._join_control_planes()
        if self.admin is not None:
            self.admin.start()
        if self._idle:
            priority.come_back()
        self.link.send(Ready(version=self.view.version))
        self._tell_warm()
        try:
            return self.ended.get()
        finally:
            self._end()

    # ---- what the master says ----

    def _listen(self) -> None:
        heard: dict[type, Callable] = {
            Configure: self._configure,
            NodeState: self._told,
            AskReport: self._report,
            Leave: self._leave,
            ReopenLogs: lambda message: self.sinks.reopen(),
            PutAnswer: lambda message: self.join.answered(message) if self.join is not None else None,
            Stop: lambda message: self.ended.set(int(ExitCode.DONE)),
        }
        self.link.run(heard)
        if not self.ended.ready():
            self._leave(Leave())
        self.ended.set(int(ExitCode.DONE))  # the master is gone

    def _told(self, state: NodeState) -> None:
        self.view.told(state)
        self.registering.changed()

    def _report(self, message: AskReport) -> None:
        sources = [
            SourceRow(cluster=name, source=each.name, endpoints=each.endpoints, age_s=round(each.age_s, 1), error=each.error)
            for name in self.finding.clusters() for each in self.finding.states(name) if not each.name.startswith("eds ")
        ]
        sources += self.cataloguing.rows()
        planes = self.join.rows() if self.join is not None else []
        odd = self.join.not_in_force() if self.join is not None else []
        report = AgentReport(
            sources=sources, registrations=self.registering.rows(), configurations=self.following.rows(), control_planes=planes,
            not_in_force=odd,
        )
        self.link.send(Report(id=message.id, report=report))

    def _leave(self, message: Leave) -> None:
        def tell() -> None:
            try:
                self.registering.leave(message.listeners)
            finally:
                self.link.send(Left())

        self._leaving.append(gevent.spawn(tell))

    def _configure(self, message: Configure) -> None:
        self.view.configure(message)
        changed = {*(each.kind for each in message.upserts), *(kind for kind, _ in message.removes)}
        gone = [name for kind, name in message.removes if kind is ResourceKind.CLUSTER]
        self.resolving.forget(gone)
        self.finding.forget(gone)
        self._take_clusters([each.name for each in message.upserts if each.kind is ResourceKind.CLUSTER])
        self.secrets.forget(name for kind, name in message.removes if kind is ResourceKind.SECRET)
        self.secrets.watch(unpack(each) for each in message.upserts if each.kind is ResourceKind.SECRET)
        self.access_logs.configure()
        self.collectors.configure()
        self.registering.came(each.name for each in message.upserts if each.kind is ResourceKind.LISTENER)
        self.registering.changed()
        self.following.changed()
        if any(kind in (ResourceKind.ROUTE_TABLE, ResourceKind.CLUSTER) for kind in changed):
            self.cataloguing.configure()
        self.log_drain.wake()
        if message.settings is not None:
            self._take_settings(message.settings)
        quiet = (ResourceKind.ENDPOINTS, ResourceKind.ROUTE_TABLE)
        if message.settings is not None or gone or any(each.kind not in quiet for each in message.upserts):
            self._join_control_planes()
        self.link.send(Applied(version=message.version))
        self._tell_warm()

    def _take_settings(self, settings: NodeSettings) -> None:
        self.journal.level = settings.log_level
        self.export.configure(settings.stats)
        self.admin_logs.configure(settings.admin.access_logs if settings.admin is not None else ())

    def _take_clusters(self, names: list[str]) -> None:
        ours = [name for name in names if self.join is None or not self.join.is_warming(name)]
        clusters = [(cluster, self.view.endpoint_set(name)) for name in ours if (cluster := self.view.cluster(name)) is not None]
        self.resolving.watch(clusters)
        self.finding.watch(clusters)

    def _look(self) -> None:
        """A source was answered or failed: once for all that is so in one turn."""
        if not self._looking:
            self._looking = True
            gevent.spawn(self._tell_warm)

    def _tell_warm(self) -> None:
        self._looking = False
        if self.join is not None:
            self.join.look_soon()
        self._tell_if_warm()

    def _tell_if_warm(self) -> None:
        if self._warm == self.view.version or not self.resolving.is_warm() or not self.finding.is_warm() or not self.cataloguing.is_warm():
            return
        if self.join is None or self.join.is_warm():
            self._warm = self.view.version
            self.link.send(Warm(version=self._warm))

    def _join_control_planes(self) -> None:
        """When something is asked of them, from now on."""
        if self.join is not None:
            self.join.configured()
        elif asks_control_planes(self.view):
            # Late: gRPC and protobuf cost 30 MB, and most nodes have none of it.
            from meshproxy.agent.xds.compose import join

            self.join = join(
                self.view, self.finding, self.resolving, self.assignments, self.link.send, self.journal, self._tell_if_warm,
                threaded_lookup(), self._state_directory,
            )
            self.join.start()

    def _source_of(self, wanted: Source) -> object:
        """What the catalogue's services are found by tells it more than endpoints."""
        if isinstance(wanted, ConsulService):
            return ConsulSource(wanted, self.cataloguing.heard, self._seats)
        return AssignedSource(self.assignments, wanted) if isinstance(wanted, EdsSource) else source_of(wanted)

    def _publish(self, found: EndpointSet) -> None:
        if self.join is not None and self.join.takes(found):
            return
        self.link.send(PutResource(resource=pack(ResourceKind.ENDPOINTS, found.cluster, found)))

    def _publish_secret(self, changed: Secret) -> None:
        self.link.send(PutResource(resource=pack(ResourceKind.SECRET, changed.name, changed)))

    # ---- parts ----

    def _start(self, part: Callable[[], None]) -> None:
        gevent.spawn(part).link_exception(lambda ended: self.ended.set_exception(ended.exception, ended.exc_info))

    def _sweep(self) -> None:
        while True:
            gevent.sleep(SWEEP_S)
            self.access_logs.sweep(monotonic_s())
            self.collectors.sweep(monotonic_s())
            self.registering.look()

    def _admin_server(self, fd: int, hostname: str) -> AdminServer:
        from meshproxy.admin.pages import answer

        node = AdminNode(self.view, self.metrics, self.link.order, lambda level: setattr(self.journal, "level", level),
                         self._brought, self._warming, self.finding.states)
        names = {hostname, hostname.partition(".")[0]} if self.view.settings.admin and self.view.settings.admin.allow_remote else set()
        return AdminServer(fd, lambda request: answer(node, request), self.journal, names, self.admin_logs.write)

    def _brought(self, key: tuple[ResourceKind, str]) -> Brought | None:
        if not self.view.is_brought(key):
            return None
        known = self.join.version_of(key) if self.join is not None else None
        return Brought(known[0], known[1], known[3]) if known is not None else Brought("", 0.0)

    def _warming(self) -> list[tuple[tuple[ResourceKind, str], Brought, Cluster | Listener]]:
        warming = self.join.warming() if self.join is not None else []
        return [(key, Brought(thing.version, thing.updated_s), thing.value) for key, thing in warming]

    def _own_counters(self) -> dict[str, int]:
        """What the agent counts itself."""
        region = self.view.region
        slots = range(region.slots_started)
        return {
            "server.access_log_lines_lost": self.sinks.lines_lost,
            "server.access_log_records_dropped": sum(region.ring_dropped(slot) for slot in slots),
            "server.access_log_ring_corrupt": sum(region.ring_corrupt(slot) for slot in slots),
            **self.export.counters(),
            **self.collectors.counters(),
            **self.resolving.counters(),
            **self.finding.counters(),
            **self.secrets.counters(),
            **(self.join.all_counters() if self.join is not None else {}),
            **self.registering.counters(),
            **self.following.counters(),
            **self.cataloguing.counters(),
        }

    def _own_gauges(self) -> dict[str, int]:
        """What the agent measures itself."""
        joined = self.join.gauges() if self.join is not None else {}
        return {**self.finding.gauges(), **self.registering.gauges(), **self.cataloguing.gauges(), **joined}

    def _end(self) -> None:
        """What is known is written out; what others hold is let go."""
        gevent.joinall(self._leaving, timeout=LEAVE_LIMIT_S)
        if self.admin is not None:
            self.admin.stop()
        if self.join is not None:
            self.join.end()
        self.log_drain.stop()
        self.collectors.stop()
        self.sinks.step()
        self.export.flush()
        self.export.close()
        self.sinks.close_all()
        self.link.close()


def _udp_resolver() -> Callable[[str, int], tuple]:
    """A syslog server's name, resolved in a thread: nothing else waits for it."""
    from meshproxy.telemetry.logs import resolve_udp

    return lambda host, port: gevent.get_hub().threadpool.apply(resolve_udp, (host, port))
