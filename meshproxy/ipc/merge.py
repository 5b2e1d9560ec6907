"""Two Configure messages in a row as one: the latest of each name. Pure."""

from __future__ import annotations

from meshproxy.ipc.messages import Configure, ListenerSocket
from meshproxy.model import Resource, ResourceKind


def merge(old: Configure, old_fds: list[int], new: Configure, new_fds: list[int]) -> tuple[Configure, list[int], list[int]]:
    """What has the effect of `old` and then `new`, its descriptors, and the descriptors that nobody needs any more."""
    upserts: dict[tuple[ResourceKind, str], Resource] = {(each.kind, each.name): each for each in old.upserts}
    removes = dict.fromkeys(old.removes)
    for key in new.removes:
        upserts.pop(key, None)
        removes[key] = None
    for resource in new.upserts:
        removes.pop((resource.kind, resource.name), None)
        upserts[resource.kind, resource.name] = resource
    sockets, fds, dropped = _merge_sockets(old, old_fds, new, new_fds)
    rows, gone = _merge_directory(old, new)
    merged = Configure(
        version=new.version,
        upserts=sorted(upserts.values(), key=lambda resource: resource.kind),
        removes=list(removes),
        sockets=sockets,
        settings=new.settings or old.settings,
        process=new.process or old.process,
        directory_rows=rows,
        directory_removed=gone,
    )
    return merged, fds, dropped


def _merge_sockets(
    old: Configure, old_fds: list[int], new: Configure, new_fds: list[int]
) -> tuple[list[ListenerSocket], list[int], list[int]]:
    """New sockets of a listener take the place of all its old ones; a listener that is removed keeps none."""
    replaced = {each.listener for each in new.sockets} | {name for kind, name in new.removes if kind is ResourceKind.LISTENER}
    kept = [(socket, fd) for socket, fd in zip(old.sockets, old_fds, strict=True) if socket.listener not in replaced]
    dropped = [fd for socket, fd in zip(old.sockets, old_fds, strict=True) if socket.listener in replaced]
    kept += zip(new.sockets, new_fds, strict=True)
    return [socket for socket, _ in kept], [fd for _, fd in kept], dropped


def _merge_directory(old: Configure, new: Configure) -> tuple[list[tuple[str, str, int]], list[tuple[str, str]]]:
    rows = {(kind, name): cell for kind, name, cell in old.directory_rows}
    gone = dict.fromkeys(old.directory_removed)
    for key in new.directory_removed:
        rows.pop(key, None)
        gone[key] = None
    for kind, name, cell in new.directory_rows:
        gone.pop((kind, name), None)
        rows[kind, name] = cell
    return [(kind, name, cell) for (kind, name), cell in rows.items()], list(gone)
