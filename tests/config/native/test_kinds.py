"""Units: what is read is what was meant, and what is written reads as the same number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.native.kinds import Duration, Size, duration_text, size_text
from meshproxy.config.problems import Problems

ANYWHERE = (None, "x")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("100us", 0.0001),
        ("2d", 172800.0),
        (0, 0.0),
        ("0", 0.0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert Duration().read(text, ANYWHERE, Problems()) == seconds


@pytest.mark.parametrize("text", ["5", 5, "5 s", "s", "-5s", "1s2", "", None, True, [], "1e3s", "99999d"])
def test_what_is_no_duration(text: object) -> None:
    problems = Problems()

    assert not Duration().read(text, ANYWHERE, problems)
    assert problems.refused


@given(st.integers(1, 10**12).map(lambda n: n / 10**6) | st.floats(1e-6, 1e8))
def test_durations_are_written_exactly(seconds: float) -> None:
    assert Duration().read(duration_text(seconds), ANYWHERE, Problems()) == seconds


@pytest.mark.parametrize(("text", "size"), [("64KiB", 65536), ("1 MiB", 1 << 20), ("1.5KiB", 1536), ("1kB", 1000), (512, 512), ("7B", 7)])
def test_sizes(text: object, size: int) -> None:
    assert Size().read(text, ANYWHERE, Problems()) == size


@given(st.integers(0, 1 << 40))
def test_sizes_are_written_exactly(size: int) -> None:
    assert Size().read(size_text(size), ANYWHERE, Problems()) == size
    assert Size().read(Size().write(size), ANYWHERE, Problems()) == size
