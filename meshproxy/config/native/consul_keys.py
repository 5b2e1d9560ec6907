"""Documents that are keys of Consul's."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from meshproxy.config import document as documents
from meshproxy.config.document import Document
from meshproxy.config.problems import Path, Problems
from meshproxy.discovery.consul_client import ConsulClient
from meshproxy.discovery.consul_config import Copies, Tree, ask, place
from meshproxy.discovery.source import SourceError
from meshproxy.model import ConsulConfig, ConsulServer

GRACE_S = 3.0
"""For an answer: a start, and whoever waits for a reload, can do without Consul when there is a copy."""


def keys_of(
    server: ConsulServer, config: ConsulConfig, state_directory: str, path: Path, problems: Problems
) -> tuple[ConsulConfig, list[Document]]:
    """What is in Consul, or in the last good copy of it, with a warning then. Raises ConfigError for a key that cannot be parsed."""
    error = ""
    try:
        tree = _ask(server, config.prefix)
        if not tree.texts:
            error = f'there is no key "{config.prefix}" and none below it. Write native YAML into one or several.'
    except SourceError as failure:
        tree, error = Tree(()), str(failure)
    saved_s = 0.0
    if error:
        copies = Copies(state_directory)
        copy = copies.load(server, config.prefix)
        if copy is None:
            problems.error(path, error + (f" There is no copy of it in {copies.path(server, config.prefix)}." if state_directory else ""))
            return config, []
        tree, saved_s = copy
        saved = datetime.fromtimestamp(saved_s, UTC).isoformat(timespec="seconds")
        problems.warning(path, f"{error} The last good copy, of {saved}, is in force.")
    found = [documents.parse(place(server, key), text) for key, text in tree.texts]
    return msgspec.structs.replace(config, digest=tree.digest, saved_s=saved_s), found


def _ask(server: ConsulServer, prefix: str) -> Tree:
    client = ConsulClient(server, GRACE_S)
    try:
        return ask(client, prefix)
    finally:
        client.close()
