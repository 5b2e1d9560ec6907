"""The certificates for a name, beside Envoy's rules walked through at each handshake."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.workers.tls_certificate_choice import Choices, choices

NAMES = [b"a.test", b"b.test", b"x.a.test", b"*.test", b"*.a.test"]
certificates = st.lists(st.tuples(st.lists(st.sampled_from(NAMES), max_size=3).map(tuple), st.booleans()), min_size=1, max_size=6)
asked = st.sampled_from([b"", b"a.test", b"b.test", b"c.test", b"x.a.test", b"y.a.test", b"y.x.a.test", b"else"])


def walk(listed: list[tuple[tuple[bytes, ...], bool]], full_scan: bool, name: bytes, capable: bool) -> int:
    """The place of the certificate that Envoy shows: for the exact name, the wildcard, all if it may scan, else the first one."""
    parent = b"*." + name.partition(b".")[2]
    phases = [[place for place, (names, _) in enumerate(listed) if wanted in names] for wanted in (name, parent)] if name else []
    if full_scan or not name:
        phases.append(list(range(len(listed))))
    for phase in phases:
        second = None
        for place in phase:
            is_ecdsa = listed[place][1]
            if is_ecdsa == capable:
                return place
            if capable and second is None:
                second = place
        if second is not None:
            return second
    return 0


def look_up(chosen: Choices, name: bytes) -> tuple[int, ...]:
    if not name:
        return chosen.nameless
    return chosen.exact.get(name) or chosen.suffixes.get(name.partition(b".")[2]) or chosen.mismatched


@given(certificates, st.booleans(), asked)
def test_each_client_gets_what_envoy_shows(listed: list[tuple[tuple[bytes, ...], bool]], full_scan: bool, name: bytes) -> None:
    places = look_up(choices(listed, full_scan), name)

    for capable in (True, False):
        expected = walk(listed, full_scan, name, capable)
        fitting = [place for place in places if listed[place][1] == listed[expected][1]]
        # Who cannot verify ECDSA and gets it anyway is refused, whichever certificate it is.
        assert fitting == [expected] or (not capable and listed[expected][1] and listed[places[0]][1])
    assert len({listed[place][1] for place in places}) == len(places)
