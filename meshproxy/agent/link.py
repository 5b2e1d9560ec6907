"""The agent's line to the master: what the master says is passed on, orders go out and their answers come back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import gevent
import msgspec
from gevent import socket
from gevent.event import AsyncResult

from meshproxy.errors import FrameError
from meshproxy.ipc.channel import Channel
from meshproxy.ipc.frames import close_all
from meshproxy.ipc.messages import Answer, Message, Order, PutAnswer, PutResources
from meshproxy.master.journal import Journal

PUT_PATIENCE_S = 120.0
"""For resources to be in force: a reload that is under way comes first."""
ORDER_PATIENCE_S = 30.0
"""For what the admin API orders; all of it is quick or answered before it is done."""


class MasterLink:
    """Runs in one greenlet (`run`), which ends when the master is gone. `send` and `order` are for all others."""

    def __init__(self, channel: Channel, journal: Journal) -> None:
        self._channel = channel
        self._journal = journal
        self._ids = itertools.count(1)
        self._waiting: dict[int, AsyncResult] = {}
        self._put_ids = itertools.count(1 << 40)
        """Apart from those of who counts for himself."""
        self._putting: dict[int, AsyncResult] = {}
        self._writing: gevent.Greenlet | None = None
        self._reading: gevent.Greenlet | None = None

    def run(self, listeners: Mapping[type[Message], Callable[[Message], None]]) -> None:
        """Read until the end, each message to the one that listens for its type. Raises FrameError for what is no message."""
        self._reading = gevent.getcurrent()
        while not self._channel.closed:
            socket.wait_read(self._channel.fileno())
            for message, fds in self._channel.receive():
                close_all(fds)  # nothing that the agent is told has descriptors
                if isinstance(message, Answer):
                    self._answered(message)
                elif isinstance(message, PutAnswer) and message.id in self._putting:
                    self._putting[message.id].set(message)
                elif type(message) in listeners:
                    listeners[type(message)](message)
                else:
                    self._journal.error("unexpected message", type=type(message).__name__)
        self._give_up("the master is gone")

    def send(self, message: Message) -> None:
        """Send now, or as soon as the master reads."""
        self._channel.send(message)
        if self._channel.want_write and not self._writing:
            self._writing = gevent.spawn(self._write)

    def order(self, order: Order) -> Answer:
        """Have the master do it; waits for its answer. Never raises: no answer is an answer that is not ok."""
        number = next(self._ids)
        result = self._waiting[number] = AsyncResult()
        try:
            self.send(msgspec.structs.replace(order, id=number))
            return result.get(timeout=ORDER_PATIENCE_S)
        except gevent.Timeout:
            return Answer(id=number, ok=False, errors=[f"the master did not answer {order.verb} within {ORDER_PATIENCE_S:g} s"])
        except FrameError as error:
            return Answer(id=number, ok=False, errors=[str(error)])
        finally:
            self._waiting.pop(number, None)

    def put(self, put: PutResources) -> PutAnswer | None:
        """Have resources put into force; waits until they are. None = it is not known whether they are."""
        number = next(self._put_ids)
        result = self._putting[number] = AsyncResult()
        try:
            self.send(msgspec.structs.replace(put, id=number))
            return result.get(timeout=PUT_PATIENCE_S)
        except (gevent.Timeout, FrameError):
            return None
        finally:
            self._putting.pop(number, None)

    def close(self) -> None:
        """End the line; whoever waits for an answer is told. A greenlet must not wait on a descriptor that is closed, so they go first."""
        self._give_up("the agent ends")
        running = [each for each in (self._reading, self._writing) if each is not None and each is not gevent.getcurrent()]
        gevent.killall(running)
        self._channel.close()

    def _answered(self, answer: Answer) -> None:
        # One that came too late has nobody waiting for it any more.
        if answer.id in self._waiting:
            self._waiting[answer.id].set(answer)

    def _write(self) -> None:
        while self._channel.want_write:
            socket.wait_write(self._channel.fileno())
            self._channel.flush()

    def _give_up(self, why: str) -> None:
        for number, result in list(self._waiting.items()):
            result.set(Answer(id=number, ok=False, errors=[why]))
        for result in list(self._putting.values()):
            result.set(None)
