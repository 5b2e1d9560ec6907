"""How sources are asked: by a gRPC stream, by polls, from a file. Each feeds an object of `discovery.xds` and sends what that says."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent

from meshproxy.agent.xds.call import Call, Ended, Target
from meshproxy.agent.xds.dial import DialError, Dialler, authority_of
from meshproxy.agent.xds.tunnel import Tunnel
from meshproxy.clock import monotonic_s, unix_s
from meshproxy.discovery.threads import in_thread
from meshproxy.discovery.xds.kinds import Kind, short
from meshproxy.discovery.xds.stream import XdsStream
from meshproxy.errors import ConfigError
from meshproxy.master.journal import Journal
from meshproxy.model import ConfigSource
from meshproxy.model.xds import config_source_name

BACKOFF_S = 0.5, 30.0
"""Envoy's: the first pause is at most the first, each further one twice as long at most."""
READY_S = 5.0
"""To have an HTTP/2 connection, where nothing says how long it may take."""
LOOK_S = 0.25
"""Between looks at a file, as with secrets'."""
MOST_BYTES = 64 << 20
"""Of a poll's answer."""
SHOWN = 200
"""Bytes of an error's text."""


class Pauses:
    """Between attempts: any time up to a limit that doubles, so that a fleet does not come back in step."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._limit_s = BACKOFF_S[0]

    def good(self) -> None:
        self._limit_s = BACKOFF_S[0]

    def next_s(self) -> float:
        limit_s = self._limit_s
        self._limit_s = min(limit_s * 2, BACKOFF_S[1])
        return limit_s * self._random()


class Spoken(NamedTuple):
    """The server speaks HTTP/2: requests may be sent."""


class Cut(NamedTuple):
    """The connection could not be made, or it is over."""

    error: str


class Context(NamedTuple):
    """What all links have. `post` hands an event of a thread to the hub; `moved` hears that times may have changed."""

    dialler: Dialler
    journal: Journal
    random: Callable[[], float]
    post: Callable[[Any, Any], None]
    moved: Callable[[], None]


class Link:
    """One source that is asked. `stream` is the protocol."""

    def __init__(self, context: Context, config: ConfigSource, stream: XdsStream) -> None:
        self.context = context
        self.config = config
        self.stream = stream
        self.connected = False
        self.since_s = 0.0
        """Of being connected or not, as UNIX time."""
        self.error = ""
        """Why it is not connected."""
        self.refused = ""
        """The last response that was refused: kind and why; "" = the last of that kind was not."""
        self.identifier = ""
        """What the control plane calls itself."""
        self.failures = 0
        self.starting: gevent.Greenlet | None = None

    @property
    def name(self) -> str:
        return config_source_name(self.config)

    def start(self) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Send what the protocol says."""
        raise NotImplementedError

    def close(self) -> None:
        if self.starting is not None:
            self.starting.kill(block=False)

    def took(self, request: Any) -> None:
        """A request is made: refusals are told."""
        if request.HasField("error_detail"):
            self.refused = f"{short(request.type_url)}: {request.error_detail.message}"
            self.context.journal.warning(
                "resources are refused", source=self.name, kind=short(request.type_url), error=request.error_detail.message.strip(),
                kept="what was before",
            )
        elif request.response_nonce and self.refused.startswith(short(request.type_url) + ":"):
            self.refused = ""

    def failed(self, error: str) -> None:
        """It cannot be asked, for now."""
        if error != self.error or self.connected:
            self.context.journal.warning("control plane cannot be asked", source=self.name, error=error, kept="what it said before")
        if self.connected or not self.error:
            self.since_s = unix_s()
        self.connected, self.error = False, error
        self.failures += 1
        self.stream.closed(error)

    def reached(self) -> None:
        """It can."""
        if not self.connected:
            self.since_s = unix_s()
            self.context.journal.info("control plane is connected", source=self.name)
        self.connected, self.error = True, ""


