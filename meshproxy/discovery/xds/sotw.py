"""State of the world: each request says all the names and the version that is in force, each response is all there is, or some of it.

Of clusters and listeners a response is the whole (what it lacks is gone); of the other kinds it may be a part. A response is accepted by a
request with its version and nonce, refused by one with its nonce, the version before and an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, Resource
from google.protobuf.message import DecodeError

from meshproxy.discovery.xds.kinds import WRAPPER, name_in
from meshproxy.discovery.xds.stream import Subscribed, XdsStream, detail, duplicate
from meshproxy.discovery.xds.watch import Errors, Item, Update

INTERNAL = 13
"""google.rpc.Code of a refusal, as Envoy has it."""


class _Subscribed(Subscribed):
    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self.version = ""
        self.nonce = ""
        self.error = ""
        """To be told with the next request; "" = none."""
        self.was_named = False
        """Names were said on this stream, so "everything" must be said as `*`."""
        self.known: set[str] = set()
        """What a watch of everything was told of last."""


class _Came(NamedTuple):
    """What is in a response, unwrapped. `alive` are those that only live on."""

    items: list[Item]
    lives_s: dict[str, float]
    alive: set[str]


class SotwStream(XdsStream):
    """One stream."""

    make_kind = _Subscribed

    def _interest_changed(self, kind: _Subscribed, is_new: bool) -> None:
        self._want(kind)

    def _restart(self, kind: _Subscribed) -> None:
        kind.nonce = kind.error = ""
        kind.was_named = kind.pending = False
        if kind.watches:
            self._want(kind)

    def _handle(self, kind: _Subscribed, response: Any, now_s: float, unix_s: float) -> None:
        kind.nonce = response.nonce
        if not kind.watches:
            # The last watch went while this was on its way. That there is nothing any more is no news either.
            if response.resources:
                self._unasked_for(response.type_url)
                self._want(kind)
            else:
                kind.version = response.version_info
            return
        self._want(kind)
        for watch in kind.watches:
            watch.on_heard()
        try:
            came = unwrapped(response, kind.version)
        except ValueError as error:
            kind.error = str(error)
            for watch in list(kind.watches):
                watch.refuse(kind.error)
            return
        for name in kind.lives_until_s.keys() & ({item.name for item in came.items} | came.alive):
            del kind.lives_until_s[name]
        for name, seconds in came.lives_s.items():
            kind.lives_until_s[name] = now_s + seconds
        errors = self._told(kind, came, response.version_info, unix_s)
        if errors:
            kind.error = detail(kind.type_url, errors)
        else:
            kind.error, kind.version = "", response.version_info

    def _told(self, kind: _Subscribed, came: _Came, version: str, unix_s: float) -> Errors:
        errors: Errors = {}
        only_alive = bool(came.alive) and not came.items
        if kind.wild and not only_alive:
            first: dict[str, Item] = {}
            for item in came.items:
                if item.name in first:
                    errors[item.name] = duplicate(kind.type_url, item.name)
                first.setdefault(item.name, item)
            removed = sorted(kind.known - first.keys() - came.alive)
            kind.known = first.keys() | came.alive
            full = not came.alive
            for watch in list(kind.wild):
                errors |= watch.tell(Update(list(first.values()), removed, full, version), unix_s)
        items = {item.name: item for item in came.items}
        concerned = dict.fromkeys(watch for name in items for watch in kind.by_name.get(name, ()))
        for watch in concerned:
            if watch in kind.watches:
                added = [item for name, item in items.items() if name in watch.names]  # type: ignore[operator]
                errors |= watch.tell(Update(added, [], False, version), unix_s)
        kind.last.update((name, item) for name, item in items.items() if name in kind.by_name and name not in errors)
        return errors

    def _expire(self, kind: _Subscribed, names: list[str], unix_s: float) -> None:
        for name in names:
            del kind.lives_until_s[name]
            kind.last.pop(name, None)
        kind.known.difference_update(names)
        for watch in list(kind.watches):
            removed = [name for name in names if watch.names is None or name in watch.names]
            if removed:
                watch.tell(Update([], removed, False, kind.version), unix_s)

    def _requests(self, kind: _Subscribed) -> list[Any]:
        names = kind.names
        if kind.wild and (names or kind.was_named):
            names = ["*", *names]
        elif not (kind.wild or names or kind.was_named or kind.nonce):
            return []  # no names in the first request of a stream would be everything
        kind.was_named = kind.was_named or bool(names)
        request = DiscoveryRequest(
            type_url=kind.type_url, version_info=kind.version, response_nonce=kind.nonce, resource_names=names
        )
        if kind.error:
            request.error_detail.code = INTERNAL
            request.error_detail.message, kind.error = kind.error, ""
        return [request]


def unwrapped(response: Any, version: str) -> _Came:
    """The resources of a response; `version` is the one in force. Raises ValueError with what is wrong with one of them."""
    items: list[Item] = []
    lives_s: dict[str, float] = {}
    alive: set[str] = set()
    for packed in response.resources:
        name, own = "", response.version_info
        if packed.type_url == WRAPPER:
            try:
                wrapper = Resource.FromString(packed.value)
            except DecodeError as error:
                raise ValueError("a resource's wrapper cannot be decoded") from error
            name, own, packed = wrapper.name, wrapper.version or own, wrapper.resource
            if wrapper.HasField("ttl"):
                lives_s[name or _name(packed)] = wrapper.ttl.ToNanoseconds() / 1e9
            if not wrapper.HasField("resource") and wrapper.version in (version, response.version_info):
                alive.add(name)
                continue
        if packed.type_url != response.type_url:
            raise ValueError(
                f"{packed.type_url or 'a resource without a type'} does not match the message-wide type URL {response.type_url} "
                "in DiscoveryResponse"
            )
        items.append(Item(name or _name(packed), packed, own))
    return _Came(items, lives_s, alive)


def _name(packed: Any) -> str:
    try:
        return name_in(packed.value)
    except ValueError as error:
        raise ValueError(f"a resource of {packed.type_url} cannot be decoded: {error}") from error
