"""Path normalisation, beside RFC 3986's own procedure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshproxy.proxy.path import normalized


def remove_dot_segments(path: bytes) -> bytes:
    """RFC 3986 5.2.4 on a path that begins with a slash, %2e being a dot."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        plain = re.sub(rb"%2e", b".", segment, flags=re.IGNORECASE)
        if plain in (b".", b".."):
            if plain == b".." and kept:
                kept.pop()
            if last:
                kept.append(b"")
        else:
            kept.append(segment)
    return b"/" + b"/".join(kept)


@given(st.lists(st.sampled_from([b"/", b".", b"..", b"a", b"b.c", b"%2e", b"%2E.", b"%2f", b"..."]), max_size=12))
def test_dot_segments_go_as_the_rfc_says(parts: list[bytes]) -> None:
    path = b"/" + b"".join(parts)

    assert normalized(path + b"?q=/../x", dots=True, slashes=False) == remove_dot_segments(path) + b"?q=/../x"


@given(st.lists(st.sampled_from([b"/", b"//", b"a", b"?", b"b"]), max_size=12))
def test_slashes_are_merged_before_the_query(parts: list[bytes]) -> None:
    path = b"/" + b"".join(parts)
    before, mark, query = path.partition(b"?")

    assert normalized(path, dots=False, slashes=True) == re.sub(rb"//+", b"/", before) + mark + query


@pytest.mark.parametrize(("path", "expected"), [
    (b"/a/b/../c", b"/a/c"),
    (b"/../../etc", b"/etc"),
    (b"/a/%2e%2E/b", b"/b"),
    (b"/a//../b", b"/b"),
    (b"*", b"*"),
    (b"/..", b"/"),
])  # fmt: skip
def test_examples(path: bytes, expected: bytes) -> None:
    assert normalized(path) == expected
