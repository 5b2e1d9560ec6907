"""Who wants resources of one kind, and what is told to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Errors = dict[str, str]
"""What is wrong, by the resource's name."""


class Item(NamedTuple):
    """A resource that came. `resource` is a google.protobuf.Any; `version` its own, or that of the response."""

    name: str
    resource: Any
    version: str


class Update(NamedTuple):
    """What a response says to one watch. `full`: `added` is all there is, and `removed` are those that there were."""

    added: list[Item]
    removed: list[str]
    full: bool
    version: str


class Counts:
    """Of one watch, counted as Envoy counts: each outcome is an attempt, and so is asking for the first time."""

    def __init__(self) -> None:
        self.attempts = 1
        self.successes = 0
        self.failures = 0
        """Streams that broke or could not be made."""
        self.rejections = 0
        self.fetch_timeouts = 0
        self.version = ""
        """The last that was accepted."""
        self.updated_s = 0.0
        """When, as UNIX time; 0 = never."""
        self.error = ""
        """Why the last response was refused; "" = it was not."""

    def accepted(self, version: str, at_s: float) -> None:
        self.attempts += 1
        self.successes += 1
        self.version, self.updated_s, self.error = version, at_s, ""

    def rejected(self, error: str) -> None:
        self.attempts += 1
        self.rejections += 1
        self.error = error

    def failed(self) -> None:
        self.attempts += 1
        self.failures += 1

    def timed_out(self) -> None:
        self.attempts += 1
        self.fetch_timeouts += 1


class Watch:
    """One interest in one kind: in names, or (`names` None) in all that there is.

    `handler` gets each update and gives what is wrong with it. `on_missing` hears of a name ("" = of everything) that did not come within
    `fetch_timeout_s` seconds (0 = it is waited for without end), that is refused at its first coming, or that the control plane says it
    does not have: whoever waits, goes on without. `on_failed` hears why the control plane cannot be asked, `on_heard` that it says something again.
    """

    def __init__(self, names: Iterable[str] | None, handler: Callable[[Update], Errors], fetch_timeout_s: float = 0.0) -> None:
        self.names: set[str] | None = set(names) if names is not None else None
        self.handler = handler
        self.on_missing: Callable[[str], None] = lambda name: None
        self.on_failed: Callable[[str], None] = lambda error: None
        self.on_heard: Callable[[], None] = lambda: None
        self.fetch_timeout_s = fetch_timeout_s
        self.counts = Counts()
        self.waiting: dict[str, float] = {}
        """What was never answered, and until when it is waited for."""

    def expect(self, names: Iterable[str], now_s: float) -> None:
        """These are asked for from now on."""
        until_s = now_s + self.fetch_timeout_s if self.fetch_timeout_s else float("inf")
        for name in names:
            self.waiting[name] = until_s

    def tell(self, update: Update, at_s: float) -> Errors:
        """Hand it over; gives what is wrong. `at_s` is UNIX time."""
        answered = [""] if self.names is None else [*(item.name for item in update.added), *update.removed]
        first = [name for name in answered if self.waiting.pop(name, None) is not None]
        try:
            errors = self.handler(update)
        except Exception as error:
            # A mistake of ours in one resource must not end the agent, which all others need.
            errors = {update.added[0].name if update.added else "": f"{type(error).__name__}: {error}"}
        if errors:
            self.counts.rejected("; ".join(f"{name}: {text}" if name else text for name, text in errors.items()))
        else:
            self.counts.accepted(update.version, at_s)
        for name in first:
            if name in errors or name in update.removed:
                # Who waits has its answer, though not the one it hoped for.
                self.on_missing(name)
        return errors

    def refuse(self, error: str) -> None:
        """A response was refused before anybody looked at its resources."""
        self.counts.rejected(error)
        self._give_up(list(self.waiting))

    def tick(self, now_s: float) -> None:
        """Tell of what did not come in time."""
        late = [name for name, until_s in self.waiting.items() if until_s <= now_s]
        if late:
            self.counts.timed_out()
            self._give_up(late)

    def due_s(self) -> float:
        """When `tick` has something to do; infinity = never."""
        return min(self.waiting.values(), default=float("inf"))

    def _give_up(self, names: list[str]) -> None:
        for name in names:
            self.waiting.pop(name, None)
            self.on_missing(name)
