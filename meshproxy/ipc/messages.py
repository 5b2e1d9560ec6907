"""Every message between the master, its workers, its agent and the commands. One table; frames are in `ipc.frames`.

A message is a tagged msgspec struct. Some carry file descriptors beside them (`SCM_RIGHTS`): the docstring says which and in what order.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from meshproxy.model import Admin, ConsulNode, Dynamic, Node, Process, Resource, ResourceKind, Stats


class Message(msgspec.Struct, frozen=True, tag=True, kw_only=True, omit_defaults=True):
    """The root, for the tag."""


class ListenerSocket(msgspec.Struct, frozen=True, kw_only=True):
    """One listening socket of a worker. `shared`: all slots have the same socket (UNIX, systemd), so it is watched exclusively."""

    listener: str
    address_index: int
    shared: bool = False


class Configure(Message, kw_only=True):
    """master -> worker, agent: make these resources live, all of them before `Applied`. A worker compiles in slices and swaps at the end.

    `upserts` are in the order of making. File descriptors: one for each of `sockets`, in order; a socket may come in an earlier
    `Sockets` message when there are too many for one. The sockets that come for a listener are all it has from now on (they may be
    duplicates of those before); a listener that is upserted without sockets keeps its own.
    """

    version: str
    upserts: list[Resource] = []
    removes: list[tuple[ResourceKind, str]] = []
    sockets: list[ListenerSocket] = []
    settings: NodeSettings | None = None
    """Only to the agent, when it changed."""
    process: Process | None = None
    """Only to workers, when it changed: the overload limits may."""
    directory_rows: list[tuple[str, str, int]] = []
    """Only to the agent: rows of `Directory` that are new."""
    directory_removed: list[tuple[str, str]] = []
    """Only to the agent: (kind, name) of rows that are gone."""


class Sockets(Message, kw_only=True):
    """master -> worker: listening sockets for the next Configure. File descriptors: one for each."""

    sockets: list[ListenerSocket]


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What only the agent needs of a snapshot."""

    node: Node
    stats: Stats
    admin: Admin | None = None
    log_level: str = "info"
    consul: ConsulNode | None = None
    dynamic: Dynamic = Dynamic()


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A resource that cannot be taken, and why: the error names it."""

    kind: ResourceKind
    name: str
    error: str


class Applied(Message, kw_only=True):
    """worker, agent -> master: `version` is live here; or `error` says why not and what was before stays.

    `refused`: the resources that are to blame, all of them; empty where none is.
    """

    version: str
    error: str = ""
    refused: list[Refusal] = []


class LetGo(Message, kw_only=True):
    """worker -> master: no exchange here refers any more to what was removed up to `version`, so its blocks may be given out again."""

    version: str


class WantBlock(Message, kw_only=True):
    """worker -> master: a place in the scoreboard for what showed itself in traffic. `kind` is a BlockKind's name."""

    kind: str
    name: str


class BlockGiven(Message, kw_only=True):
    """master -> worker: the answer; none comes when the table is full."""

    kind: str
    name: str
    cell: int


class Ready(Message, kw_only=True):
    """worker, agent -> master: started, configured and serving; without `refused`, which a control plane brought and it cannot take."""

    version: str
    refused: list[Refusal] = []


class Drain(Message, kw_only=True):
    """master -> worker: stop accepting (after the queue is empty), tell clients to close, end with the last exchange or after `limit_s`.

    Then the worker exits with 0. The master has steered new connections away before. A client that keeps an idle connection is told with
    its next answer, so that none meets a close it did not expect; with `close_idle` (the whole node stops) idle connections close at once.
    """

    limit_s: float
    close_idle: bool = False


class Stop(Message, kw_only=True):
    """master -> worker, agent: exit now."""


class AdoptConnections(Message, kw_only=True):
    """master -> worker: connections that were accepted from the queue of a slot without a worker. File descriptors: one each."""

    listener: str
    address_index: int
    count: int


class ReopenLogs(Message, kw_only=True):
    """master -> agent (SIGUSR1)."""


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as `status` shows it."""

    slot: int
    pid: int
    state: Literal["STARTING", "READY", "DRAINING", "GONE"]
    generation: int
    uptime_s: float
    restarts: int = 0
    last_death: str = ""


class ListenerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A listener as `status` shows it. `addresses` have the port the kernel picked."""

    name: str
    addresses: list[str]


class ControlPlaneRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of a control plane, as `status` shows it."""

    kind: str
    """CDS, EDS, ..."""
    source: str
    resources: int = 0
    """That came."""
    version: str = ""
    """The last that was accepted."""
    updated_unix_s: float = 0.0
    error: str = ""
    """Why it cannot be asked, or why its last word was refused; "" = all is well."""
    last_known_good: bool = False
    """What is in force is from the disk."""


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A place where a cluster's endpoints are found, as `status` shows it."""

    cluster: str
    source: str
    endpoints: int
    age_s: float
    """Since its last good answer, or since it was asked first."""
    error: str = ""
    """Of the last try; "" = it was good."""


