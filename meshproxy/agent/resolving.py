"""Asks the machine's resolver or its name servers, in threads, what `discovery.dns` wants to know; the master gets what changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import gevent
from gevent.event import Event
from gevent.pool import Pool

from meshproxy.clock import monotonic_s
from meshproxy.discovery.dns import Found, Lookup, Resolve, StrictDns, resolve
from meshproxy.master.journal import Journal
from meshproxy.model import Cluster, EndpointSet

AT_ONCE = 10
"""As many lookups as gevent's pool has threads; a resolver that hangs holds up only names."""


class Resolving:
    """Keeps STRICT_DNS clusters up to date. `publish` gets each changed endpoint set. `ttl_lookup` is for clusters that go by TTLs.
    `ended` hears of each lookup that was answered or failed, after what it changed was published."""

    def __init__(
        self, lookup: Resolve, ttl_lookup: Resolve, publish: Callable[[EndpointSet], None], journal: Journal,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._lookup = lookup
        self._ttl_lookup = ttl_lookup
        self._journal = journal
        self._publish = publish
        self._ended = ended
        self._dns = StrictDns()
        self._changed = Event()
        self._asking = Pool(AT_ONCE)
        self._stat_names: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        """By cluster, for `update_attempt` and `update_failure`."""

    def watch(self, clusters: Iterable[tuple[Cluster, EndpointSet | None]]) -> None:
        """These are new or changed; beside each what the node has of it already."""
        for cluster, told in clusters:
            if cluster.discovery == "strict_dns":
                self._stat_names[cluster.name] = cluster.stat_name
                self._tell(self._dns.put(cluster, monotonic_s(), told))
            else:
                self.forget([cluster.name])
        self._changed.set()

    def forget(self, clusters: Iterable[str]) -> None:
        """These are gone."""
        for name in clusters:
            self._dns.remove(name)
            self._stat_names.pop(name, None)
            self.attempts.pop(name, None)
            self.failures.pop(name, None)

    def run(self) -> None:
        """For ever, in a greenlet of its own. Sleeps until the next name is due; costs nothing without DNS clusters."""
        while True:
            self._changed.clear()
            for question in self._dns.due(monotonic_s()):
                self._asking.spawn(self._ask, question)
            due_s = self._dns.next_due_s()
            self._changed.wait(None if due_s is None else max(due_s - monotonic_s(), 0.0))

    def _ask(self, question: Lookup) -> None:
        self.attempts[question.cluster] = self.attempts.get(question.cluster, 0) + 1
        try:
            found = resolve(self._ttl_lookup if question.by_ttl else self._lookup, question.host, question.family)
        except OSError as error:
            if not question.name.failures:
                self._journal.warning("dns lookup failed", cluster=question.cluster, host=question.host, error=error, kept="last endpoints")
            self.failures[question.cluster] = self.failures.get(question.cluster, 0) + 1
            self._dns.failed(question, monotonic_s(), random.random())
        else:
            self._tell(self._dns.answered(question, found, monotonic_s()))
        self._changed.set()
        self._ended()

    def is_warm(self) -> bool:
        """Whether every name that the node waits for was answered or failed once."""
        return self._dns.is_warm()

    def is_warm_of(self, cluster: str) -> bool:
        """The same of one cluster's names; True of one that has none."""
        return self._dns.is_warm_of(cluster)

    def counters(self) -> dict[str, int]:
        """Of lookups, by metric name."""
        counted = {}
        for name, attempts in self.attempts.items():
            failures = self.failures.get(name, 0)
            prefix = f"cluster.{self._stat_names.get(name, name)}"
            counted[f"{prefix}.update_attempt"] = attempts
            counted[f"{prefix}.update_failure"] = failures
            counted[f"{prefix}.update_success"] = attempts - failures
        return counted

    def _tell(self, changed: EndpointSet | None) -> None:
        if changed is not None:
            self._journal.info("endpoints changed", cluster=changed.cluster, endpoints=len(changed.endpoints))
            self._publish(changed)


def threaded_lookup() -> Resolve:
    """The machine's `getaddrinfo` in gevent's thread pool: /etc/hosts, search lists and all that administrators set up."""
    from gevent.resolver.thread import Resolver

    from meshproxy.discovery.dns import system_lookup

    return system_lookup(Resolver(gevent.get_hub()).getaddrinfo)


class ThreadedNameServers:
    """`discovery.name_servers` in gevent's threads. Its library costs some MB and 70 ms: it is loaded when a cluster goes by TTLs."""

    def __init__(self) -> None:
        self._lookup: Resolve | None = None

    def __call__(self, host: str, family: int) -> Found:
        if self._lookup is None:
            from meshproxy.discovery.name_servers import NameServers

            self._lookup = NameServers()
        return gevent.get_hub().threadpool.apply(self._lookup, (host, family))
