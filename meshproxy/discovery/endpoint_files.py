"""Lists of endpoints in files: looked at a few times a second, read when one is another than before.

All files of a source count together: while one of them cannot be read, what was found before stays. A file that is bad at one look only is
being written, and is not told of.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable

from meshproxy.discovery.source import Clock, Sink, SourceError, Teller, in_order
from meshproxy.discovery.threads import in_thread
from meshproxy.errors import ConfigError
from meshproxy.model import Endpoint, EndpointFiles

LOOK_S = 0.25
"""Between looks, as with the files of secrets."""
MOST_FILES = 10_000
MOST_BYTES = 16 << 20
"""Of one file: some 200,000 endpoints."""

Stamp = tuple[tuple[str, tuple[int, ...]], ...]
Parse = Callable[[str, str], tuple[Endpoint, ...]]
"""(file, text) -> its endpoints; raises ConfigError."""


class FileSource:
    """Watches the files of some patterns."""

    def __init__(self, wanted: EndpointFiles) -> None:
        self._wanted = wanted

    def watch(self, sink: Sink, clock: Clock) -> None:
        # Not at the top: a node without such files does without YAML.
        from meshproxy.config.native.endpoint_list import parse

        teller, stamp, doubtful = Teller(sink), None, None
        good: tuple[Endpoint, ...] | None = None
        while True:
            now = in_thread(stamp_of, self._wanted.globs)
            try:
                if now != stamp:
                    endpoints = in_thread(read, [file for file, _ in now], parse)
                    stamp, doubtful, good = now, None, endpoints
                    teller.answered(good)
                elif good is not None:
                    teller.answered(good)
            except SourceError as error:
                if doubtful == now:
                    # Bad at two looks: told of once, and looked at again when something changes.
                    stamp, doubtful, good = now, None, None
                    teller.failed(str(error))
                else:
                    doubtful = now
            clock.sleep(LOOK_S)


def stamp_of(patterns: Iterable[str]) -> Stamp:
    """What the files show of being other ones, or changed, by name."""
    made: dict[str, tuple[int, ...]] = {}
    for pattern in patterns:
        for file in glob.iglob(pattern, recursive=True):
            try:
                seen = os.stat(file)
            except OSError:
                continue  # gone since
            if not os.path.isdir(file):
                made[file] = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return tuple(sorted(made.items()))


def read(files: Iterable[str], parse: Parse) -> tuple[Endpoint, ...]:
    """The endpoints of all files; an address that comes twice is taken as it is first. Raises SourceError."""
    found: dict[str, Endpoint] = {}
    listed = list(files)
    if len(listed) > MOST_FILES:
        raise SourceError(f"{len(listed)} files are more than {MOST_FILES}: use a narrower pattern")
    for file in listed:
        try:
            with open(file, "rb") as opened:
                raw = opened.read(MOST_BYTES + 1)
            text = raw.decode()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{file}: {error}") from error
        if len(raw) > MOST_BYTES:
            raise SourceError(f"{file}: it has more than {MOST_BYTES >> 20} MiB")
        try:
            listed_here = parse(file, text)
        except ConfigError as error:
            raise SourceError(str(error.problems[0])) from error
        for endpoint in listed_here:
            found.setdefault(str(endpoint.address), endpoint)
    return in_order(found)
