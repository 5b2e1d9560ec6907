"""The TLS of this worker's filter chains and clusters, made from their models and the secrets, and made anew when a secret changes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

from meshproxy.errors import ConfigError, Problem
from meshproxy.model import DownstreamTls, Secret, UpstreamTls
from meshproxy.scoreboard.region import Region
from meshproxy.workers.tls_context import TlsContext, client_context, server_context
from meshproxy.workers.tls_downstream import DownstreamSecurity
from meshproxy.workers.tls_ticket_keys import TicketKeys
from meshproxy.workers.tls_upstream import UpstreamSecurity

Security = DownstreamSecurity | UpstreamSecurity


class Securities:
    """Secrets by name, and who uses them. A change is staged while it is compiled, and then taken or forgotten as a whole."""

    def __init__(self, region: Region, slot: int, ticket_root: bytes, log: logging.Logger) -> None:
        self.region = region
        self.slot = slot
        self.tickets = TicketKeys((), ticket_root)
        self.log = log
        self._values: dict[str, object] = {}
        self._staged: dict[str, object] = {}
        self._users: weakref.WeakKeyDictionary[Security, tuple[frozenset[str], Callable[[], TlsContext]]] = weakref.WeakKeyDictionary()
        self._made: weakref.WeakSet[Security] = weakref.WeakSet()
        """By the present change, so with its secrets."""

    def begin(self, secrets: list[Secret]) -> None:
        """What is compiled from now on sees these secrets."""
        self._staged = self._values | {secret.name: secret.value for secret in secrets}
        self._made.clear()

    def take(self, removed: list[str]) -> None:
        """The staged secrets are in force: who uses one that changed gets a new context, or keeps the old one if the secret is no good."""
        changed = {name for name, value in self._staged.items() if name not in self._values or self._values[name] != value}
        self._values = {name: value for name, value in self._staged.items() if name not in removed}
        for security, (names, make) in list(self._users.items()):
            if names & changed and security not in self._made:
                self._renew(security, make)

    def of_chain(self, model: DownstreamTls, cell: int, ssl_cell: int) -> DownstreamSecurity:
        """Raises ValueError with the secret's name."""
        def make() -> TlsContext:
            return server_context(model, self._staged, self.tickets)

        security = DownstreamSecurity(make(), self.region, self.slot, cell, ssl_cell)
        self._users[security] = frozenset({*model.certificates, model.ticket_keys, *_of(model)}), make
        self._made.add(security)
        return security

    def of_cluster(self, model: UpstreamTls, cell: int, ssl_cell: int) -> UpstreamSecurity:
        """Raises ValueError with the secret's name."""
        def make() -> TlsContext:
            return client_context(model, self._staged)

        security = UpstreamSecurity(make(), self.region, self.slot, cell, ssl_cell)
        self._users[security] = frozenset({model.certificate, *_of(model)}), make
        self._made.add(security)
        return security

    def _renew(self, security: Security, make: Callable[[], TlsContext]) -> None:
        try:
            security.renew(make())
        except ValueError as error:
            security.refuse()
            self.log.error("secret refused, the one before stays error=%s", error)


def refused(thing: str, name: str, error: ValueError) -> ConfigError:
    """For whoever compiles a listener or a cluster."""
    return ConfigError([Problem(f'{thing} "{name}": {error}')])


def _of(model: DownstreamTls | UpstreamTls) -> set[str]:
    return {model.validation.trusted_ca} if model.validation else set()
