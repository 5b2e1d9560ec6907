"""Ticket keys that a node makes: the same in all its workers, another in each epoch and for each node."""

from __future__ import annotations

import pytest

from meshproxy.workers.tls_ticket_keys import TicketKeys, derived


def test_keys_differ_by_root_and_epoch_only() -> None:
    keys = {derived(root, epoch) for root in (b"a" * 32, b"b" * 32) for epoch in range(100)}

    assert len(keys) == 200
    assert {len(key) for key in keys} == {80}
    assert len({key[:16] for key in keys}) == 200                    # the name is how a worker finds the key
    assert derived(b"a" * 32, 7) == derived(b"a" * 32, 7)


def test_a_configured_key_has_its_length() -> None:
    with pytest.raises(ValueError, match="has 80 bytes, not 48"):
        TicketKeys((bytes(80), bytes(48)))
