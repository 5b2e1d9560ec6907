"""A file of endpoints: a list as under `endpoints:` of a cluster, or a mapping with that list."""

from __future__ import annotations

from typing import Any

from meshproxy.config import document as documents
from meshproxy.config import rules
from meshproxy.config.native.cluster import ENDPOINT
from meshproxy.config.native.kinds import ListOf
from meshproxy.config.native.rows import WRONG
from meshproxy.config.problems import Problems
from meshproxy.errors import ConfigError, Problem
from meshproxy.model import Endpoint, SocketAddress

_LIST = ListOf(ENDPOINT, single=False)


def parse(file: str, text: str) -> tuple[Endpoint, ...]:
    """Raises ConfigError with file, line and remedy."""
    if not text.strip():
        raise ConfigError([Problem("the file is empty. Write [] for no endpoints.", file=file)])
    document = documents.parse(file, text)
    problems = Problems()
    listed: Any = document.data
    path: Any = document
    if isinstance(listed, dict) and listed.keys() == {"endpoints"}:
        listed, path = listed["endpoints"], (document, "endpoints")
    found = _LIST.read(listed, path, problems)
    for at, endpoint in enumerate(found or ()):
        if isinstance(endpoint.address, SocketAddress) and not rules.ip(endpoint.address.host):
            problems.error((path, at), f'"{endpoint.address}" is a name. Write IP addresses here, or use a DNS cluster.')
    if problems.refused or found is WRONG:
        raise ConfigError(problems.errors())
    return tuple(found)
