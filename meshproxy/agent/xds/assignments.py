"""Endpoints by EDS, as a source like any other: what a control plane says of a service goes to the clusters that have it."""

from __future__ import annotations

import gevent
from gevent.event import Event

from meshproxy.agent.view import NodeView
from meshproxy.discovery.source import Clock, Sink
from meshproxy.model import ConfigSource, EdsSource, Endpoint, HttpConnectionManager

Service = tuple[ConfigSource, str]


class Assignments:
    """What was said last of each service, and who hears of it."""

    def __init__(self) -> None:
        self._known: dict[Service, tuple[Endpoint, ...] | str] = {}
        """Endpoints, or why there are none."""
        self._sinks: dict[Service, list[Sink]] = {}

    def said(self, source: ConfigSource, service: str, endpoints: tuple[Endpoint, ...]) -> None:
        """The control plane's word."""
        self._known[source, service] = endpoints
        for sink in list(self._sinks.get((source, service), ())):
            sink.found(endpoints)

    def missed(self, source: ConfigSource, service: str, error: str) -> None:
        """Nothing came; what was before stays."""
        if isinstance(self._known.get((source, service)), tuple):
            return
        self._known[source, service] = error
        for sink in list(self._sinks.get((source, service), ())):
            sink.failed(error)

    def forget(self, source: ConfigSource, services: set[str]) -> None:
        """Nobody asks for these any more."""
        for service in services:
            self._known.pop((source, service), None)

    def add(self, service: Service, sink: Sink) -> None:
        self._sinks.setdefault(service, []).append(sink)
        known = self._known.get(service)
        if isinstance(known, tuple):
            sink.found(known)
        elif known is not None:
            sink.failed(known)

    def remove(self, service: Service, sink: Sink) -> None:
        self._sinks[service].remove(sink)
        if not self._sinks[service]:
            del self._sinks[service]


class AssignedSource:
    """`discovery.source.Source` over an EdsSource; `watch` is killed to end it."""

    def __init__(self, assignments: Assignments, wanted: EdsSource) -> None:
        self._assignments = assignments
        self._wanted = wanted

    def watch(self, sink: Sink, clock: Clock) -> None:
        service = self._wanted.source, self._wanted.service or getattr(sink, "cluster", "")
        self._assignments.add(service, sink)
        try:
            Event().wait()
        finally:
            self._assignments.remove(service, sink)


def asks_control_planes(view: NodeView) -> bool:
    """Whether anything of the node is not in its file."""
    dynamic = view.settings.dynamic
    if dynamic.cds is not None or dynamic.lds is not None:
        return True
    if any(isinstance(source, EdsSource) for cluster in view.clusters() for source in cluster.sources):
        return True
    if any(secret.source is not None for secret in view.secrets()):
        return True
    terminals = (chain.terminal for listener in view.listeners() for chain in listener.all_chains)
    return any(isinstance(each, HttpConnectionManager) and each.rds is not None for each in terminals)


def is_in_hub() -> bool:
    """Whether whoever calls may not wait."""
    return gevent.getcurrent() is gevent.get_hub()
