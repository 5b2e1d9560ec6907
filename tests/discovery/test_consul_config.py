"""Keys of Consul's as texts, and the copy of them on disk."""

from __future__ import annotations

import base64
import stat
from email.message import Message
from pathlib import Path

import pytest

from meshproxy.discovery.consul_client import ConsulClient, Told
from meshproxy.discovery.consul_config import Copies, Tree, ask, tree_of
from meshproxy.discovery.source import SourceError
from meshproxy.model import ConsulServer, SocketAddress
from tests.peers.consul import Consul

SERVER = ConsulServer(address=SocketAddress("127.0.0.1", 8500))


def row(key: str, value: bytes | None) -> dict:
    return {"Key": key, "Value": base64.b64encode(value).decode() if value is not None else None}


def test_keys_below_a_prefix_are_texts_in_their_order() -> None:
    rows = [row("m/e/b", b"two"), row("m/e/a", "é".encode()), row("m/e2/a", b"x"), row("m/e/", None), row("m/e", b"one"), row("m/e/c", b"")]

    assert tree_of(Told(rows, Message()), "m/e").texts == (("m/e", "one"), ("m/e/a", "é"), ("m/e/b", "two"))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "not a list of keys"), ([7], "another shape"), ([{"Key": 7}], "another shape"),
        ([{"Key": "a", "Value": "!"}], "key a: .*base64"), ([{"Key": "a", "Value": 7}], "key a"),
        ([row("a", b"ab\xff")], "key a: byte 2 is not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named(body: object, error: str) -> None:
    with pytest.raises(SourceError, match=error):
        tree_of(Told(body, Message()), "a")


def test_a_digest_is_of_keys_and_texts() -> None:
    digests = {Tree(texts).digest for texts in ((("a", "bc"),), (("ab", "c"),), (("a", "b"), ("c", "")), (("a", "b"),))}

    assert len(digests) == 4
    assert Tree(()).digest == ""
    assert Tree((("a", "b"),), "7").digest == Tree((("a", "b"),), "9").digest


def test_a_copy_is_the_owners_alone_and_of_one_place(tmp_path: Path) -> None:
    copies, tree = Copies(str(tmp_path / "state")), Tree((("m/a", "x: 1"),))
    assert copies.load(SERVER, "m") is None
    copies.save(SERVER, "m", tree)
    copies.save(SERVER, "m", tree)

    loaded = copies.load(SERVER, "m")
    assert loaded is not None
    assert loaded[0].digest == tree.digest
    path = Path(copies.path(SERVER, "m"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path], "nothing is left of the writing"
    assert copies.load(SERVER, "other") is None
    path.write_text("{")
    assert copies.load(SERVER, "m") is None
    assert Copies("").load(SERVER, "m") is None


def test_a_real_store_is_waited_on(consul: Consul) -> None:
    client = ConsulClient(ConsulServer(address=SocketAddress("127.0.0.1", consul.port)))
    nothing = ask(client, "watched/it")
    assert nothing.texts == ()
    assert int(nothing.index) > 0, "what is not there can be waited for too"
    consul.put("watched/it/a b", "one")
    found = ask(client, "watched/it", [("index", nothing.index), ("wait", "20s")], 20.0)
    assert found.texts == (("watched/it/a b", "one"),)
    client.close()
