"""Follows the files of secrets: what changed is read, checked and sent to the master; what is bad is told, and what was before stays.

Files are looked at a few times a second instead of by inotify: it works on every file system, whichever way a file is replaced (written,
renamed, a symbolic link swapped), and a thousand certificates cost a hundredth of a core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import gevent

from meshproxy.clock import unix_s
from meshproxy.config.secrets import Unreadable, file_of, read_again
from meshproxy.master.journal import Journal
from meshproxy.model import Secret

LOOK_S = 0.25
"""Between looks: who renews a certificate expects it within a second."""

Stamp = tuple[tuple[int, ...], ...]
T = TypeVar("T")


class Found(NamedTuple):
    """A secret whose files are others than before. `error` "": `secret` is good; `warning`: and something will be wrong with it soon."""

    name: str
    stamp: Stamp
    secret: Secret | None
    error: str = ""
    warning: str = ""


class _Watched:
    """One secret: what the node has, and the files as they were when they were read last."""

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self.stamp: Stamp = ()
        self.doubtful: Stamp = ()
        """Of files that were bad at the last look. They may be half written, so they are told of at the next if they still are."""


class SecretFiles:
    """Keeps secrets as their files are. `publish` gets each that changed; `in_thread` runs a function where it may wait for a disk."""

    def __init__(
        self, publish: Callable[[Secret], None], journal: Journal, in_thread: Callable[[Callable[[], T]], T] | None = None
    ) -> None:
        self._publish = publish
        self._journal = journal
        self._in_thread = in_thread or _pooled
        self._watched: dict[str, _Watched] = {}
        self.updates = 0
        self.rejections = 0

    def watch(self, secrets: Iterable[Secret]) -> None:
        """The node has these now. They are read at the next look: a file may have changed since a configuration was loaded."""
        for secret in secrets:
            if any(_places(secret)):
                watched = self._watched.get(secret.name)
                if watched is None or watched.secret.files != secret.files:
                    self._watched[secret.name] = _Watched(secret)
                else:
                    watched.secret = secret
            else:
                self.forget([secret.name])

    def forget(self, names: Iterable[str]) -> None:
        """These are gone."""
        for name in names:
            self._watched.pop(name, None)

    def run(self) -> None:
        """For ever, in a greenlet of its own."""
        while True:
            gevent.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Once at all files; what changed is published or told."""
        if not self._watched:
            return
        asked = [(each.secret, each.stamp) for each in self._watched.values()]
        for found in self._in_thread(lambda: [each for secret, stamp in asked if (each := _look(secret, stamp)) is not None]):
            watched = self._watched.get(found.name)
            if watched is None:
                continue
            if found.error:
                self._bad(watched, found)
            else:
                self._good(watched, found)

    def _good(self, watched: _Watched, found: Found) -> None:
        watched.stamp, watched.doubtful = found.stamp, ()
        if found.secret is None or found.secret == watched.secret:
            return
        watched.secret = found.secret
        self.updates += 1
        self._journal.info("secret changed", name=found.name)
        if found.warning:
            self._journal.warning("secret is taken, with a doubt", name=found.name, doubt=found.warning)
        self._publish(found.secret)

    def _bad(self, watched: _Watched, found: Found) -> None:
        if watched.doubtful != found.stamp:
            watched.doubtful = found.stamp
            return
        watched.stamp, watched.doubtful = found.stamp, ()
        self.rejections += 1
        self._journal.error("secret is not taken", name=found.name, error=found.error, kept="the one before")

    def counters(self) -> dict[str, int]:
        """By metric name."""
        return {"server.secret_updates": self.updates, "server.secret_updates_rejected": self.rejections}


def _pooled(function: Callable[[], T]) -> T:
    """In gevent's threads: a file system that hangs holds up only this."""
    result: T = gevent.get_hub().threadpool.apply(function)
    return result


def _places(secret: Secret) -> list[str]:
    """What a change of makes the secret be read again."""
    files = secret.files
    return [files.watched_directory] if files.watched_directory and files.named else files.named


def _stamp(places: Iterable[str]) -> Stamp:
    """What a file shows of being another, or changed; also of not being there."""
    made = []
    for place in places:
        try:
            seen = os.stat(place)
            made.append((seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
        except OSError as error:
            made.append((error.errno or 0,))
    return tuple(made)


def _look(secret: Secret, stamp: Stamp) -> Found | None:
    """None: nothing changed. The stamp is taken before the files are read, so a change meanwhile is seen next time."""
    now = _stamp(_places(secret))
    if now == stamp:
        return None
    # Not at the top: a node without secrets does without the library.
    from meshproxy.config.certificates import findings

    try:
        if secret.files.sds:
            from meshproxy.config.envoy.secrets import read_again as read_sds

            read = read_sds(secret)
        else:
            read = read_again(secret)
    except Unreadable as error:
        return Found(secret.name, now, None, str(error))
    if read == secret or read.value is None:
        return Found(secret.name, now, None)
    told: dict[bool, list[str]] = {False: [], True: []}
    for found in findings(read.value, read.files, unix_s()):
        file = file_of(read.files, found.part)
        told[found.harmless].append(f'"{file}": {found.text}' if file else found.text)
    return Found(secret.name, now, read, "; ".join(told[False]), "; ".join(told[True]))
