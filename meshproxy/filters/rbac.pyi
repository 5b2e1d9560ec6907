"""Who may do what over HTTP."""

from meshproxy.model import HttpRbac
from meshproxy.proxy.exchange import FilterMaker
from meshproxy.scoreboard.region import Region

class RbacMaker(FilterMaker):
    def __init__(self, model: HttpRbac, region: Region, slot: int, cell: int, shadow_cell: int) -> None: ...
