"""The ClientHello codec beside its twin, on hellos that were made, broken, cut, and sent by real libraries."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.codecs.tlshello import parse_hello_bytes
from tests.corpus import hellos
from tests.fuzz import fuzz_tlshello
from tests.oracles import tlshello as oracle
from tests.oracles.tlshello import BROKEN, MORE, NOT_TLS, TOO_LARGE

repeatable = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def said_of(data: bytes, limit: int = 16384) -> dict | int:
    said = parse_hello_bytes(data, limit=limit)
    assert said == oracle.parse(data, limit), data
    return said


@pytest.mark.parametrize("name", hellos.GOOD)
def test_a_hello_is_found_once_it_is_there(name: str) -> None:
    data = hellos.GOOD[name]
    said = [said_of(data[:length]) for length in range(len(data) + 1)]

    assert isinstance(said[-1], dict)
    found = said.index(said[-1])
    assert said == [MORE] * found + [said[-1]] * (len(said) - found)


@pytest.mark.parametrize("name", hellos.BAD)
def test_what_no_library_would_take_is_refused_and_stays_so(name: str) -> None:
    data = hellos.BAD[name]
    said = [said_of(data[:length]) for length in range(len(data) + 1)]

    assert said[-1] in (NOT_TLS, BROKEN)
    refused = said.index(said[-1])
    assert said == [MORE] * refused + [said[-1]] * (len(said) - refused)


def test_names_are_told_as_the_chain_match_wants_them() -> None:
    said = said_of(hellos.records(hellos.message([hellos.server_name(b"WWW.Example.com"), hellos.alpn(b"h2", b"http/1.1")])))

    assert said["sni"] == b"www.example.com"
    assert said["alpn"] == [b"h2", b"http/1.1"]


def test_openssl_is_understood() -> None:
    said = said_of(hellos.of_openssl("a.test", "h2"))

    assert (said["sni"], said["alpn"], said["highest"]) == (b"a.test", [b"h2"], 0x0304)
    assert (said["ja4"][:4], said["ja4"][8:10]) == ("t13d", "h2")


def test_fingerprints_that_were_published() -> None:
    """FoxIO's example of JA4 is of a browser with these ciphers, extensions and algorithms, whatever their order."""
    kinds = [0x1B, 0, 0x33, 0x10, 0x4469, 0x17, 0x2D, 0x0D, 0x05, 0x23, 0x12, 0x2B, 0xFF01, 0x0B, 0x0A, 0x15]
    contents = dict(hellos.browser_like(b"a.b"))
    said = said_of(hellos.records(hellos.message([(kind, contents.get(kind, b"")) for kind in kinds], ciphers=hellos.BROWSER_CIPHERS)))

    assert said["ja4"] == "t13d1516h2_8daaf6152771_e5627efa2ab1"


def test_a_hello_over_the_limit_is_told_from_one_that_is_not_there_yet() -> None:
    handshake = hellos.message([hellos.server_name(b"a"), (21, bytes(500))])

    assert said_of(hellos.records(handshake)[:9], limit=len(handshake) - 1) == TOO_LARGE
    assert said_of(hellos.records(handshake)[:8], limit=len(handshake) - 1) == MORE
    assert isinstance(said_of(hellos.records(handshake), limit=len(handshake)), dict)
    # Heads of records count as well: one byte of message in each.
    many = hellos.records(handshake, *range(1, 400))
    assert said_of(many[:1000], limit=1000) == TOO_LARGE


def test_the_longest_hello_is_read() -> None:
    room = 16384 - len(hellos.message([(21, b"")]))

    assert isinstance(said_of(hellos.records(hellos.message([(21, bytes(room - 5))]))), dict)
    assert said_of(hellos.records(hellos.message([(21, bytes(room + 1))]), 16000)) == TOO_LARGE


CONTENTS = st.one_of(st.binary(max_size=12), st.sampled_from([content for _, content in hellos.browser_like()]))
KINDS = st.sampled_from([0, 10, 11, 13, 16, 43, 5, 23, 0x3A3A, 0xFF01])
EXTENSIONS = st.one_of(st.none(), st.lists(st.tuples(KINDS, CONTENTS), max_size=6))


@given(EXTENSIONS, st.sampled_from([0x0300, 0x0301, 0x0303, 0x0304]), st.binary(max_size=9), st.lists(st.integers(0, 120), max_size=3))
@repeatable
def test_hellos_that_nobody_wrote_down(extensions: hellos.Extensions | None, version: int, ciphers: bytes, cuts: list[int]) -> None:
    handshake = hellos.message(extensions, version=version, ciphers=ciphers)
    cuts = sorted(min(cut, len(handshake)) for cut in cuts)
    data = hellos.records(handshake, *cuts)
    for length in range(0, len(data) + 1, 3):
        said_of(data[:length])
    said_of(data)
    said_of(data, limit=90)


def test_mutated_hellos() -> None:
    ran = fuzz_tlshello.fuzz(seed=4, iterations=3000)

    assert min(ran) > 300