class GrpcLink(Link):
    """A stream; made anew whenever it ends."""

    def __init__(self, context: Context, config: ConfigSource, stream: XdsStream, method: str, parse: Callable[[bytes], Any]) -> None:
        super().__init__(context, config, stream)
        self._method = method
        self._parse = parse
        self._pauses = Pauses(context.random)
        self._turn = 0
        self._opened = False
        self._call: Call | None = None
        self._tunnel: Tunnel | None = None
        self._again: gevent.Greenlet | None = None
        self._limit: gevent.Greenlet | None = None

    def start(self) -> None:
        service = self.config.services[self._turn % len(self.config.services)]
        dialler, alive, limit_s = self.context.dialler, None, service.timeout_s
        if service.cluster:
            try:
                cluster = dialler.cluster(service.cluster)
            except DialError as error:
                self.context.post(self, (None, Cut(str(error))))
                return
            alive, limit_s = cluster.http2.keep_alive, limit_s or cluster.connect_timeout_s
        limit_s = limit_s or READY_S
        self._tunnel = Tunnel(lambda: dialler.reach(service), lambda: self._tell(call, Spoken()), lambda why: self._tell(call, Cut(why)))
        target = Target(
            self._tunnel.target, service.authority or service.cluster or authority_of(service.target_uri), self._method,
            service.initial_metadata, alive.interval_s if alive is not None else 0.0, alive.timeout_s if alive is not None else 0.0,
        )
        self._opened = False
        self._call = call = Call(target, self._parse, self._tell)
        self._limit = gevent.spawn_later(limit_s, self._tell, call, Cut(f"no HTTP/2 connection within {limit_s:g} s"))

    def _tell(self, call: Call, event: Any) -> None:
        self.context.post(self, (call, event))

    def happened(self, posted: tuple[Call | None, Any]) -> None:
        """An event of the connection, or of the call's threads."""
        call, event = posted
        if call is not self._call:
            return
        if isinstance(event, Spoken):
            if not self._opened:
                self._opened = True
                self.reached()
                self.stream.opened()
        elif isinstance(event, Cut):
            # When the stream is there already, the call tells how it ended.
            if not self._opened:
                self._lost(event.error)
        elif isinstance(event, Ended):
            self._lost(event.error)
        else:
            self._pauses.good()
            try:
                if event.HasField("control_plane"):
                    self.identifier = event.control_plane.identifier
                self.stream.received(event, monotonic_s(), unix_s())
            finally:
                call.handled()
        self.flush()

    def flush(self) -> None:
        for request in self.stream.take():
            self.took(request)
            if self._call is not None:
                self._call.send(request.SerializeToString())
        self.context.moved()

    def close(self) -> None:
        super().close()
        if self._again is not None:
            self._again.kill(block=False)
        self._hang_up()

    def _lost(self, error: str) -> None:
        self._hang_up()
        self._turn += 1
        self._again = gevent.spawn_later(self._pauses.next_s(), self.start)
        self.failed(error)
        self.context.moved()

    def _hang_up(self) -> None:
        if self._limit is not None:
            self._limit.kill(block=False)
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()


class Said(NamedTuple):
    """A response that came without a stream, in the protocol's words."""

    type_url: str
    version_info: str
    resources: list[Any]
    nonce: str = ""


class PolledLink(Link):
    """A source without a stream: `look` asks it once and gives a response, or None for "as before"; it raises ConfigError or DialError."""

    pause_s = LOOK_S

    def __init__(self, context: Context, config: ConfigSource, stream: XdsStream, kind: Kind) -> None:
        super().__init__(context, config, stream)
        self.kind = kind
        self._running: gevent.Greenlet | None = None

    def start(self) -> None:
        self._running = gevent.spawn(self._run)

    def close(self) -> None:
        super().close()
        if self._running is not None:
            self._running.kill(block=False)

    def flush(self) -> None:
        self.context.moved()

    def _run(self) -> None:
        while True:
            if not self.stream.is_idle:
                self._ask()
            gevent.sleep(self._pause_s())

    def _pause_s(self) -> float:
        return self.pause_s

    def _ask(self) -> None:
        self.stream.opened()
        requests = [request for request in self.stream.take() if request.type_url == self.kind.type_url]
        try:
            said = self.look(requests[0]) if requests else None
        except (DialError, ConfigError) as error:
            self.failed(str(error))
            self.context.moved()
            return
        self.reached()
        if said is not None:
            self.stream.received(said, monotonic_s(), unix_s())
            for request in self.stream.take():
                self.took(request)
        self.context.moved()

    def look(self, request: Any) -> Said | None:
        raise NotImplementedError

    def _parsed(self, parsed: Any) -> Said:
        return Said(parsed.type_url or self.kind.type_url, parsed.version, parsed.resources)


