"""Keeps the node's services registered in Consul: says what they are, that they live, and that they go.

Nothing of it is in traffic's way. Consul that cannot be asked is tried again, with waits that grow; what was lost there is told anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from meshproxy.agent.finding import AgentClock
from meshproxy.agent.view import NodeView
from meshproxy.discovery.consul_client import ConsulClient, RefusedError
from meshproxy.discovery.consul_registration import Instance, differs, instance_of
from meshproxy.discovery.source import Backoff, SourceError
from meshproxy.ipc.messages import RegistrationRow
from meshproxy.master.journal import Journal
from meshproxy.model import ConsulServer, SocketAddress

BACKOFF_S = 1.0, 30.0
IDLE_S = 3600.0
"""Between looks when nothing is to be registered: whatever changes wakes it."""


class _Kept:
    """How one instance stands."""

    def __init__(self, server: ConsulServer, instance: Instance) -> None:
        self.server = server
        self.instance = instance
        self.told: dict[str, Any] | None = None
        """The registration that Consul has from this process; None = perhaps one of a former process."""
        self.error = ""


class Registering:
    """Run by `run`, in a greenlet of its own. `hostname` tells nodes without an id apart."""

    def __init__(self, view: NodeView, hostname: str, journal: Journal) -> None:
        self._view = view
        self._hostname = hostname
        self._journal = journal
        self._clock = AgentClock()
        self._wake = Event()
        self._lock = BoundedSemaphore()
        self._kept: dict[str, _Kept] = {}
        self._left: set[str] | None = set()
        """Listeners that are about to go; None = the node is."""
        self._serving = False
        self._was_live = False
        self._attempts = self._failures = 0

    def run(self) -> None:
        """For ever."""
        backoff = Backoff(*BACKOFF_S)
        while True:
            self._wake.clear()
            with self._lock:
                good = self._step()
            if good:
                backoff.good()
                self._wake.wait(min((each.instance.registration.interval_s for each in self._kept.values()), default=IDLE_S))
            else:
                self._clock.sleep(backoff.wait_s(self._clock.random()))

    def changed(self) -> None:
        """Settings, listeners or processes are others."""
        self._wake.set()

    def look(self) -> None:
        """Called now and then: what makes a node unhealthy is not always told."""
        if self._kept and self._view.serving != self._serving:
            self._wake.set()

    def came(self, listeners: Iterable[str]) -> None:
        """These are configured, perhaps again."""
        if self._left is not None:
            self._left -= set(listeners)

    def leave(self, listeners: Iterable[str] = ()) -> None:
        """Takes out what stands for these listeners, or all, and returns when that is done or cannot be done."""
        names = set(listeners)
        if not names:
            self._left = None
        elif self._left is not None:
            self._left |= names
        with self._lock:
            for kept in list(self._kept.values()):
                if self._left is None or kept.instance.registration.listener in self._left:
                    self._take_out(kept)

    def rows(self) -> list[RegistrationRow]:
        """For pages."""
        found = []
        for registration in self._registrations():
            kept = next((each for each in self._kept.values() if each.instance.registration == registration), None)
            if kept is None:
                gone = self._left is None or registration.listener in self._left
                state, name, address, error = "left" if gone else "waiting", registration.id, "", ""
            else:
                name, address, error = kept.instance.id, kept.instance.address, kept.error
                state = "failed" if error else "registered" if kept.told is not None else "waiting"
            found.append(RegistrationRow(service=registration.service, id=name, address=address, state=state, error=error))
        return found

    def counters(self) -> dict[str, int]:
        """By metric name; none without something to register."""
        if not self._registrations():
            return {}
        return {"consul.registration.update_attempt": self._attempts, "consul.registration.update_failure": self._failures}

    def gauges(self) -> dict[str, int]:
        """By metric name."""
        if not (registrations := self._registrations()):
            return {}
        good = sum(each.told is not None and not each.error for each in self._kept.values())
        return {"consul.registration.registered": good, "consul.registration.missing": len(registrations) - good}

    # ---- one look ----

    def _step(self) -> bool:
        """Makes Consul's idea of the node what it should be; gives whether that went well."""
        self._serving = self._view.serving
        self._was_live = self._was_live or self._serving
        wanted = self._wanted()
        good = True
        for name, kept in list(self._kept.items()):
            server, instance = wanted.get(name, (None, None))
            if instance is None or server != kept.server:
                good = self._take_out(kept) and good
            else:
                kept.instance = instance
        for name, (server, instance) in wanted.items():
            if name not in self._kept:
                self._kept[name] = _Kept(server, instance)
        clients: dict[ConsulServer, ConsulClient] = {}
        try:
            for kept in list(self._kept.values()):
                client = clients.setdefault(kept.server, ConsulClient(kept.server))
                good = self._attempt(kept, lambda kept=kept, client=client: self._keep(client, kept)) and good
        finally:
            for client in clients.values():
                client.close()
        return good

    def _registrations(self) -> tuple:
        consul = self._view.settings.consul
        return consul.services if consul is not None else ()

    def _wanted(self) -> dict[str, tuple[ConsulServer, Instance]]:
        """Nothing before workers serve, and nothing of what is about to go."""
        view, consul = self._view, self._view.settings.consul
        if consul is None or not self._was_live or self._left is None or view.state.draining:
            return {}
        bound = {row.name: parsed(row.addresses[0]) for row in view.state.listeners if row.addresses}
        node = view.settings.node.id or self._hostname
        found = {}
        for registration in consul.services:
            if registration.listener in self._left and registration.listener:
                continue
            instance = instance_of(registration, bound.get(registration.listener), parsed(view.state.admin), node)
            if instance is not None:
                found[instance.id] = consul.server, instance
        return found

    def _keep(self, client: ConsulClient, kept: _Kept) -> None:
        instance = kept.instance
        name = quote(instance.id, safe="")
        try:
            why = differs(_mapping(client.get(f"/v1/agent/service/{name}", []).body), instance.body)
        except RefusedError as error:
            if error.status != 404:
                raise
            why = "missing"
        there = set(_mapping(client.get("/v1/agent/checks", [("filter", f'ServiceID == "{instance.id}"')]).body))
        why = why or ("checks" if instance.check_ids - there else "")
        status = "passing" if self._serving else "critical"
        if why or kept.told != instance.body:
            client.put("/v1/agent/service/register", body=instance.with_status(status))
            if kept.told == instance.body:
                self._log("registered again", instance, why=f"{why} is not what it was told" if why != "missing" else "consul had lost it")
            elif why or kept.told is not None:
                self._log("registered", instance)
            kept.told = instance.body
        for stale in instance.stale(there):
            client.put(f"/v1/agent/check/deregister/{quote(stale, safe='')}")
        if instance.ttl_check:
            said = {"Status": status, "Output": f"meshproxy is {self._view.server_state}"}
            client.put(f"/v1/agent/check/update/{quote(instance.ttl_check, safe='')}", body=said)

    def _take_out(self, kept: _Kept) -> bool:
        self._kept.pop(kept.instance.id, None)
        client = ConsulClient(kept.server)

        def deregister() -> None:
            try:
                client.put(f"/v1/agent/service/deregister/{quote(kept.instance.id, safe='')}")
            except RefusedError as error:
                # 1.12 answers 404, older ones 500, for what is not there any more.
                if error.status != 404 and "nknown service" not in str(error):
                    raise
            self._log("deregistered", kept.instance)

        try:
            return self._attempt(kept, deregister)
        finally:
            client.close()

    def _log(self, event: str, instance: Instance, **fields: object) -> None:
        self._journal.info(event, service=instance.registration.service, id=instance.id, address=instance.address, **fields)

    def _attempt(self, kept: _Kept, act: Any) -> bool:
        """Counts, and logs the first failure of a row."""
        self._attempts += 1
        try:
            act()
        except gevent.Timeout:
            raise
        except (SourceError, TypeError, ValueError) as error:
            self._failures += 1
            if not kept.error:
                self._journal.warning("registration failed", service=kept.instance.registration.service, id=kept.instance.id, error=error)
            kept.error = str(error)
            return False
        if kept.error:
            self._log("registration is good again", kept.instance)
        kept.error = ""
        return True


def _mapping(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise SourceError("the answer is not a mapping: this is no Consul agent")
    return body


def parsed(address: str) -> SocketAddress | None:
    """`10.0.0.5:80` or `[::1]:80`; None for what is no such address."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or address.startswith(("/", "@", "unix:")):
        return None
    return SocketAddress(host.strip("[]"), int(port))
