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
from meshproxy.model import Address, Cluster, PipeAddress, SocketAddress
from meshproxy.model.xds import GrpcService

CONNECT_AT_MOST_S = 10.0
"""For one address, whatever the cluster allows: another may answer."""
# A control plane whose machine is gone is noticed within a minute, though nothing is said for hours on a quiet stream.
KEEP_ALIVE = ((constants.TCP_KEEPIDLE, 30), (constants.TCP_KEEPINTVL, 10), (constants.TCP_KEEPCNT, 3))
_PLAIN = Cluster(name="")


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

    def reach(self, service: GrpcService) -> Any:
        """A connection for HTTP/2 to a service. Raises DialError."""
        if service.cluster:
            return self.connect(service.cluster, "h2")
        try:
            with gevent.Timeout(CONNECT_AT_MOST_S, TimeoutError(f"no connection within {CONNECT_AT_MOST_S:g} s")):
                return self._plain(service.target_uri)
        except (OSError, ValueError) as error:
            raise DialError(f"{service.target_uri}: {error or type(error).__name__}") from error

    def _plain(self, uri: str) -> Any:
        if uri.startswith("unix:"):
            return self._open(_PLAIN, PipeAddress(uri[5:].replace("///", "/", 1)), "", "")
        host, _, port = uri.removeprefix("dns:").rpartition("/")[2].rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("it is no address. Write host:port, dns:///host:port or unix:/path.")
        host = host.strip("[]")
        error = OSError("the name has no address")
        for each in [host] if dns.is_literal(host) else dns.resolve(self._lookup, host, "auto").addresses:
            try:
                return self._open(_PLAIN, SocketAddress(each, int(port)), "", "")
            except OSError as failure:
                error = failure
        raise error

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
        is_tcp = isinstance(address, SocketAddress)
        family = constants.AF_UNIX if not is_tcp else constants.AF_INET6 if ":" in address.host else constants.AF_INET
        opened = socket.socket(family, constants.SOCK_STREAM)
        try:
            self._connect(opened, address)
            if cluster.tls is None:
                return opened
            # Not at the top: most control planes are reached without it.
            from meshproxy.agent.secured import secured

            return secured(opened, cluster.tls, hostname, alpn, {each.name: each for each in self._view.secrets()})
        except BaseException:
            opened.close()
            raise

    def _connect(self, opened: Any, address: Address) -> None:
        if isinstance(address, SocketAddress):
            opened.connect((address.host, address.port))
            opened.setsockopt(constants.IPPROTO_TCP, constants.TCP_NODELAY, 1)
            opened.setsockopt(constants.SOL_SOCKET, constants.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE:
                opened.setsockopt(constants.IPPROTO_TCP, option, value)
        else:
            opened.connect("\0" + address.path[1:] if address.path.startswith("@") else address.path)


def authority_of(uri: str) -> str:
    """What gRPC calls a target of that name by itself."""
    return "localhost" if uri.startswith("unix:") else uri.rpartition("/")[2]
