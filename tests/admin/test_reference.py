"""The reference page is what the code says."""

from __future__ import annotations

from meshproxy.admin.pages import PAGES
from meshproxy.admin.reference import PLACE, reference


def test_the_page_is_fresh() -> None:
    assert PLACE.read_text() == reference(), "run: python -m meshproxy.admin.reference"


def test_it_has_every_path() -> None:
    for path in PAGES:
        assert f"| `{path}` |" in reference()
