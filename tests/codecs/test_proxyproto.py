"""The PROXY codec beside its twin; and what it composes, read back by both."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.codecs.proxyproto import compose_proxy_bytes, parse_proxy_bytes
from tests.corpus import proxy_headers as corpus
from tests.fuzz import fuzz_proxyproto
from tests.oracles import proxyproto as oracle
from tests.oracles.proxyproto import BROKEN, MORE, NONE

repeatable = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def said_of(data: bytes) -> dict | int:
    said = parse_proxy_bytes(data)
    assert said == oracle.parse(data), data
    return said


def lengths(data: bytes) -> range:
    return range(0, len(data) + 1, max(len(data) // 300, 1))


@pytest.mark.parametrize("name", corpus.GOOD)
def test_a_header_is_found_once_it_is_there_and_no_byte_of_what_follows_is_its(name: str) -> None:
    data = corpus.GOOD[name]
    for length in lengths(data[:-1]):
        assert said_of(data[:length]) == MORE
    said = said_of(data)

    assert said["length"] == len(data)
    assert said_of(data + b"\0GET") == said


@pytest.mark.parametrize("name", corpus.BAD)
def test_what_is_wrong_is_refused_and_stays_so(name: str) -> None:
    data = corpus.BAD[name]
    said = [said_of(data[:length]) for length in range(len(data) + 1)]

    assert said[-1] == BROKEN
    assert said == sorted(said, reverse=True)


@pytest.mark.parametrize("data", corpus.OTHER)
def test_who_sends_no_header_is_known_by_the_first_byte_that_differs(data: bytes) -> None:
    said = [said_of(data[:length]) for length in range(len(data) + 1)]

    assert said[-1] == NONE
    assert said == sorted(said, reverse=True)
    assert MORE in said


def test_addresses_as_they_are_told() -> None:
    said = said_of(corpus.GOOD["TCP4"])

    assert (said["family"], said["source"], said["destination"]) == (4, corpus.V4, corpus.V4_TO)
    assert said_of(corpus.GOOD["v2, UNIX"])["family"] == 0
    assert said_of(corpus.GOOD["UNKNOWN with addresses"])["family"] == 0


IPS = st.one_of(st.binary(min_size=4, max_size=4).map(lambda last: bytes(10) + b"\xff\xff" + last), st.binary(min_size=16, max_size=16))
PLACES = st.tuples(IPS, st.integers(0, 65535))
TLVS = st.lists(st.tuples(st.integers(4, 255), st.binary(max_size=30)), max_size=4)


@given(st.sampled_from([4, 6]), PLACES, PLACES, TLVS)
@repeatable
def test_what_is_composed_is_read_back(family: int, source: tuple[bytes, int], destination: tuple[bytes, int], tlvs: list) -> None:
    if family == 4:
        source, destination = ((bytes(10) + b"\xff\xff" + ip[12:], port) for ip, port in (source, destination))
    second = compose_proxy_bytes(2, family, source, destination, tlvs)
    first = compose_proxy_bytes(1, family, source, destination)

    assert second == oracle.compose_v2(family, source, destination, tlvs)
    said, said_in_text = said_of(second), said_of(first)
    if said == BROKEN:                           # multicast and the like: composed as told, refused by both
        assert said_in_text == BROKEN
        return
    for read in (said, said_in_text):
        assert (read["family"], read["source"], read["destination"]) == (family, source, destination)
    assert said["tlvs"] == tlvs
    assert said_of(oracle.with_checksum(second))["tlvs"][:-1] == tlvs


def test_without_addresses() -> None:
    nowhere = (bytes(16), 0)

    assert compose_proxy_bytes(1, 0, nowhere, nowhere) == b"PROXY UNKNOWN\r\n"
    assert compose_proxy_bytes(2, 0, nowhere, nowhere, [(2, b"a")]) == corpus.GOOD["v2, LOCAL"]


def test_mutated_headers() -> None:
    ran = fuzz_proxyproto.fuzz(seed=4, iterations=3000)

    assert min(ran) > 150
