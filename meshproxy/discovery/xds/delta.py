"""Delta: only what changes is said, in both directions. Each response is answered by its nonce; names are subscribed and unsubscribed.

On a new stream all names are subscribed again, and the server is told which versions are known, so that it sends only what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshproxy.discovery.xds.sotw import INTERNAL
from meshproxy.discovery.xds.stream import Subscribed, XdsStream, detail
from meshproxy.discovery.xds.watch import Errors, Item, Update

EVERYTHING = "*"


class _Subscribed(Subscribed):
    def __init__(self, type_url: str) -> None:
        super().__init__(type_url)
        self.told: set[str] = set()
        """Names that the server has from us on this stream; `*` among them."""
        self.is_first = True
        """Nothing was said yet on this stream."""
        self.answers: list[tuple[str, str]] = []
        """(nonce, error) of responses to be answered."""
        self.versions: dict[str, str] = {}
        """Of the resources that were accepted."""

    def know(self, versions: Mapping[str, str]) -> None:
        if self.is_first:
            self.versions.update(versions)

    @property
    def wanted(self) -> set[str]:
        return {*self.by_name, EVERYTHING} if self.wild else set(self.by_name)


class DeltaStream(XdsStream):
    """One stream."""

    make_kind = _Subscribed

    def _interest_changed(self, kind: _Subscribed, is_new: bool) -> None:
        wanted = kind.wanted
        if wanted != kind.told or (kind.is_first and wanted):
            self._want(kind)

    def _restart(self, kind: _Subscribed) -> None:
        kind.told, kind.is_first, kind.pending = set(), True, False
        kind.answers.clear()
        if kind.watches:
            self._want(kind)

    def _handle(self, kind: _Subscribed, response: Any, now_s: float, unix_s: float) -> None:
        self._want(kind)
        for watch in kind.watches:
            watch.on_heard()
        try:
            items = checked(response, kind.versions)
        except ValueError as error:
            kind.answers.append((response.nonce, str(error)))
            for watch in list(kind.watches):
                watch.refuse(str(error))
            return
        errors = self._told(kind, items, list(response.removed_resources), response.system_version_info, unix_s)
        kind.answers.append((response.nonce, detail(kind.type_url, errors) if errors else ""))
        for resource in response.resources:
            if resource.HasField("ttl"):
                kind.lives_until_s[resource.name] = now_s + resource.ttl.ToNanoseconds() / 1e9
            else:
                kind.lives_until_s.pop(resource.name, None)
        for name in response.removed_resources:
            kind.lives_until_s.pop(name, None)
        if not errors:
            for item in items:
                if kind.wild or item.name in kind.by_name:
                    kind.versions[item.name] = item.version
                if item.name in kind.by_name:
                    kind.last[item.name] = item
            for name in response.removed_resources:
                kind.versions.pop(name, None)
                kind.last.pop(name, None)

    def _told(self, kind: _Subscribed, items: list[Item], removed: list[str], version: str, unix_s: float) -> Errors:
        errors: Errors = {}
        for watch in list(kind.wild):
            errors |= watch.tell(Update(items, removed, False, version), unix_s)
        named = [*(item.name for item in items), *removed]
        for watch in dict.fromkeys(watch for name in named for watch in kind.by_name.get(name, ())):
            if watch in kind.watches:
                wanted: set[str] = watch.names  # type: ignore[assignment]
                mine = [item for item in items if item.name in wanted]
                errors |= watch.tell(Update(mine, [name for name in removed if name in wanted], False, version), unix_s)
        return errors

    def _expire(self, kind: _Subscribed, names: list[str], unix_s: float) -> None:
        for name in names:
            del kind.lives_until_s[name]
            kind.versions.pop(name, None)
            kind.last.pop(name, None)
        self._told(kind, [], names, "", unix_s)

    def _requests(self, kind: _Subscribed) -> list[Any]:
        made = []
        answers, kind.answers = kind.answers, []
        for nonce, error in answers:
            request = DeltaDiscoveryRequest(type_url=kind.type_url, response_nonce=nonce)
            if error:
                request.error_detail.code = INTERNAL
                request.error_detail.message = error
            made.append(request)
        wanted = kind.wanted
        if (kind.is_first and wanted) or wanted != kind.told:
            # The first answer carries what else there is to say, as with Envoy.
            if not made:
                made.append(DeltaDiscoveryRequest(type_url=kind.type_url))
            self._say_interest(kind, wanted, made[0])
        return made

    def _say_interest(self, kind: _Subscribed, wanted: set[str], request: Any) -> None:
        added = wanted - kind.told
        if kind.is_first and wanted == {EVERYTHING}:
            added = set()  # nothing subscribed in the first request of a stream is everything
        request.resource_names_subscribe.extend(sorted(added))
        request.resource_names_unsubscribe.extend(sorted(kind.told - wanted))
        if not kind.wild:
            kind.versions = {name: version for name, version in kind.versions.items() if name in wanted}
        if kind.is_first:
            for name, version in kind.versions.items():
                request.initial_resource_versions[name] = version
        kind.told, kind.is_first = wanted, False


def checked(response: Any, versions: dict[str, str]) -> list[Item]:
    """The resources of a response without those that only live on. Raises ValueError with what is wrong with one of them."""
    items: list[Item] = []
    seen: set[str] = set()
    for resource in response.resources:
        if resource.name in seen:
            raise ValueError(f"duplicate name {resource.name} found among added/updated resources")
        seen.add(resource.name)
        if not resource.HasField("resource") and resource.HasField("ttl") and versions.get(resource.name) == resource.version:
            continue
        if resource.resource.type_url != response.type_url:
            raise ValueError(
                f"type URL {resource.resource.type_url} embedded in an individual Any does not match the message-wide type URL "
                f"{response.type_url} in DeltaDiscoveryResponse"
            )
        items.append(Item(resource.name, resource.resource, resource.version))
    for name in response.removed_resources:
        if name in seen:
            raise ValueError(f"duplicate name {name} found in the union of added+removed resources")
        seen.add(name)
    return items
