"""Which user the node runs as, and which capabilities it keeps (capabilities(7), prctl(2)). Through libc: no package is needed for it.

The master drops to `user` and `group` after it has bound everything. Of root's powers it keeps `CAP_NET_BIND_SERVICE` when a listener below
1024 may have to be bound again, `CAP_NET_RAW` when a transparent one may, and `CAP_DAC_READ_SEARCH` only when the user cannot read the code
or the configuration: without it every heir would die in its imports. Workers and the agent drop them, after their imports.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meshproxy.errors import MeshproxyError

CAP_DAC_READ_SEARCH = 2
CAP_NET_BIND_SERVICE = 10
CAP_NET_RAW = 13
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Identity:
    """Who to become. `uid` -1 = stay who we are."""

    uid: int = -1
    gid: int = -1
    name: str = ""


def identity(user: str, group: str) -> Identity:
    """Looks the names up. Raises MeshproxyError that says what is missing."""
    if not user and not group:
        return Identity()
    try:
        account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise MeshproxyError(f'process.user "{user}": no such user. Create it (`useradd --system {user}`) or name another.') from None
    try:
        gid = grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError:
        raise MeshproxyError(f'process.group "{group}": no such group. Create it (`groupadd --system {group}`) or name another.') from None
    if (account.pw_uid, gid) == (os.geteuid(), os.getegid()):
        return Identity()
    if os.geteuid() != 0:
        raise MeshproxyError(
            f'process.user "{user}", process.group "{group}": only root can become another user, and this is user {os.geteuid()}. '
            "Start as root, or leave both out."
        )
    return Identity(account.pw_uid, gid, account.pw_name)


def drop(who: Identity, keep: Iterable[int], must_read: Sequence[str]) -> list[str]:
    """Becomes `who` for good, with the capabilities `keep`. Gives the files of `must_read` that only a kept capability makes readable."""
    if who.uid < 0:
        return []
    kept = set(keep)
    candidates = kept | {CAP_DAC_READ_SEARCH}
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups(os.getgrouplist(who.name, who.gid))
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    # The change of user has emptied the effective set, so what can be read now is what the user can read.
    unreadable = [path for path in must_read if not os.access(path, os.R_OK, effective_ids=True)]
    kept = candidates if unreadable else kept
    _set_capabilities(effective=kept, permitted=kept, inheritable=kept)
    for capability in sorted(kept):
        # Ambient, so that a new master keeps them over its exec.
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)
    return unreadable


def drop_all() -> None:
    """In a worker and the agent: no capability, and none to be had by an exec. A root that was not told to drop stays root."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() != 0:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _set_capabilities((), (), ())


def give(fd: int, who: Identity) -> None:
    """A listening socket to the user that we become: the kernel lets only sockets of one user share a port (socket(7), SO_REUSEPORT)."""
    if who.uid >= 0:
        os.fchown(fd, who.uid, who.gid)


def _set_capabilities(effective: Iterable[int], permitted: Iterable[int], inheritable: Iterable[int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    masks = [sum(1 << each for each in chosen) for chosen in (effective, permitted, inheritable)]
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("6I", *(mask & 0xFFFFFFFF for mask in masks), *(mask >> 32 for mask in masks))
    if libc.capset(header, data) != 0:
        raise MeshproxyError(f"capabilities cannot be set: {os.strerror(ctypes.get_errno())}")


def _prctl(option: int, first: int = 0, second: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise MeshproxyError(f"prctl({option}, {first}, {second}): {os.strerror(ctypes.get_errno())}")
