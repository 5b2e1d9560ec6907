"""One gRPC stream, from its start to its end, in threads of its own: grpcio's threads and the hub meet here and nowhere else.

The hub calls `send` and `cancel`. What happens is told by `post`, from a thread: messages, and at last `Ended`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

UNHANDLED = 16
"""Messages that may wait for the hub; then the server has to, by HTTP/2's windows."""
MOST_BYTES = 256 << 20
"""Of one message: some two million endpoints."""


class Ended(NamedTuple):
    """Nothing comes after it. `error`: for operators."""

    error: str


class Target(NamedTuple):
    """`keep_alive_s` 0 = no PING frames."""

    target: str
    authority: str
    method: str
    metadata: Sequence[tuple[str, str]]
    keep_alive_s: float = 0.0
    keep_alive_timeout_s: float = 20.0


class Call:
    """Started when it is made. `parse` makes a message of bytes; it raises for those that are none, which ends the stream."""

    def __init__(self, target: Target, parse: Callable[[bytes], Any], post: Callable[[Call, Any], None]) -> None:
        self._target = target
        self._parse = parse
        self._post = post
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(UNHANDLED)
        self._over = threading.Event()
        self._call: Any = None
        threading.Thread(target=self._run, name="xds", daemon=True).start()

    def send(self, request: bytes) -> None:
        self._requests.put(request)

    def handled(self) -> None:
        """A message that was posted is dealt with."""
        self._room.release()

    def cancel(self) -> None:
        """End it from here. Nothing is posted any more that counts."""
        self._over.set()
        self._requests.put(None)
        self._room.release()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> None:
        error = "it ended"
        try:
            error = self._stream()
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        finally:
            self._requests.put(None)
            self._post(self, Ended(error))

    def _stream(self) -> str:
        """Runs the stream; gives why it ended."""
        # There is no fork in an agent, and what gRPC logs is told by the agent itself.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import grpc

        with grpc.insecure_channel(self._target.target, self._options()) as channel:
            start = channel.stream_stream(self._target.method, None, None)
            if self._over.is_set():
                return "it was cancelled"
            self._call = call = start(iter(self._requests.get, None), metadata=tuple(self._target.metadata))
            try:
                for raw in call:
                    self._room.acquire()
                    if self._over.is_set():
                        break
                    try:
                        message = self._parse(raw)
                    except Exception as error:
                        return f"a message that is none came: {error}"
                    self._post(self, message)
            except grpc.RpcError as error:
                return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
            finally:
                call.cancel()
        return "the server ended the stream"

    def _options(self) -> list[tuple[str, Any]]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MOST_BYTES),
            # Pauses between attempts are ours, so nothing may be remembered of the attempts before.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.default_authority", self._target.authority),
            ("grpc.primary_user_agent", "meshproxy"),
        ]
        if self._target.keep_alive_s:
            options += [
                ("grpc.keepalive_time_ms", int(self._target.keep_alive_s * 1000)),
                ("grpc.keepalive_timeout_ms", int(self._target.keep_alive_timeout_s * 1000)),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        return options
