"""Work that waits for a disk or the machine's resolver, in gevent's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent

from meshproxy.discovery.source import SourceError

T = TypeVar("T")
Failure = OSError | SourceError


def in_thread(call: Callable[..., T], *arguments: object) -> T:
    """What `call` returns or raises; others run meanwhile. An OSError or SourceError is no surprise: gevent must not print it."""

    def work() -> tuple[T | None, Failure | None]:
        try:
            return call(*arguments), None
        except (OSError, SourceError) as error:
            return None, error

    result, failure = gevent.get_hub().threadpool.apply(work)
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]
