"""The TLS that a cluster originates."""

from meshproxy.scoreboard.region import Region
from meshproxy.workers.tls_context import TlsContext

class UpstreamSecurity:
    context: TlsContext
    def __init__(self, context: TlsContext, region: Region, slot: int, cell: int, ssl_cell: int) -> None: ...
    def renew(self, context: TlsContext) -> None: ...
    def refuse(self) -> None: ...
