"""A region with things that count in it, by name."""

from __future__ import annotations

from meshproxy.model import Cluster, Endpoint, FilterChain, HttpConnectionManager, Listener, Resource, ResourceKind, SocketAddress
from meshproxy.scoreboard.blocks import BlockAllocator
from meshproxy.scoreboard.catalogue import BlockKind, offsets
from meshproxy.scoreboard.region import SLOT_STATES, Region

PLACES = {kind: {row.name: at for at, row in offsets(kind)} for kind in BlockKind}


class Mesh:
    """Two workers, a listener `127.0.0.1:8080` with `stat_prefix` in, and clusters by name with one endpoint each."""

    def __init__(self, *clusters: str) -> None:
        self.region = Region.create(3)
        for slot in (0, 1):
            self.region.set_state(slot, SLOT_STATES.index("READY"))
        self.allocator = BlockAllocator(self.region)
        self.resources: dict[str, Resource] = {}
        for name in clusters:
            self.add_cluster(name)
        chain = FilterChain(terminal=HttpConnectionManager(stat_prefix="in", route_table="r"))
        listener = Listener(name="front", addresses=(SocketAddress("127.0.0.1", 8080),), chains=(chain,))
        self.allocator.blocks_for(Resource(ResourceKind.LISTENER, "front", b""), listener)

    def add_cluster(self, name: str) -> None:
        cluster = Cluster(name=name, endpoints=(Endpoint(address=SocketAddress("10.0.0.1", 80)),))
        blocks = self.allocator.blocks_for(Resource(ResourceKind.CLUSTER, name, b""), cluster)
        self.resources[name] = Resource(ResourceKind.CLUSTER, name, b"", blocks)

    def remove_cluster(self, name: str) -> None:
        self.allocator.reclaim(self.allocator.release(self.resources.pop(name)))

    def cell(self, kind: BlockKind, thing: str, metric: str) -> int:
        first = next(cell for row_kind, name, cell in self.rows() if (row_kind, name) == (kind.name, thing))
        return first + PLACES[kind][metric]

    def count(self, kind: BlockKind, thing: str, metric: str, amount: int = 1, slot: int = 0) -> None:
        self.region.add_cell(slot, self.cell(kind, thing, metric), amount)

    def record(self, kind: BlockKind, thing: str, metric: str, *values_us: int, slot: int = 0) -> None:
        for value in values_us:
            self.region.record_histogram(slot, self.cell(kind, thing, metric), value)

    def rows(self) -> list[tuple[str, str, int]]:
        return self.allocator.rows()
