"""Follows the configuration that is in Consul: another one there is a reload, a good one is kept on disk for a start without Consul."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import Event

from meshproxy.agent.finding import AgentClock
from meshproxy.agent.view import NodeView
from meshproxy.discovery.consul import BACKOFF_S, WAIT_S, next_index
from meshproxy.discovery.consul_client import ConsulClient
from meshproxy.discovery.consul_config import Copies, Tree, ask, place
from meshproxy.discovery.source import Backoff, SourceError
from meshproxy.ipc.messages import Answer, ConfigRow, Order
from meshproxy.master.journal import Journal
from meshproxy.model import ConsulConfig, ConsulServer

SETTLE_S = 0.3
"""Several keys are mostly written one after the other: so long is waited after a change."""
AGAIN_S = 2.0
"""The master had something else to do."""


class Following:
    """Run by `run`, in a greenlet of its own. `give_order` has the master do something, and waits."""

    def __init__(self, view: NodeView, copies: Copies, give_order: Callable[[Order], Answer], journal: Journal) -> None:
        self._view = view
        self._copies = copies
        self._order = give_order
        self._journal = journal
        self._clock = AgentClock()
        self._changed = Event()
        self._saved = self._refused = ""
        """Digests of what was saved, or refused, last."""
        self._error = ""
        self._attempts = self._failures = self._rejected = 0

    def run(self) -> None:
        """For ever; costs nothing while no configuration is in Consul."""
        while True:
            self._changed.clear()
            if (wanted := self._wanted()) is None:
                self._changed.wait()
                continue
            server, config = wanted
            client = ConsulClient(server)
            try:
                self._watch(client, server, config.prefix)
            finally:
                client.close()

    def changed(self) -> None:
        """Settings are others."""
        self._changed.set()

    def rows(self) -> list[ConfigRow]:
        """For pages."""
        if (wanted := self._wanted()) is None:
            return []
        server, config = wanted
        state = "refused" if self._refused else "copy" if config.saved_s else "in force"
        return [ConfigRow(source=place(server, config.prefix), state=state, error=self._error)]

    def counters(self) -> dict[str, int]:
        """By metric name; none without a configuration in Consul."""
        if self._wanted() is None:
            return {}
        counted = {"attempt": self._attempts, "failure": self._failures, "rejected": self._rejected}
        return {f"consul.config.update_{name}": count for name, count in counted.items()}

    def _wanted(self) -> tuple[ConsulServer, ConsulConfig] | None:
        consul = self._view.settings.consul
        return (consul.server, consul.config) if consul is not None and consul.config is not None else None

    def _watch(self, client: ConsulClient, server: ConsulServer, prefix: str) -> None:
        """Until another place is to be watched."""
        backoff, index = Backoff(*BACKOFF_S), 0
        while (wanted := self._wanted()) is not None and wanted[0] == server and wanted[1].prefix == prefix:
            self._attempts += 1
            try:
                waiting = [("index", str(index)), ("wait", f"{WAIT_S}s")] if index else None
                tree = ask(client, prefix, waiting, WAIT_S * 17 / 16 if index else 0.0)
                if index and tree.digest != wanted[1].digest:
                    self._clock.sleep(SETTLE_S)
                    tree = ask(client, prefix)
                index = next_index(index, tree.index)
            except SourceError as error:
                index = 0
                self._failures += 1
                self._trouble(str(error), prefix)
                self._clock.sleep(backoff.wait_s(self._clock.random()))
                continue
            backoff.good()
            if not self._take(server, prefix, tree):
                index = 0
                self._clock.sleep(AGAIN_S)

    def _take(self, server: ConsulServer, prefix: str, tree: Tree) -> bool:
        """What is in Consul now; gives whether nothing is to be done about it again."""
        wanted = self._wanted()
        if wanted is None:
            return True
        if not tree.texts:
            self._trouble(f'there is no key "{prefix}" any more and none below it', prefix)
            return True
        if tree.digest != wanted[1].digest or wanted[1].saved_s:
            if tree.digest == self._refused:
                return True
            self._journal.info("configuration in consul changed", source=place(server, prefix), keys=len(tree.texts))
            answer = self._order(Order(verb="reload"))
            if not answer.ok:
                return self._told_no(tree, answer)
            wanted = self._wanted()
        self._error = self._refused = ""
        if wanted is not None and wanted[1].digest == tree.digest and not wanted[1].saved_s:
            self._save(server, prefix, tree)
        return True

    def _told_no(self, tree: Tree, answer: Answer) -> bool:
        error = answer.errors[0] if answer.errors else "refused"
        if error.startswith(("reload: ", "the master ", "the agent ")):
            return False  # not because of what it says
        self._refused, self._error = tree.digest, error
        self._rejected += 1
        self._journal.error("configuration in consul refused", error=error, kept="the configuration before")
        return True

    def _trouble(self, error: str, prefix: str) -> None:
        if not self._error:
            self._journal.warning("configuration in consul cannot be read", prefix=prefix, error=error, kept="the configuration before")
        self._error = error

    def _save(self, server: ConsulServer, prefix: str, tree: Tree) -> None:
        if self._saved == tree.digest:
            return
        self._saved = tree.digest
        try:
            self._copies.save(server, prefix, tree)
        except OSError as error:
            path = self._copies.path(server, prefix)
            self._journal.warning("configuration is not kept for a start without consul", path=path, error=error.strerror)
