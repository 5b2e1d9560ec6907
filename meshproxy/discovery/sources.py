"""Which class watches which kind of source."""

from __future__ import annotations

from typing import Any

from meshproxy.discovery.consul import ConsulSource
from meshproxy.discovery.endpoint_files import FileSource
from meshproxy.discovery.source import Source
from meshproxy.discovery.srv import SrvSource
from meshproxy.model import ConsulService, DnsSrv, EndpointFiles
from meshproxy.model import Source as Wanted

SOURCES: dict[type, Any] = {
    ConsulService: ConsulSource,
    DnsSrv: SrvSource,
    EndpointFiles: FileSource,
}


def source_of(wanted: Wanted) -> Source:
    """A source that nobody watches yet."""
    made: Source = SOURCES[type(wanted)](wanted)
    return made
