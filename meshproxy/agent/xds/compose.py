"""The parts that a node with control planes has, put together. Imported only then: it brings gRPC and protobuf along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshproxy.agent.finding import Finding
from meshproxy.agent.resolving import Resolving
from meshproxy.agent.view import NodeView
from meshproxy.agent.xds.apply import Join
from meshproxy.agent.xds.assignments import Assignments
from meshproxy.agent.xds.client import XdsClient
from meshproxy.agent.xds.last_good import LastGood
from meshproxy.config.envoy.dynamic import DynamicTranslator
from meshproxy.discovery.dns import Resolve
from meshproxy.master.journal import Journal


def join(
    view: NodeView, finding: Finding, resolving: Resolving, assignments: Assignments, send: Callable[[Any], None], journal: Journal,
    changed: Callable[[], None], lookup: Resolve, state_directory: str,
) -> Join:
    """Not started yet."""
    settings = view.settings
    reached = {each.name for each in view.clusters() if each.discovery != "found"}
    translator = DynamicTranslator(settings.node, settings.dynamic, view.secrets(), reached)
    client = XdsClient(settings.dynamic, settings.node, view, lookup, journal)
    last_good = LastGood(state_directory, settings.node.id, journal)
    return Join(view, client, translator, finding, resolving, assignments, send, journal, last_good, changed)
