"""One Consul for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError


@pytest.fixture(scope="session")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    try:
        server = Consul(tmp_path_factory.mktemp("consul"))
    except PeerMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server
