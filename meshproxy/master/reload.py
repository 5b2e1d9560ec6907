"""From an order to reload to every worker serving the new configuration, or to everything as it was and all the reasons why.

    load in a child -> bind what is new -> give blocks -> tell the agent -> wait for DNS -> tell all workers, wait for them -> close the old

Whatever fails up to "tell the agent" has changed nothing. A worker that refuses brings all back; one that dies or hangs does not, because
its heir starts with the new configuration. DNS is waited for when there are names that nobody has asked for yet, and for a few seconds at
most: workers serve the old configuration meanwhile, and get the new one with the endpoints that were found.

What a control plane brought goes the same way (`put_resources`), but resource by resource: what cannot be bound, has no room or is refused
by a worker is left out, and the rest goes live in one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from meshproxy.clock import monotonic_s
from meshproxy.config.plan import NEEDS_RESTART
from meshproxy.errors import BindError, TableFullError
from meshproxy.ipc.messages import Applied, Configure, PutAnswer, PutResource, PutResources, Refusal
from meshproxy.master import admin_socket
from meshproxy.master.agent import AgentKeeper
from meshproxy.master.configuration import Change
from meshproxy.master.crew import Crew, Worker
from meshproxy.master.listeners import key_of
from meshproxy.master.loader import LIMIT_S, Loaded, Loader, Refused
from meshproxy.master.node import Node
from meshproxy.master.puts import Asked, keep, plan
from meshproxy.master.rollout import Rollout
from meshproxy.model import Listener, Process, Resource, ResourceKind
from meshproxy.model.snapshot import unpack

APPLY_LIMIT_S = 30.0
"""A worker compiles 10,000 routes in slices within a second or two; one that takes longer hangs and is found by its heartbeat."""
MAX_WAITING = 10_000
"""Clusters and secrets that changed during a reload: the latest of each is kept."""
MAX_PUTS = 100
"""Puts that came while something else was under way. An agent has one at a time; the rest is for agents that died meanwhile."""
AT_ONCE = (ResourceKind.ENDPOINTS, ResourceKind.SECRET)
"""A change to these alone cannot be refused by a worker, so nobody waits for it."""
ORIGINS: tuple[Literal["xds", "consul"], ...] = ("xds", "consul")
"""Whence resources come that are not the file's."""
OURSELVES = 0
"""In the place of an agent's pid: nobody waits for the answer."""
_OWNERS = {ResourceKind.ENDPOINTS: ResourceKind.CLUSTER, ResourceKind.SECRET: ResourceKind.SECRET}
"""What the agent may put, and what has to be there under the same name."""
Done = Callable[[list[str], bytes], None]
"""Told how a reload ended: errors ([] = good) and a JSON body."""


@dataclass
class Underway:
    """A change that the agent has."""

    change: Change
    resocketed: list[Listener]
    """Listeners whose sockets are others than before."""
    bound: list[str]
    """What was bound for it."""
    admin: admin_socket.AdminSocket | None
    """A new one to take the place of the present."""
    warm_by_s: float
    """DNS is waited for until then."""
    rollout: Rollout | None = None
    """From when workers have it."""
    asked: Asked | None = None
    """What a control plane brought; None = a whole configuration."""


