"""What the node is configured to be: the accepted resources as opaque bytes by (kind, name), and the way from one state to the next.

Every change passes through here, whoever asks for it, so a newborn worker or agent starts from this table. A change is prepared (it gets
blocks of the scoreboard), sent, and then committed or undone; one is under way at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from meshproxy.discovery.dns import names_of
from meshproxy.errors import TableFullError
from meshproxy.ipc.messages import Configure, Directory, NodeSettings, Refusal
from meshproxy.model import Cluster, EndpointSet, Listener, Process, Resource, ResourceKind, RouteTable, Snapshot, Source
from meshproxy.model.cluster import without_tokens
from meshproxy.model.discovery import node_without_token
from meshproxy.model.route import table_without_token
from meshproxy.model.snapshot import as_written, for_data_path, pack, unpack
from meshproxy.model.tls import without_keys
from meshproxy.model.xds import shown
from meshproxy.scoreboard.blocks import BlockAllocator

Key = tuple[ResourceKind, str]
Row = tuple[str, str, int]


@dataclass
class Change:
    """From the table as it is to another. `upserts` have blocks, in the order of making; `removes` in the order of unmaking."""

    version: str
    upserts: list[Resource]
    removes: list[Key]
    settings: NodeSettings | None = None
    process: Process | None = None
    rows: list[Row] = field(default_factory=list)
    rows_removed: list[tuple[str, str]] = field(default_factory=list)

    def for_workers(self) -> Configure:
        upserts = list(map(for_data_path, self.upserts))
        return Configure(version=self.version, upserts=upserts, removes=self.removes, process=self.process)

    def for_agent(self) -> Configure:
        return Configure(
            version=self.version, upserts=self.upserts, removes=self.removes, settings=self.settings,
            directory_rows=self.rows, directory_removed=self.rows_removed,
        )

    @property
    def listeners(self) -> list[Listener]:
        return [unpack(each) for each in self.upserts if each.kind is ResourceKind.LISTENER]


class Versions:
    """Names of the states: "3" for the third configuration, "3.2" for the second change to it from elsewhere. They are compared by when
    they were issued."""

    KEPT = 4096
    """A worker that is this many changes behind has been replaced long ago."""

    def __init__(self, configuration: int = 0) -> None:
        self.configuration = configuration
        self.latest = ""
        """The state's, or while a configuration is on its way to workers, that one's: the agent has it already."""
        self._changes = 0
        self._issued: dict[str, int] = {}
        self._count = 0

    def next(self, new_configuration: bool) -> str:
        if new_configuration:
            self.configuration, self._changes = self.configuration + 1, 0
            return self._issue(str(self.configuration))
        self._changes += 1
        return self._issue(f"{self.configuration}.{self._changes}")

    def withdraw(self) -> str:
        """The last configuration was refused by who should serve it: the number is not given again, the state is the former one's."""
        self._changes += 1
        return self._issue(f"{self.configuration}.{self._changes}")

    def order(self, version: str) -> int:
        """Later ones are higher; 0 for one that is not known."""
        return self._issued.get(version, 0)

    def _issue(self, version: str) -> str:
        self._count += 1
        self._issued[version] = self._count
        self.latest = version
        if len(self._issued) > self.KEPT:
            del self._issued[next(iter(self._issued))]
        return version


