"""Configuration in Consul's key-value store: the keys below a prefix, asked for or watched, and the last good copy of them on disk."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from meshproxy.clock import unix_s
from meshproxy.discovery.consul_client import ConsulClient, RefusedError, Told
from meshproxy.discovery.source import SourceError
from meshproxy.model import ConsulServer


class Tree(NamedTuple):
    """What is below a prefix, in the order of the keys; folders and empty keys are left out."""

    texts: tuple[tuple[str, str], ...]
    index: str = ""
    """As Consul told it."""

    @property
    def digest(self) -> str:
        """Another for other texts; "" for none."""
        if not self.texts:
            return ""
        told = hashlib.sha256()
        for part in (part for pair in self.texts for part in pair):
            told.update(b"%d:" % len(part.encode()) + part.encode())
        return told.hexdigest()[:32]


def ask(client: ConsulClient, prefix: str, query: list[tuple[str, str]] | None = None, wait_s: float = 0.0) -> Tree:
    """What is below `prefix` now, or after a change when `query` has an index. Raises SourceError."""
    try:
        return tree_of(client.get(f"/v1/kv/{quote(prefix)}", [("recurse", ""), *(query or [])], wait_s), prefix)
    except RefusedError as error:
        if error.status != 404:
            raise
        return Tree((), error.index)


def tree_of(told: Told, prefix: str) -> Tree:
    """Raises SourceError for an answer of another shape and for what is no text, naming the key."""
    if not isinstance(told.body, list):
        raise SourceError("the answer is not a list of keys")
    texts = {}
    for row in told.body:
        if not isinstance(row, dict) or not isinstance(row.get("Key"), str):
            raise SourceError("a key has another shape than Consul's")
        key, value = row["Key"], row.get("Value")
        # Consul goes by the text alone: `mesh/edge` would be a prefix of `mesh/edge-2` too.
        if value and (key == prefix or key.startswith(f"{prefix.rstrip('/')}/")):
            texts[key] = _text(key, value)
    return Tree(tuple(sorted(texts.items())), told.headers.get("X-Consul-Index", ""))


def _text(key: str, value: Any) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (TypeError, binascii.Error):
        raise SourceError(f"key {key}: its value is no base64") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"key {key}: byte {error.start} is not UTF-8. Save it as UTF-8.") from None


def place(server: ConsulServer, key: str) -> str:
    """What a key or prefix is called in problems and pages."""
    return f"consul://{server.address}/{key}"


class _Copy(msgspec.Struct, frozen=True):
    """The file's content."""

    source: str
    saved_s: float
    texts: list[tuple[str, str]]


class Copies:
    """Last good copies in the node's state directory, one file a prefix; "" = there is no directory, and nothing is kept."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def path(self, server: ConsulServer, prefix: str) -> str:
        """Where one is, or would be."""
        name = hashlib.sha256(place(server, prefix).encode()).hexdigest()[:16]
        return os.path.join(self._directory, f"consul-{name}.json")

    def load(self, server: ConsulServer, prefix: str) -> tuple[Tree, float] | None:
        """The copy and when it was saved (unix time); None without one that can be read."""
        if not self._directory:
            return None
        try:
            with open(self.path(server, prefix), "rb") as file:
                copy = msgspec.json.decode(file.read(), type=_Copy)
        except (OSError, msgspec.MsgspecError):
            return None
        return (Tree(tuple(copy.texts)), copy.saved_s) if copy.source == place(server, prefix) and copy.texts else None

    def save(self, server: ConsulServer, prefix: str, tree: Tree) -> None:
        """In the place of a former one, in one step, readable by the owner alone. Raises OSError."""
        path = self.path(server, prefix)
        os.makedirs(self._directory, 0o700, exist_ok=True)
        copy = _Copy(place(server, prefix), unix_s(), list(tree.texts))
        fd, fresh = tempfile.mkstemp(prefix=".consul-", dir=self._directory)  # 0600
        try:
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(copy))
                file.flush()
                os.fsync(file.fileno())
            os.rename(fresh, path)
        except BaseException:
            os.unlink(fresh)
            raise