@dataclass
class Reloader:
    """One reload at a time; those who ask meanwhile share the next."""

    node: Node
    crew: Crew
    keeper: AgentKeeper
    _asked: list[Done] = field(default_factory=list)
    _waiting: list[Done] = field(default_factory=list)
    _loader: Loader | None = None
    _underway: Underway | None = None
    _put: dict[tuple[ResourceKind, str], Resource] = field(default_factory=dict)
    _puts: deque[Asked] = field(default_factory=deque)

    @property
    def busy(self) -> bool:
        return self._loader is not None or self._underway is not None

    @property
    def reloading(self) -> bool:
        """A whole configuration is on its way."""
        return self._loader is not None or (self._underway is not None and self._underway.asked is None)

    def ask(self, done: Done) -> None:
        if self.busy:
            self._waiting.append(done)
            return
        self._asked.append(done)
        self.node.notifier.reloading()
        self._load(self.node.command.patience.idle_load_s, idle=True)

    def tick(self, now_s: float) -> None:
        if self._loader is not None and now_s >= self._loader.deadline_s:
            self._on_late(self._loader)
        underway = self._underway
        if underway is None:
            return
        if underway.rollout is None and (now_s >= underway.warm_by_s or self.keeper.is_warm(underway.change.version)):
            underway.rollout = self._roll_out(underway, now_s)
        if underway.rollout is not None and underway.rollout.is_over(now_s):
            self._conclude(underway, underway.rollout)

    # ---- a whole configuration ----

    def _load(self, limit_s: float, idle: bool) -> None:
        command = self.node.command
        self._loader = Loader(command.entries.loader, command.config_path, command.env, monotonic_s() + limit_s, idle=idle)
        self.node.loop.watch(self._loader, self._read)

    def _on_late(self, loader: Loader) -> None:
        """An idle one has had too little of the processors: it is begun again as an equal of the others."""
        refused = loader.give_up()
        if loader.idle:
            self.node.loop.forget(loader)
            self._load(LIMIT_S, idle=False)
        else:
            self._loaded(refused)

    def _read(self) -> None:
        if self._loader is not None and (result := self._loader.read()) is not None:
            self._loaded(result)

    def _loaded(self, result: Loaded | Refused) -> None:
        self.node.loop.forget(self._loader)
        self._loader = None
        if isinstance(result, Refused):
            self._finish([str(problem) for problem in result.problems])
            return
        for problem in result.warnings:
            self.node.journal.warning("configuration", about=str(problem))
        try:
            self._send(result)
        except (BindError, TableFullError) as error:
            self._finish(str(error).splitlines())

    def _send(self, loaded: Loaded) -> None:
        node = self.node
        kept = keep(node.configuration.resources(), loaded.resources, loaded.settings, node.bindings.taken)
        names = {(each.kind, each.name) for each in kept.resources}
        # A secret of the file that is waited for is there already.
        resources = [each for each in loaded.resources if (each.kind, each.name) not in names] + kept.resources
        wanted = [unpack(each) for each in resources if each.kind is ResourceKind.LISTENER]
        admin = admin_socket.replacement(node, loaded.settings.admin)
        try:
            bound = node.bindings.bind(wanted)
            try:
                change = node.configuration.prepare_all(resources, loaded.settings, loaded.process)
            except TableFullError:
                node.bindings.close(bound)
                raise
        except (BindError, TableFullError):
            if admin is not None:
                admin.close()
            raise
        self._name_fixed(loaded.process)
        for text in kept.told:
            node.journal.warning("what a control plane brought goes", about=text)
        resocketed = self._resocketed(change)
        node.configuration.note_rows(change)
        # The agent first: it must know an access log before a worker writes to it, and a worker its endpoints before it routes to them.
        self.keeper.tell(change.for_agent())
        now_s = monotonic_s()
        cold = node.configuration.cold(change.upserts)
        self._underway = Underway(change, resocketed, bound, admin, warm_by_s=now_s + node.command.patience.warm_s if cold else now_s)
        self.tick(now_s)

    def _roll_out(self, underway: Underway, now_s: float) -> Rollout:
        node, change = self.node, underway.change
        if underway.asked is None and now_s >= underway.warm_by_s and (cold := node.configuration.cold(change.upserts)):
            node.journal.warning("names are not resolved yet", clusters=" ".join(cold), waited_s=node.command.patience.warm_s)
        self._take_found(change)
        self.crew.configure(change.for_workers(), underway.resocketed)
        return Rollout(change.version, now_s + APPLY_LIMIT_S, {worker.pid for worker in self.crew.ready()})

    def _take_found(self, change: Change) -> None:
        """Endpoints that came since for the change's clusters: workers get both at once."""
        clusters = {each.name for each in change.upserts if each.kind is ResourceKind.CLUSTER}
        keys = [key for key in self._put if key[0] is ResourceKind.ENDPOINTS and key[1] in clusters]
        found = [self._put.pop(key) for key in keys]
        try:
            if found:
                self.keeper.tell(self.node.configuration.extend(change, found).for_agent())
        except TableFullError as error:
            self.node.journal.error("a change is refused", error=error)

    def _resocketed(self, change: Change) -> list[Listener]:
        return [each for each in change.listeners if _keys(each) != self._keys_now(each.name)]

    def _keys_now(self, name: str) -> list[str]:
        resource = self.node.configuration.get((ResourceKind.LISTENER, name))
        return _keys(unpack(resource)) if resource is not None else []

    def _name_fixed(self, process: Process) -> None:
        for name in NEEDS_RESTART:
            if (new := getattr(process, name)) != (old := getattr(self.node.configuration.process, name)):
                self.node.journal.warning("a setting changes at the next start only", setting=name, now=old, then=new)

    # ---- what the workers say ----

    def on_born(self, worker: Worker) -> None:
        """It was born from the table as it is; what is under way follows at once, if the others have it."""
        if self._underway is not None and self._underway.rollout is not None:
            self.crew.configure_one(worker, self._underway.change.for_workers(), self._underway.resocketed)
            self._underway.rollout.waiting.add(worker.pid)

    def on_agent_born(self) -> None:
        """The same of the agent, which is told first. What a former one asked for is asked for again, if it still holds."""
        self._puts = deque(each for each in self._puts if each.agent in (OURSELVES, self.node.agent.pid))
        if self._underway is not None:
            self.keeper.tell(self._underway.change.for_agent())

    def on_applied(self, worker: Worker, applied: Applied) -> None:
        underway, order = self._underway, self.node.configuration.versions.order
        if underway is not None and underway.rollout is not None and order(applied.version) >= order(underway.change.version):
            underway.rollout.applied(worker.pid, applied.error, applied.refused)
            self.tick(monotonic_s())

    def on_gone(self, pid: int) -> None:
        if self._underway is not None and self._underway.rollout is not None:
            self._underway.rollout.gone(pid)
            self.tick(monotonic_s())

    # ---- the end ----

    def _conclude(self, underway: Underway, rollout: Rollout) -> None:
        self._underway = None
        if underway.asked is not None:
            self._conclude_put(underway, rollout, underway.asked)
        elif rollout.refusals:
            self._withdraw(underway)
            self._finish([f"a worker refuses it: {text}" for text in dict.fromkeys(rollout.refusals)])
        else:
            self._go_on(underway)

    def _go_on(self, underway: Underway) -> None:
        node, change = self.node, underway.change
        self._commit(change)
        node.configuration.number = change.version
        node.adjust(change)
        node.bindings.close(node.bindings.unwanted(node.configuration.listeners()))
        self.crew.steer(force=True)
        # What had refused the former configuration may like this one.
        node.workers.forgive(monotonic_s())
        if underway.admin is not None:
            admin_socket.install(node, underway.admin)
            self.keeper.stop("the admin address has changed")
        changed = [each for each in change.upserts if each.kind is not ResourceKind.ENDPOINTS]
        body = {"version": change.version, "changed": len(changed), "removed": len(change.removes)}
        node.journal.info("reloaded", **body)
        self._finish([], msgspec.json.encode(body))

    def _commit(self, change: Change) -> None:
        node = self.node
        tokens = node.configuration.commit(change)
        node.retirement.add(node.configuration.versions.order(change.version), tokens, self.crew.workers)
        after = Change(change.version, [], [])
        node.configuration.note_rows(after)
        if after.rows or after.rows_removed:
            self.keeper.tell(after.for_agent())

    def _withdraw(self, underway: Underway) -> None:
        """Everybody goes back to the table."""
        node = self.node
        back, tokens = node.configuration.undo(underway.change)
        self.crew.configure(back.for_workers(), [each for each in back.listeners if each.name in {new.name for new in underway.resocketed}])
        self.keeper.tell(back.for_agent())
        node.retirement.add(node.configuration.versions.order(back.version), tokens, self.crew.workers)
        node.bindings.close(underway.bound)
        if underway.admin is not None:
            underway.admin.close()

    def _finish(self, errors: list[str], body: bytes = b"") -> None:
        node = self.node
        for error in errors:
            node.journal.error("reload refused", error=error)
        node.notifier.ready(f"configuration {node.configuration.number}")
        self.keeper.tell_state()
        asked, self._asked = self._asked, []
        for done in asked:
            done(errors, body)
        self._put_waiting()
        self._begin_puts()
        self._ask_waiting()

    def _ask_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            self.ask(done)

    # ---- what control planes bring ----

    def put_resources(self, put: PutResources) -> None:
        """Into force as soon as nothing else is under way; answered then."""
        if put.only_check:
            self._check(Asked(put, self.node.agent.pid))
        else:
            self._put_as(Asked(put, self.node.agent.pid))

    def _check(self, asked: Asked) -> None:
        """Nothing stays bound: who listens without anybody to accept lets clients wait."""
        bindings, configuration = self.node.bindings, self.node.configuration
        before = set(bindings.keys())
        fresh = [unpack(each) for each in asked.put.upserts if each.kind is ResourceKind.LISTENER]
        there = [each for each in configuration.listeners() if (ResourceKind.LISTENER, each.name) not in _keys_of(asked.put)]
        refused = bindings.bind_each(there, fresh)
        bindings.close(set(bindings.keys()) - before)
        self._answer(asked.without(Refusal(ResourceKind.LISTENER, name, error) for name, error in refused.items()))

    def _put_as(self, asked: Asked) -> None:
        if not self.busy:
            self._begin_put(asked)
        elif len(self._puts) < MAX_PUTS:
            self._puts.append(asked)
        else:
            self._answer(asked.without(Refusal(each.kind, each.name, "too many changes wait") for each in asked.put.upserts))

    def take_away(self, refused: Iterable[Refusal]) -> None:
        """A newborn worker cannot take these, though control planes brought them: they are in force nowhere."""
        get = self.node.configuration.get
        for each in refused:
            self.node.journal.error("a resource of a control plane goes", kind=each.kind.name, name=each.name, error=each.error)
        for origin in ORIGINS:
            removes = [key for each in refused if (there := get(key := (each.kind, each.name))) is not None and there.origin == origin]
            if removes:
                self._put_as(Asked(PutResources(id=0, removes=removes, origin=origin), OURSELVES))

    def _begin_puts(self) -> None:
        while self._puts and not self.busy:
            self._begin_put(self._puts.popleft())

    def _begin_put(self, asked: Asked) -> None:
        node = self.node
        upserts, removes, left = plan(asked.put, node.configuration.get)
        for kind, name in left:
            node.journal.warning("a control plane cannot change what the file has", kind=kind.name, name=name)
        fresh = [unpack(each) for each in upserts if each.kind is ResourceKind.LISTENER]
        other = {each.name for each in fresh} | {name for kind, name in removes if kind is ResourceKind.LISTENER}
        unbound = node.bindings.bind_each([each for each in node.configuration.listeners() if each.name not in other], fresh)
        asked = asked.without(Refusal(ResourceKind.LISTENER, name, error) for name, error in unbound.items())
        upserts = [each for each in upserts if each.kind is not ResourceKind.LISTENER or each.name not in unbound]
        change, full = node.configuration.prepare_each(upserts, removes)
        asked = asked.without(full)
        resocketed = self._resocketed(change)
        if not change.upserts and not change.removes:
            self._conclude_empty(asked)
            return
        node.configuration.note_rows(change)
        self.keeper.tell(change.for_agent())
        now_s = monotonic_s()
        self._underway = Underway(change, resocketed, [], None, warm_by_s=now_s, asked=asked)
        if all(each.kind in AT_ONCE for each in change.upserts) and all(kind in AT_ONCE for kind, _ in change.removes):
            self.crew.configure(change.for_workers(), [])
            self._conclude(self._underway, Rollout(change.version, now_s, set()))
        else:
            self.tick(now_s)

    def _conclude_empty(self, asked: Asked) -> None:
        self.node.bindings.close(self.node.bindings.unwanted(self.node.configuration.listeners()))
        self._answer(asked)

    def _conclude_put(self, underway: Underway, rollout: Rollout, asked: Asked) -> None:
        node, change = self.node, underway.change
        if rollout.refusals:
            self._withdraw(underway)
            blamed = {(each.kind, each.name): each for each in rollout.blamed}
            ours = [blamed[key] for each in change.upserts if (key := (each.kind, each.name)) in blamed]
            # Where no worker can tell what is to blame, all of it is.
            self._begin_put(asked.without(ours or [Refusal(each.kind, each.name, rollout.refusals[0]) for each in change.upserts]))
            return
        self._commit(change)
        node.bindings.close(node.bindings.unwanted(node.configuration.listeners()))
        kinds = {each.kind for each in change.upserts} | {kind for kind, _ in change.removes}
        if ResourceKind.LISTENER in kinds:
            self.crew.steer(force=True)
            self.keeper.tell_state()
        self._answer(asked)
        self._put_waiting()
        self._ask_waiting()
        self._begin_puts()

    def _answer(self, asked: Asked) -> None:
        for each in asked.refused:
            self.node.journal.error("a control plane's resource is refused", kind=each.kind.name, name=each.name, error=each.error)
        if asked.agent == self.node.agent.pid and asked.put.id:
            self.keeper.tell(PutAnswer(id=asked.put.id, refused=asked.refused))

    # ---- small changes from elsewhere ----

    def put_resource(self, put: PutResource) -> None:
        """The agent found endpoints, or read a secret's files again: to everybody at once. What nothing needs any more is dropped."""
        if put.resource.kind not in _OWNERS:
            self.node.journal.error("agent puts what it may not", kind=put.resource.kind.name, name=put.resource.name)
        elif not self.busy:
            self._change([put.resource])
        elif len(self._put) < MAX_WAITING:
            self._put[put.resource.kind, put.resource.name] = put.resource

    def stop_listening(self, names: list[str]) -> None:
        """Takes listeners away without a new configuration; those that are gone already are passed over."""
        self._change([], [(ResourceKind.LISTENER, name) for name in names])
        self.node.bindings.close(self.node.bindings.unwanted(self.node.configuration.listeners()))

    def set_log_level(self, level: str) -> None:
        """Until the next reload, which sets what the configuration says."""
        settings = msgspec.structs.replace(self.node.configuration.settings, log_level=level)
        self.keeper.tell(Configure(version=self.node.configuration.versions.latest, settings=settings))

    def _put_waiting(self) -> None:
        waiting, self._put = self._put, {}
        if waiting and not self.busy:
            self._change(list(waiting.values()))

    def _change(self, upserts: list[Resource], removes: list[tuple[ResourceKind, str]] | None = None) -> None:
        configuration = self.node.configuration
        known = [each for each in upserts if configuration.get((_OWNERS[each.kind], each.name)) is not None]
        try:
            change = configuration.prepare(known, removes or [])
        except TableFullError as error:
            self.node.journal.error("a change is refused", error=error)
            return
        configuration.note_rows(change)
        self.keeper.tell(change.for_agent())
        self.crew.configure(change.for_workers(), [])
        self._commit(change)


def _keys_of(put: PutResources) -> set[tuple[ResourceKind, str]]:
    """All that it is about."""
    return {(each.kind, each.name) for each in put.upserts} | {(ResourceKind(kind), name) for kind, name in put.removes}


def _keys(listener: Listener) -> list[str]:
    return [key_of(listener, index) for index in range(len(listener.addresses))]
