"""Counts of gRPC calls."""

from meshproxy.model import GrpcStats
from meshproxy.proxy.exchange import FilterMaker
from meshproxy.scoreboard.region import Region

class MethodCounts:
    def move(self, region: Region, slot: int, cell: int) -> None: ...

class GrpcStatsMaker(FilterMaker):
    def __init__(self, model: GrpcStats, late_blocks: object) -> None: ...