class RegistrationRow(msgspec.Struct, frozen=True, kw_only=True):
    """A service that the node registers, as `status` shows it."""

    service: str
    id: str
    address: str
    state: Literal["waiting", "registered", "failed", "left"]
    """`waiting`: for workers or for a first answer."""
    error: str = ""


class ConfigRow(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration that is followed elsewhere than in a file, as `status` shows it."""

    source: str
    state: Literal["in force", "refused", "copy"]
    """`refused`: what is there now; the one before is in force. `copy`: the last good one is, because the source could not be asked."""
    error: str = ""


class AgentReport(msgspec.Struct, frozen=True, kw_only=True):
    """What only the agent can say of the node. Its fields are those of NodeState."""

    sources: list[SourceRow] = []
    registrations: list[RegistrationRow] = []
    configurations: list[ConfigRow] = []
    control_planes: list[ControlPlaneRow] = []
    not_in_force: list[str] = []
    """Parts of resources that this proxy does without, and resources that were refused, each with its name."""


class AskReport(Message, kw_only=True):
    """master -> agent: answered by `Report` with the same `id`."""

    id: int


class Report(Message, kw_only=True):
    """agent -> master."""

    id: int
    report: AgentReport


class Leave(Message, kw_only=True):
    """master -> agent: the node is about to end, or with `listeners` only these are. Registries are told; then `Left` is answered."""

    listeners: list[str] = []


class Left(Message, kw_only=True):
    """agent -> master: whoever had to know has been told, or cannot be."""


class NodeState(Message, kw_only=True):
    """master -> agent, at each change: what the admin API tells about processes. Also the answer to `status` (as JSON, without the tag)."""

    pid: int
    version: str
    config_version: str
    config_file: str
    live: bool
    """At least one worker answers and the node does not drain."""
    draining: bool
    uptime_s: float
    restart_epoch: int
    workers: list[WorkerRow]
    agent: WorkerRow | None
    listeners: list[ListenerRow]
    admin: str = ""
    control: str = ""
    sources: list[SourceRow] = []
    """Only in the answer to `status`, as what follows."""
    registrations: list[RegistrationRow] = []
    configurations: list[ConfigRow] = []
    control_planes: list[ControlPlaneRow] = []
    not_in_force: list[str] = []


class PutResource(Message, kw_only=True):
    """agent -> master: what the agent found. The resource is without blocks, and of kind ENDPOINTS (a cluster's, by DNS now, by registries
    later) or SECRET (its files changed)."""

    resource: Resource


class PutResources(Message, kw_only=True):
    """agent -> master: what a control plane (`origin` "consul": a catalogue) brought and took away. The resources are without blocks.

    Everything of it that is good goes live in one step, and is answered by `PutAnswer` then. What a control plane cannot change (the
    file has a resource of that name) is left as it is. A cluster's endpoints go with it. `only_check`: nothing is put, the answer tells
    at once which listeners could not have their addresses.
    """

    id: int
    only_check: bool = False
    upserts: list[Resource] = []
    removes: list[tuple[ResourceKind, str]] = []
    origin: Literal["xds", "consul"] = "xds"


class PutAnswer(Message, kw_only=True):
    """master -> agent: the put with this `id` is in force, but for the resources in `refused`, of which those before stay."""

    id: int
    refused: list[Refusal] = []


class Warm(Message, kw_only=True):
    """agent -> master: the names of every cluster of `version` were answered or failed once, and what was found has been put."""

    version: str


class Order(Message, kw_only=True):
    """agent -> master (from the admin API), or command -> master (control socket): do this. Answered by `Answer` with the same `id`.

    `drain_listeners` takes `listeners` (empty = all) and stops accepting without ending the node; `quit` is /quitquitquit; `loglevel` takes
    `argument`; `dump` with the argument `file` leaves out what came from elsewhere; `scoreboard` is answered with two things to read metrics
    by: the region's file descriptor and `Directory`.
    """

    id: int = 0
    verb: Literal[
        "reload", "upgrade", "drain", "drain_listeners", "stop", "quit", "status", "loglevel", "reopen_logs", "scoreboard", "dump"
    ]
    argument: str = ""
    listeners: list[str] = []
    limit_s: float = 0.0
    graceful: bool = True


class Answer(Message, kw_only=True):
    """master -> agent, command. `ok` False: nothing was changed, and `errors` say why. `body` is JSON where the order has an answer."""

    id: int = 0
    ok: bool = True
    errors: list[str] = []
    body: bytes = b""


class Directory(msgspec.Struct, frozen=True):
    """Which block is whose: rows of (BlockKind name, thing's name in metrics, first cell). For HOST the name is `cluster/address`."""

    rows: list[tuple[str, str, int]]


AnyMessage = (
    Configure | Sockets | Applied | LetGo | WantBlock | BlockGiven | Ready | Drain | Stop | AdoptConnections | ReopenLogs | NodeState
    | PutResource | PutResources | PutAnswer | Warm | Order | Answer | AskReport | Report | Leave | Left
)