class Configuration:
    """The table and everything beside it that a change may touch."""

    def __init__(self, allocator: BlockAllocator, versions: Versions) -> None:
        self.allocator = allocator
        self.versions = versions
        self.version = ""
        self.number = ""
        """The version of the last configuration that was accepted as a whole: what people are shown."""
        self.settings = NodeSettings(node=Snapshot().node, stats=Snapshot().stats)
        self.process = Process()
        self._table: dict[Key, Resource] = {}
        self._rows: dict[tuple[str, str], int] = {}

    # ---- reading ----

    def resources(self) -> list[Resource]:
        """In the order of making."""
        return sorted(self._table.values(), key=lambda each: each.kind)

    def listeners(self) -> list[Listener]:
        return [unpack(each) for each in self._table.values() if each.kind is ResourceKind.LISTENER]

    def get(self, key: Key) -> Resource | None:
        return self._table.get(key)

    def directory(self) -> Directory:
        return Directory(rows=self.allocator.rows())

    def snapshot(self, brought: bool = True) -> Snapshot:
        """The whole as a front door would have given it, to be shown: no private keys or tokens, and no endpoints that the agent found.
        Not `brought`: without what came from elsewhere than the file."""
        of: dict[ResourceKind, list] = {kind: [] for kind in ResourceKind}
        for resource in self._table.values():
            value = unpack(resource)
            if brought or not resource.origin or (isinstance(value, RouteTable) and value.catalog is not None):
                of[resource.kind].append(value)
        return Snapshot(
            listeners=tuple(map(as_written, of[ResourceKind.LISTENER])),
            route_tables=tuple(map(table_without_token, of[ResourceKind.ROUTE_TABLE])),
            clusters=tuple(map(without_tokens, of[ResourceKind.CLUSTER])), secrets=tuple(map(without_keys, of[ResourceKind.SECRET])),
            admin=self.settings.admin, node=self.settings.node, stats=self.settings.stats, process=self.process,
            log_level=self.settings.log_level, dynamic=shown(self.settings.dynamic), consul=node_without_token(self.settings.consul),
        )

    # ---- changing ----

    def prepare_all(self, resources: list[Resource], settings: NodeSettings, process: Process) -> Change:
        """To exactly these resources. Found endpoints stay while their cluster does. Raises TableFullError, and nothing is changed."""
        wanted = {(each.kind, each.name): each for each in [*resources, *_known(resources)]}
        for key, resource in self._table.items():
            if key[0] is ResourceKind.ENDPOINTS and key not in wanted and self._still_found(key[1], wanted):
                wanted[key] = resource
        upserts = [each for key, each in wanted.items() if key not in self._table or self._table[key].body != each.body]
        removes = [key for key in self._table if key not in wanted]
        change = self._prepare(self.versions.next(True), upserts, removes)
        change.settings = settings if settings != self.settings else None
        change.process = process if process != self.process else None
        return change

    def prepare(self, upserts: list[Resource], removes: Iterable[Key] = ()) -> Change:
        """A change to some resources, from elsewhere than a whole configuration."""
        return self._prepare(self.versions.next(False), upserts, [key for key in removes if key in self._table])

    def extend(self, change: Change, found: list[Resource]) -> Change:
        """Takes endpoints that were found since into a change that no worker has yet; gives what is new in it. Raises TableFullError, and
        the change is as it was."""
        more = self._prepare(change.version, found, [])
        change.upserts = sorted([*change.upserts, *more.upserts], key=lambda each: each.kind)
        self.note_rows(more)
        return more

    def cold(self, upserts: Iterable[Resource]) -> list[str]:
        """Clusters among these whose names or sources nobody has asked yet, and that the node is to wait for."""
        clusters = (unpack(each) for each in upserts if each.kind is ResourceKind.CLUSTER)
        return [each.name for each in clusters if each.wait_for_warm and not _asks(each) <= self._asked(each.name)]

    def commit(self, change: Change) -> list[int]:
        """The change is the state now. Gives tokens to reclaim when no worker uses what it replaced."""
        replaced = [self._table.get((each.kind, each.name)) for each in change.upserts]
        replaced += [self._table.pop(key) for key in change.removes]
        for resource in change.upserts:
            self._table[resource.kind, resource.name] = resource
        self.version = change.version
        self.settings = change.settings or self.settings
        self.process = change.process or self.process
        return [self.allocator.release(resource) for resource in replaced if resource is not None]

    def undo(self, change: Change) -> tuple[Change, list[int]]:
        """What brings those who have applied `change` back to the table, and tokens of the blocks that it had."""
        keys = [(each.kind, each.name) for each in change.upserts] + change.removes
        back = Change(
            self.versions.withdraw(),
            sorted((self._table[key] for key in keys if key in self._table), key=lambda each: each.kind),
            sorted((key for key in keys if key not in self._table), reverse=True),
            self.settings if change.settings else None,
            self.process if change.process else None,
        )
        tokens = [self.allocator.release(resource) for resource in change.upserts]
        self.version = back.version
        self.note_rows(back)
        return back, tokens

    def note_rows(self, change: Change) -> None:
        """Writes into `change` how the directory differs from what the agent was told last."""
        for key, cell in sorted(self.allocator.changed_rows().items(), key=lambda each: (each[1] or 0, each[0])):
            if cell is None:
                if self._rows.pop(key, None) is not None:
                    change.rows_removed.append(key)
            elif self._rows.get(key) != cell:
                self._rows[key] = cell
                change.rows.append((*key, cell))

    def prepare_each(self, upserts: list[Resource], removes: Iterable[Key]) -> tuple[Change, list[Refusal]]:
        """The same, with each resource on its own: what finds no room is refused, and the others are in the change."""
        refused: list[Refusal] = []
        made: list[Resource] = []
        for resource in sorted(upserts, key=lambda each: each.kind):
            try:
                made.append(msgspec.structs.replace(resource, blocks=self.allocator.blocks_for(resource, unpack(resource))))
            except TableFullError as error:
                refused.append(Refusal(resource.kind, resource.name, str(error)))
        return Change(self.versions.next(False), made, sorted((key for key in removes if key in self._table), reverse=True)), refused

    def _prepare(self, version: str, upserts: list[Resource], removes: list[Key]) -> Change:
        made: list[Resource] = []
        try:
            for resource in sorted(upserts, key=lambda each: each.kind):
                made.append(msgspec.structs.replace(resource, blocks=self.allocator.blocks_for(resource, unpack(resource))))
        except TableFullError:
            for resource in made:
                # Nobody has counted in them yet.
                self.allocator.reclaim(self.allocator.release(resource))
            raise
        return Change(version, made, sorted(removes, reverse=True))

    def _asked(self, cluster: str) -> set[str | Source]:
        """What the agent asks, or a former master's did, because the table has a cluster with it."""
        resource = self._table.get((ResourceKind.CLUSTER, cluster))
        return _asks(unpack(resource)) if resource is not None else set()

    def _still_found(self, cluster: str, wanted: dict[Key, Resource]) -> bool:
        resource = wanted.get((ResourceKind.CLUSTER, cluster))
        return resource is not None and unpack(resource).discovery != "static"


def _asks(cluster: Cluster) -> set[str | Source]:
    """Whatever must answer before the cluster's endpoints are all known: host names, sources."""
    return {*names_of(cluster), *cluster.sources}


def _known(resources: list[Resource]) -> list[Resource]:
    """Endpoints of DNS clusters that have only IP addresses: nobody needs to find them."""
    clusters: list[Cluster] = [unpack(each) for each in resources if each.kind is ResourceKind.CLUSTER]
    return [
        pack(ResourceKind.ENDPOINTS, each.name, EndpointSet(cluster=each.name, endpoints=each.endpoints))
        for each in clusters if each.discovery != "static" and each.endpoints and not names_of(each)
    ]
