"""The shape of a corpus entry."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """Bytes from a peer, and what has to become of them.

    `status` is the answer when they are refused, and 0 when they are read; then `says` is what the head must say at least, `gone` the
    names (lower case) that must not go on besides those that never do, and `body` the decoded content, if it is looked at.
    """

    name: str
    data: bytes
    source: str
    status: int = 0
    says: dict[str, Any] = {}
    gone: tuple[bytes, ...] = ()
    body: bytes | None = None
    method: bytes = b"GET"
    """Of the request, when `data` is a response."""