class RestLink(PolledLink):
    """Polls by HTTP/1.1: a DiscoveryRequest in JSON, answered by a DiscoveryResponse, or by 304 when nothing is new."""

    def __init__(self, context: Context, config: ConfigSource, stream: XdsStream, kind: Kind) -> None:
        super().__init__(context, config, stream, kind)
        self._link: http.client.HTTPConnection | None = None

    def _pause_s(self) -> float:
        # Spread, so that a fleet that was started at once does not ask in step.
        return max(self.config.refresh_s, 0.001) * (1.0 + self.context.random() / 10)

    def _run(self) -> None:
        try:
            super()._run()
        finally:
            self._hang_up()

    def look(self, request: Any) -> Said | None:
        from google.protobuf import json_format

        from meshproxy.config.envoy.dynamic import parse_response

        body = json.dumps(json_format.MessageToDict(request, preserving_proto_field_name=True)).encode()
        limit_s = self.config.request_timeout_s or READY_S
        cluster = self.config.clusters[0]
        try:
            with gevent.Timeout(limit_s, TimeoutError(f"no answer within {limit_s:g} s")):
                status, text = self._post(cluster, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._hang_up()
            raise DialError(f'cluster "{cluster}": {error or type(error).__name__}') from error
        except BaseException:
            self._hang_up()
            raise
        if status == 304 or (status == 200 and not text.strip()):
            return None
        if status != 200:
            raise DialError(f'cluster "{cluster}": {status} {text[:SHOWN].decode("utf-8", "replace").strip()}')
        return self._parsed(parse_response(f"the answer of {cluster}", text.decode("utf-8", "replace")))

    def _post(self, cluster: str, body: bytes) -> tuple[int, bytes]:
        fresh = self._link is None
        try:
            return self._exchange(cluster, body)
        except (ConnectionError, http.client.BadStatusLine):
            # A connection that was kept open may have been closed at the other end for no reason: then it is asked again, once.
            self._hang_up()
            if fresh:
                raise
            return self._exchange(cluster, body)

    def _exchange(self, cluster: str, body: bytes) -> tuple[int, bytes]:
        if self._link is None:
            self._link = http.client.HTTPConnection(cluster)
            self._link.auto_open = 0
            self._link.sock = self.context.dialler.connect(cluster, "http/1.1")
        headers = {"Host": cluster, "Content-Type": "application/json", "User-Agent": "meshproxy"}
        self._link.request("POST", self.kind.rest, body, headers)
        answer = self._link.getresponse()
        text = answer.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"the answer has more than {MOST_BYTES >> 20} MiB")
        if answer.will_close:
            self._hang_up()
        return answer.status, text

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


class FileLink(PolledLink):
    """A file, read again when it or the directory to be watched has changed. One that is bad at one look only is being written."""

    def __init__(self, context: Context, config: ConfigSource, stream: XdsStream, kind: Kind) -> None:
        super().__init__(context, config, stream, kind)
        self._stamp: tuple[int, ...] = ()
        self._doubtful: tuple[int, ...] = ()
        self._names: list[str] = []

    def look(self, request: Any) -> Said | None:
        from meshproxy.config.envoy.dynamic import read_response

        stamp, names = in_thread(stamp_of, self.config.watched_directory or self.config.path), list(request.resource_names)
        if stamp == self._stamp and names == self._names:
            return None
        try:
            said = self._parsed(read_response(self.config.path))
        except ConfigError:
            if self._doubtful == stamp:
                # Bad at two looks: told of once, and looked at again when something changes.
                self._stamp, self._names, self._doubtful = stamp, names, ()
                raise
            self._doubtful = stamp
            return None
        self._stamp, self._names, self._doubtful = stamp, names, ()
        return said


def stamp_of(path: str) -> tuple[int, ...]:
    """What a file or directory shows of being another, or changed; also of not being there."""
    try:
        seen = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
