"""Where to listen and where to connect."""

from __future__ import annotations

import msgspec


class SocketAddress(msgspec.Struct, frozen=True, tag="tcp"):
    """A TCP address. `host` is an IPv4 or IPv6 literal without brackets, or, for upstreams of DNS clusters, a name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PipeAddress(msgspec.Struct, frozen=True, tag="unix"):
    """A UNIX stream socket. `mode` are the file's permission bits for a listener, 0 = leave to the umask."""

    path: str
    mode: int = 0

    def __str__(self) -> str:
        return self.path


Address = SocketAddress | PipeAddress
