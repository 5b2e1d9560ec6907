"""For tests: one end of a TLS connection, driven by hand."""

from typing import Any

from meshproxy.workers.loop import Loop
from meshproxy.workers.tls_context import SessionStore, TlsContext

class End:
    events: list[tuple[Any, ...]]
    greeting: bytes | None
    pauses: bool
    echoes: bool
    data: bytes
    alpn: bytes | None
    staple: bytes | None
    queued: int
    afterthoughts: int
    facts: dict[str, Any]
    def __init__(
        self, loop: Loop, fd: int, context: TlsContext, sni: bytes | None = None, sessions: SessionStore | None = None,
        server: bool = True, echoes: bool = False, wants_staple: bool = False,
    ) -> None: ...
    def write(self, *pieces: bytes) -> None: ...
    def close(self) -> None: ...
    def close_flushed(self) -> None: ...
    def half_close(self) -> None: ...
    def resume(self) -> None: ...
    def update_key(self) -> None: ...
    def renegotiate(self) -> None: ...
