"""A `Resolve` that asks the machine's name servers itself, because `getaddrinfo` tells no TTL. It waits: the agent calls it in threads.

What an administrator set up holds here too: /etc/hosts comes first, then the servers, search list and options of /etc/resolv.conf, by
the rules of resolv.conf(5). Both files are read again when they have changed. Other sources of nsswitch.conf (mDNS, NIS, systemd's
own names) are not asked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import dns.exception
import dns.name
import dns.resolver

from meshproxy.discovery.dns import V4, V6, Found
from meshproxy.discovery.srv import Target, Targets

T = TypeVar("T")
HOSTS, RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"
ATTEMPTS = 2
"""Rounds over all servers; resolv.conf(5)'s default."""
RECORD_TYPES = {V4: "A", V6: "AAAA"}


class NameServers:
    """Call it with a host name and AF_INET or AF_INET6. `port` is where the servers listen; resolv.conf cannot say it."""

    def __init__(self, resolv_conf: str = RESOLV_CONF, hosts: str = HOSTS, port: int = 53) -> None:
        self._hosts = Fresh(hosts, read_hosts)
        self._resolver = Fresh(resolv_conf, lambda path: read_resolv_conf(path, port))

    def __call__(self, host: str, family: int) -> Found:
        if listed := self._hosts.get().get((host.lower(), family)):
            return Found(listed)
        answer = self._ask(host, RECORD_TYPES[family])
        return Found([]) if answer is None else Found([record.address for record in answer], answer.chaining_result.minimum_ttl)

    def srv(self, name: str) -> Targets:
        """The SRV records of a name. Raises OSError for "could not find out"."""
        answer = self._ask(name, "SRV")
        if answer is None:
            return Targets([], 0)
        targets = [Target(each.priority, each.weight, each.port, each.target.to_text(omit_final_dot=True)) for each in answer]
        targets = [each._replace(host="") if each.host in (".", "@") else each for each in targets]
        return Targets(targets, answer.chaining_result.minimum_ttl)

    def _ask(self, host: str, record_type: str) -> dns.resolver.Answer | None:
        """None: there are no such records. Raises OSError."""
        resolver = self._resolver.get()
        suffixes = resolver.search or [resolver.domain]
        failure: OSError | None = None
        for name in candidates(host, [suffix.to_text() for suffix in suffixes], 1 if resolver.ndots is None else resolver.ndots):
            try:
                return resolver.resolve(name, record_type, search=False)
            except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
                continue
            except dns.resolver.NoNameservers as error:  # they answered, and failed: another name may do
                failure = OSError(str(error))
                continue
            except dns.exception.DNSException as error:
                raise OSError(str(error)) from error
        if failure is not None:
            raise failure
        return None


def candidates(host: str, suffixes: Sequence[str], ndots: int) -> list[str]:
    """The names to try in turn for a name as it is written, by `search` and `ndots` of resolv.conf(5). `suffixes` end with a dot."""
    if host.endswith("."):
        return [host]
    searched = [f"{host}.{suffix}" for suffix in suffixes if suffix != "."]
    return [f"{host}.", *searched] if host.count(".") >= ndots else [*searched, f"{host}."]


class Fresh(Generic[T]):
    """What a file says, read again when the file is another one or was written to. `read` also answers for a file that is not there."""

    def __init__(self, path: str, read: Callable[[str], T]) -> None:
        self._path = path
        self._read = read
        self._seen: tuple[tuple[int, ...], T] | None = None

    def get(self) -> T:
        stamp = self._stamp()
        if self._seen is None or self._seen[0] != stamp:
            self._seen = stamp, self._read(self._path)
        return self._seen[1]

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def read_resolv_conf(path: str, port: int) -> dns.resolver.Resolver:
    """A resolver as the file wants it; without a file, or servers in it, this machine is asked. Raises OSError for what cannot be read."""
    try:
        resolver = dns.resolver.Resolver(path)
    except dns.resolver.NoResolverConfiguration:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
    except (ValueError, dns.exception.DNSException) as error:
        raise OSError(f"{path}: {error}") from error
    resolver.port = port
    resolver.lifetime = ATTEMPTS * resolver.timeout * len(resolver.nameservers)
    return resolver


def read_hosts(path: str) -> dict[tuple[str, int], list[str]]:
    """hosts(5): addresses by name in lower case and family; none for a file that cannot be read."""
    listed: dict[tuple[str, int], list[str]] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        family = family_of(address)
        for name in names if family else ():
            listed.setdefault((name.lower(), family), []).append(address)
    return listed


def family_of(address: str) -> int:
    """AF_INET, AF_INET6, or 0 for what is no address."""
    for family in (V4, V6):
        try:
            socket.inet_pton(family, address)
        except OSError:
            continue
        return family
    return 0
