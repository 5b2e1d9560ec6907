"""TLS contexts made when the configuration or a secret changes; `tls_context.pxd` has what connections use."""

from meshproxy.model import DownstreamTls, UpstreamTls
from meshproxy.workers.tls_ticket_keys import TicketKeys

class TlsContext:
    model: DownstreamTls | UpstreamTls
    ready: bool
    def counted(self) -> dict[int, int]: ...

class SessionStore:
    def __init__(self, most: int) -> None: ...

def server_context(model: DownstreamTls, secrets: dict[str, object], tickets: TicketKeys) -> TlsContext: ...
def client_context(model: UpstreamTls, secrets: dict[str, object]) -> TlsContext: ...
