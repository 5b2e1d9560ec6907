"""What may be there only once in a configuration, whichever form it came in."""

from __future__ import annotations

from collections.abc import Iterable

from meshproxy.config.problems import Path, Problems
from meshproxy.model import Admin, Listener, PipeAddress


def check_names(kind: str, named: Iterable[tuple[str, Path]], problems: Problems) -> None:
    """Two things of a kind with one name: the later is told."""
    seen: set[str] = set()
    for name, path in named:
        if name in seen:
            problems.error(path, f'{kind} "{name}" is defined twice. Rename or remove one.')
        seen.add(name)


def check_addresses(listeners: Iterable[tuple[Listener, Path]], admin: Admin | None, admin_path: Path, problems: Problems) -> None:
    """Two listeners (the admin API is one too) on one address. Port 0 is a new port each time."""
    seen: dict[str, str] = {}
    for listener, path in listeners:
        for address in listener.addresses:
            if not isinstance(address, PipeAddress) and address.port == 0:
                continue
            other = seen.setdefault(str(address), f'listener "{listener.name}"')
            if other != f'listener "{listener.name}"' or listener.addresses.count(address) > 1:
                problems.error(path, f'listener "{listener.name}": address {address} is taken by {other}. Use another port.')
    if admin is not None and (other := seen.get(str(admin.address))):
        problems.error(admin_path, f"admin: address {admin.address} is taken by {other}. Use another port.")
