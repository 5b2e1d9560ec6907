"""Connections to control planes: to the endpoints of a cluster of the file, as that cluster says (names, TLS, UNIX sockets).

Everything is looked up again for each connection, so certificates and addresses that changed meanwhile count.
"""

from __future__ import annotations

import itertools
import socket as constants
from collections.abc import Iterator
from typing import Any

import gevent
from gevent import socket

from meshproxy.agent.view import NodeView
from meshproxy.discovery import dns
from meshproxy.model import Address, Cluster, SocketAddress

CONNECT_AT_MOST_S = 10.0
"""For one address, whatever the cluster allows: another may answer."""
# A control plane whose machine is gone is noticed within a minute, though nothing is said for hours on a quiet stream.
KEEP_ALIVE = ((constants.TCP_KEEPIDLE, 30), (constants.TCP_KEEPINTVL, 10), (constants.TCP_KEEPCNT, 3))


class DialError(Exception):
    """No connection; the text is for operators."""


class Dialler:
    """`lookup` resolves names."""

    def __init__(self, view: NodeView, lookup: dns.Resolve) -> None:
        self._view = view
        self._lookup = lookup
        self._turns = itertools.count()

    def cluster(self, name: str) -> Cluster:
        """Raises DialError when the node has none of that name."""
        cluster = self._view.cluster(name)
        if cluster is None:
            raise DialError(f'there is no cluster "{name}"')
        return cluster

    def connect(self, name: str, alpn: str) -> Any:
        """A connected socket, in TLS if the cluster says so; `alpn` is offered then. Endpoints take turns. Raises DialError."""
        cluster = self.cluster(name)
        addresses = list(self._addresses(cluster))
        if not addresses:
            raise DialError(f'cluster "{name}" has no endpoints')
        first, error = next(self._turns) % len(addresses), ""
        for address, hostname in addresses[first:] + addresses[:first]:
            try:
                limit_s = min(cluster.connect_timeout_s or CONNECT_AT_MOST_S, CONNECT_AT_MOST_S)
                with gevent.Timeout(limit_s, TimeoutError(f"no connection within {limit_s:g} s")):
                    return self._open(cluster, address, hostname, alpn)
            except (OSError, ValueError) as failure:
                error = f"{address}: {failure or type(failure).__name__}"
        raise DialError(f'cluster "{name}": {error}')

    def _addresses(self, cluster: Cluster) -> Iterator[tuple[Address, str]]:
        """(address, the endpoint's host name)"""
        if cluster.discovery != "strict_dns":
            for endpoint in self._view.endpoints(cluster):
                yield endpoint.address, endpoint.hostname
            return
        for endpoint in cluster.endpoints:
            address = endpoint.address
            if not isinstance(address, SocketAddress) or dns.is_literal(address.host):
                yield address, endpoint.hostname
                continue
            try:
                found = dns.resolve(self._lookup, address.host, cluster.dns_lookup_family)
            except OSError as error:
                raise DialError(f'cluster "{cluster.name}": {address.host}: {error}') from error
            for each in found.addresses:
                yield SocketAddress(each, address.port), endpoint.hostname or address.host

    def _open(self, cluster: Cluster, address: Address, hostname: str, alpn: str) -> Any:
        if isinstance(address, SocketAddress):
            opened = socket.create_connection((address.host, address.port))
            opened.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
            opened.setsockopt(constants.SOL_SOCKET, constants.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE:
                opened.setsockopt(constants.IPPROTO_TCP, option, value)
        else:
            opened = socket.socket(constants.AF_UNIX, constants.SOCK_STREAM)
            try:
                opened.connect("\0" + address.path[1:] if address.path.startswith("@") else address.path)
            except BaseException:
                opened.close()
                raise
        if cluster.tls is None:
            return opened
        # Not at the top: most control planes are reached without it.
        from meshproxy.agent.xds.secured import secured

        try:
            return secured(opened, cluster.tls, hostname, alpn, {each.name: each for each in self._view.secrets()})
        except BaseException:
            opened.close()
            raise
